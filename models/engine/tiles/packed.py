"""Runs temporal levels in bfloat16 on a CPU, whose matrix units want channels last.

The same tiles of pixels as in `models.engine.tiles.temporal`, but as maps (T, P, C), channels
innermost: a (k,1,1) convolution is a (k,1) convolution of an image of T rows and P columns, its
kernel packed once as oneDNN wants it, and bias, shortcut and ReLU are applied before a sum leaves
the registers.
The first convolution and the merging of the levels are in float32.
"""

import torch
from torch.nn import functional

from models.engine import onednn
from models.engine.merge import MERGED_VALUES
from models.engine.precision import Arithmetic
from models.engine.tiles.network import TiledLevel, TiledNetwork

TILE_PIXELS = 1024  # a call of oneDNN takes 30 microseconds before it computes
GROUP = 8  # channels that one matrix of the probe takes
AS_GROUPS = torch.complex128  # as which GROUP numbers in bfloat16 are copied at once: 16 bytes


class PackedConv:
    """A folded convolution along time of a map (T, P, C)."""

    def __init__(self, weight, bias, padding, dilation, frames):
        kernel = weight.detach().bfloat16().reshape(*weight.shape[:3], 1)
        geometry = (padding, 0), (dilation, 1)
        packed = onednn.pack_kernel(kernel, *geometry, frames, TILE_PIXELS)
        bias = None if bias is None else bias.detach().bfloat16()
        self.layer = packed, bias, *geometry

    @classmethod
    def of(cls, conv, frames):
        return cls(conv.weight, conv.bias, conv.padding[0], conv.dilation[0], frames)

    def __call__(self, x, activation="relu"):
        return as_map(onednn.convolve_fused(onednn.as_image(x), *self.layer, activation))

    def add(self, x, other):
        """relu(self(x) + other)."""
        image, other = onednn.as_image(x), onednn.as_image(other)
        return as_map(onednn.convolve_onto(other, image, *self.layer))


def as_map(image):
    """The way back from `onednn.as_image`."""
    x = image[0].permute(1, 2, 0)
    # Of a single pixel and frame torch cannot tell the order of the axes.
    return x if x.stride(2) == 1 else x.reshape(-1).view(x.shape)


class PackedStem:
    """The first convolution, from intensities (T, P) float32 to a map after its ReLU."""

    def __init__(self, conv):
        self.size, self.reach = conv.kernel_size[0], conv.padding[0]
        self.weight = conv.weight.detach().float().flatten(1).T.contiguous()  # (K, C)
        self.bias = conv.bias.detach().float()
        self.channels = len(self.bias)

    def __call__(self, clip):
        frames, pixels = clip.shape
        padded = functional.pad(clip, (0, 0, self.reach, self.reach))
        taps = padded.as_strided((frames, pixels, self.size), (pixels, 1, pixels))
        weight = self.weight.expand(frames, *self.weight.shape)
        return torch.baddbmm(self.bias, taps, weight).relu_().bfloat16()


class PackedBlock:
    """A folded TDResBlock."""

    def __init__(self, block, frames):
        self.conv1, self.conv2, self.conv3, self.shortcut = (
            PackedConv.of(conv, frames)
            for conv in (block.conv1, block.conv2, block.conv3, block.shortcut[0])
        )
        self.channels = block.conv3.out_channels

    def __call__(self, x):
        return self.conv3.add(self.conv2(self.conv1(x)), self.shortcut(x, "none"))


class PackedHeads:
    """The folded heads of a `TPro`, then ReLU: (T, P, C) to the same.

    The matrix units want few wide matrices: GROUP channels share one, (T GROUP) x (T GROUP), that
    is zero between different channels.
    """

    def __init__(self, heads):
        correlation, bias = heads.correlation.double(), heads.bias.double()  # (C, T, T), (C, T)
        channels, frames, _ = correlation.shape
        self.linears = []
        for first in range(0, channels, GROUP):
            wide = correlation.new_zeros(frames, GROUP, frames, GROUP)
            for i in range(GROUP):
                wide[:, i, :, i] = correlation[first + i]
            weight = wide.flatten(2).flatten(0, 1).bfloat16()
            packed = onednn.pack_matrix(weight, TILE_PIXELS)
            self.linears.append((packed, bias[first : first + GROUP].T.flatten().bfloat16()))

    def __call__(self, x):
        frames, pixels, channels = x.shape
        inputs = x.new_empty(channels // GROUP, pixels, frames * GROUP)
        inputs.view(AS_GROUPS).copy_(x.view(AS_GROUPS).permute(2, 1, 0))
        out = x.new_empty(frames, pixels, channels)
        groups = out.view(AS_GROUPS)  # (T, P, C / GROUP)
        for i, (weight, bias) in enumerate(self.linears):
            groups[:, :, i] = onednn.linear_packed(inputs[i], weight, bias).view(AS_GROUPS).T
        return out


class PackedLevel(TiledLevel):
    """Blocks, pools and head of one level."""

    def __init__(self, level, merge_matrix, seqlen):
        super().__init__(level, seqlen, lambda block: PackedBlock(block, seqlen))
        convs = [PackedConv.of(conv, seqlen) for conv in (level.probe.conv[0], level.projection[0])]
        self.head = [PackedHeads(level.probe.QK_heads), *convs]
        self.merge = PackedConv(merge_matrix[:, :, None], None, 0, 1, seqlen)
        self.offset = merge_matrix.new_zeros(len(merge_matrix), seqlen)  # nothing is left to add

    def run(self, x, rows, width, out):
        """Writes the map of (T, rows * width, C) to `out`, (8, T, r, w) float32."""
        for layer in self.layers:
            if layer is None:
                x = pool_after_relu(x.unflatten(1, (rows, width)))
                rows, width = x.shape[1:3]
                x = x.flatten(1, 2)
            else:
                x = layer(x)
        for layer in self.head:
            x = layer(x)
        out.copy_(self.merge(x, "none").unflatten(1, (rows, width)).permute(3, 0, 1, 2))


def pool_after_relu(images):
    """Maxima over 2 x 2 pixels of (T, R, W, C), in which nothing is below 0.

    An odd last row or column is left out. Numbers in bfloat16 that are not negative are ordered as
    the integers of the same bits, which are compared several times faster.
    """
    _, rows, width, _ = images.shape
    bits = images[:, : rows // 2 * 2, : width // 2 * 2].view(torch.int16)
    tall = torch.maximum(bits[:, 0::2], bits[:, 1::2])
    return torch.maximum(tall[:, :, 0::2], tall[:, :, 1::2]).view(torch.bfloat16)


class PackedTemporalNetwork(TiledNetwork):
    """A detector of temporal levels, as packed layers."""

    map_arithmetic = Arithmetic(torch.float32, torch.device("cpu"))
    tile_pixels = TILE_PIXELS

    @staticmethod
    def takes(stages):
        """As `TiledNetwork.takes`; the channels of every probe make whole groups."""
        return TiledNetwork.takes(stages) and all(
            len(level.probe.QK_heads.bias) % GROUP == 0 for level in stages.levels
        )

    @staticmethod
    def computes_in(arithmetic):
        in_bf16_on_cpu = arithmetic.dtype == torch.bfloat16 and arithmetic.device.type == "cpu"
        return in_bf16_on_cpu and onednn.has_packed_layers()

    def __init__(self, stages, seqlen, arithmetic):
        levels = [
            PackedLevel(level, merge_matrix, seqlen)
            for level, merge_matrix in zip(stages.levels, stages.merge_matrices(), strict=True)
        ]
        super().__init__(PackedStem(stages.trunk[0][0]), levels, seqlen)
        self.made_from = stages, seqlen, arithmetic

    def __reduce__(self):  # packed kernels cannot be copied: a copy packs its own
        return PackedTemporalNetwork, self.made_from

    def take_pooled(self, frames, height, width, scratch):
        pooled = torch.empty(frames, height, width, self.stem.channels, dtype=torch.bfloat16)
        return pooled.permute(0, 3, 1, 2)

    def run_stem(self, clip, pooled, map_tiles, scratch):
        clip = clip.float()
        x = self.stem(clip.flatten(1))
        size = clip.shape[1:]
        pooled.copy_(pool_after_relu(x.unflatten(1, size)).permute(0, 3, 1, 2))
        for level, out in zip(self.levels, map_tiles, strict=True):
            if out is not None:
                level.run(x, *size, out)

    def run_level(self, level, pooled, out, scratch):
        x = pooled.permute(0, 2, 3, 1)
        level.run(x.flatten(1, 2), *pooled.shape[2:], out)

    def memory_needed(self, rows, width, tile_pixels, threads):
        tile = max(tile_pixels, 2 * self.band_multiple**2)
        # Maps of a tile are half as large, but the C library keeps some that were given back.
        of_tile = 2 * (3 * self.channels + self.stem.channels // 2)
        values = MERGED_VALUES * rows * width + threads * of_tile * tile
        return torch.float32.itemsize * (self.seqlen + 4) * values
