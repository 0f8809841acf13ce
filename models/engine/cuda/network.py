"""Detectors of residual blocks on a GPU, as the few kernels of `models.engine.cuda.kernels`."""

import copy
import functools
import importlib
import warnings

import torch
from torch import nn
from torch.nn import functional

from models.engine.base import Engine, blocks_without_pools, ends_in_blocks
from models.engine.centring import centring
from models.engine.heads import channel_matrix
from models.engine.merge import MERGED_VALUES
from models.engine.precision import Arithmetic
from models.stages import is_pool, run_layers

# Of a program: the pixels it takes, its warps, the loads that are under way at a time.
STEM = {"TILE": 128, "num_warps": 4}
# By the bytes of a number. For four warps Triton takes the products of warp groups of a Hopper GPU:
# in 16 bits these gave wrong scores for 3 x 3 x 3 convolutions (H200, Triton 3.6).
CONVOLUTION = {
    4: {"TILE": 128, "num_warps": 4, "num_stages": 3},
    2: {"TILE": 64, "num_warps": 2, "num_stages": 3},
}
HEAD = {"TILE": 128, "num_warps": 4}
PRODUCT = {"PRODUCT": "tf32x3"}  # of float32
LEAST = 16  # rows, columns and inner size that a product on a matrix unit has at least
LEAST_CAPABILITY = 8, 0  # of GPUs that multiply in TF32
LARGEST_INDEX = 2**31 - 1  # into a map: kernels count in 32 bits
MOST_CHANNELS = 32  # of a map: more were not measured


@functools.cache
def kernels():
    """The module of kernels, read where a GPU needs it.

    Raises:
        ImportError: there is no Triton; PyTorch's builds for CUDA have it, except on Windows.
    """
    return importlib.import_module("models.engine.cuda.kernels")


def padded(channels):
    """The channels that a product on a matrix unit takes these as."""
    return max(channels, LEAST)


class CudaStem:
    """The first convolution, its norm and ReLU: rows of the clip to a map (T, R, W, C)."""

    def __init__(self, stem, arithmetic):
        self.conv = conv = stem[0]
        self.sizes = {"KT": conv.kernel_size[0], "KS": conv.kernel_size[1]}
        self.channels, self.reach = conv.out_channels, conv.padding[1]
        self.dtype = arithmetic.dtype
        single = Arithmetic(torch.float32, arithmetic.device)
        self.weight = single.cast(conv.weight.flatten(1).T)

    def __call__(self, clip, means, biases, top, bottom):
        frames, height, width = clip.shape
        pixels = (bottom - top) * width
        out = clip.new_empty(frames, bottom - top, width, self.channels, dtype=self.dtype)
        kernels().stem_kernel[programs(pixels, frames, STEM)](
            clip, means, self.weight, biases, out, frames, height, width, top, pixels,
            **self.sizes, CHANNELS=self.channels, **STEM,
        )  # fmt: skip
        return out


class CudaConv:
    """A convolution's numbers as the kernels take them."""

    def __init__(self, conv, arithmetic):
        channels, outputs = conv.in_channels, conv.out_channels
        self.sizes = {
            **{"KT": conv.kernel_size[0], "KS": conv.kernel_size[1]},
            **{"DT": conv.dilation[0], "DS": conv.dilation[1]},
        }
        self.channels, self.outputs = channels, outputs
        taps = conv.weight.flatten(2).permute(2, 1, 0)  # (taps, C_in, C_out)
        weight = functional.pad(taps, (0, 0, 0, padded(channels) - channels))
        self.weight, self.bias = arithmetic.cast(weight), arithmetic.cast(conv.bias)


class CudaBlock:
    """A folded residual block: a map (T, R, W, C_in) to (T, R, W, C_out), or channels first."""

    def __init__(self, block, arithmetic, channels_first=False):
        self.first, self.second = (
            CudaConv(conv, arithmetic) for conv in (block.conv1, block.conv2)
        )
        self.channels_first = channels_first
        self.mix = arithmetic.cast(channel_matrix(block.conv3).T)
        shortcut, channels = channel_matrix(block.shortcut[0]).T, self.first.channels
        shortcut = functional.pad(shortcut, (0, 0, 0, padded(channels) - channels))
        self.shortcut = arithmetic.cast(shortcut)
        self.bias = arithmetic.cast(block.conv3.bias)

    def __call__(self, x):
        frames, rows, width, channels = x.shape
        sizes, outputs = (frames, rows, width), self.first.outputs
        y = x.new_empty(*sizes, outputs)
        launch = CONVOLUTION[x.element_size()]
        grid = programs(rows * width, frames, launch)
        kernels().first_kernel[grid](
            x, self.first.weight, self.first.bias, y, *sizes,
            **self.first.sizes, CIN=channels, PADDED=padded(channels), COUT=outputs, **launch,
            **PRODUCT,
        )  # fmt: skip
        out = x.new_empty(*((outputs, *sizes) if self.channels_first else (*sizes, outputs)))
        kernels().second_kernel[grid](
            y, self.second.weight, self.second.bias, self.mix, x, self.shortcut, self.bias, out,
            *sizes, **self.second.sizes, COUT=outputs, ENTRY=channels,
            ENTRY_PADDED=padded(channels), CHANNELS_FIRST=self.channels_first, **launch,
            **PRODUCT,
        )  # fmt: skip
        return out


class CudaHead:
    """The end of a level: features (C, T, R, W) to its part of the merged map, float32."""

    def __init__(self, level, merge_matrix, arithmetic):
        heads, projection = level.probe.QK_heads, level.projection[0]
        self.correlation = arithmetic.cast(heads.correlation)
        self.probe_bias = arithmetic.cast(heads.bias)
        mix = level.probe.conv[0]
        outputs, projected = merge_matrix.shape
        more = LEAST - projected
        matrix = functional.pad(channel_matrix(projection), (0, 0, 0, more))
        bias = functional.pad(projection.bias, (0, more))
        merge = functional.pad(merge_matrix, (0, more, 0, LEAST - outputs))
        numbers = channel_matrix(mix), mix.bias, matrix, bias, merge
        self.numbers = [arithmetic.cast(tensor) for tensor in numbers]
        self.outputs = outputs
        # Nothing is left to add.
        self.offset = merge_matrix.new_zeros(outputs, self.correlation.shape[-1])

    def __call__(self, features):
        channels, frames, rows, width = features.shape
        pixels = rows * width
        x = torch.bmm(self.correlation, features.flatten(2))
        out = x.new_empty(self.outputs, frames, rows, width, dtype=torch.float32)
        kernels().head_kernel[programs(pixels, frames, HEAD)](
            x, self.probe_bias, *self.numbers, out, frames, pixels,
            CHANNELS=channels, PADDED=LEAST, OUTPUTS=self.outputs,
            **HEAD, **PRODUCT,
        )  # fmt: skip
        return out


class CudaLevel:
    """A level of the detector: its layers and its head."""

    def __init__(self, level, merge_matrix, arithmetic):
        *layers, last = level.layers
        self.layers = [make_layer(layer, arithmetic) for layer in layers]
        self.layers.append(CudaBlock(last, arithmetic, channels_first=True))
        self.head = CudaHead(level, merge_matrix, arithmetic)
        self.offset = self.head.offset


def make_layer(layer, arithmetic):
    return pool if is_pool(layer) else CudaBlock(layer, arithmetic)


def programs(pixels, frames, launch):
    """How many programs there are along each axis of a kernel's grid."""
    return -(-pixels // launch["TILE"]), frames


def pool(x):
    """Maxima over 2 x 2 pixels of (T, R, W, C); an odd last row or column is left out."""
    rows, width = (side // 2 * 2 for side in x.shape[1:3])
    tall = torch.maximum(x[:, 0:rows:2, :width], x[:, 1:rows:2, :width])
    return torch.maximum(tall[:, :, 0::2], tall[:, :, 1::2]).contiguous()


def reach(layers, scale=1):
    """(rows of the image that layers look up and down, pixels of it that one of theirs is)."""
    rows = 0
    for layer in layers:
        if is_pool(layer):
            scale *= 2
        else:
            rows += scale * (layer.conv1.padding[1] + layer.conv2.padding[1])
    return rows, scale


@functools.cache
@torch.no_grad()
def kernels_run(device):
    """Whether Triton builds and starts a kernel on a device; it wants a C compiler, for example."""
    arithmetic = Arithmetic(torch.float32, device)
    clip = torch.zeros(1, 1, 1, device=device)
    try:
        with torch.cuda.device_of(clip):
            stem = nn.utils.skip_init(nn.Conv3d, 1, 8, 1, device=device)  # draws no numbers
            CudaStem([stem], arithmetic)(clip, *centring(stem, clip), 0, 1)
    except Exception as error:  # of many kinds, by what is missing
        reason = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(f"Triton runs no kernel on {device} ({reason[0]}): slower ones", stacklevel=2)
        return False
    return True


class CudaNetwork(Engine):
    """Runs a detector over bands of rows of a clip, with the rows around them that it looks at."""

    @staticmethod
    def computes_in(arithmetic):
        device = arithmetic.device
        if device.type != "cuda" or torch.version.hip:
            return False
        if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
            return False
        return kernels_run(device)

    @staticmethod
    def takes(stages):
        """As `Engine.takes`; every level ends in a block, and channels are powers of two."""
        if not (Engine.takes(stages) and ends_in_blocks(stages)):
            return False
        widths = [block.conv3.out_channels for block in blocks_without_pools(stages)]
        ends = [level.projection[0].out_channels for level in stages.levels]
        entry = stages.trunk[0][0].out_channels
        return (
            all(width & (width - 1) == 0 for width in (entry, *widths))
            and min(widths) >= LEAST
            and max(entry, *widths) <= MOST_CHANNELS
            and max(*ends, stages.final.in_channels) <= LEAST
        )

    def __init__(self, stages, seqlen, arithmetic):
        self.seqlen, self.dtype = seqlen, arithmetic.dtype
        self.map_arithmetic = Arithmetic(torch.float32, arithmetic.device)
        stem, *rest = stages.trunk
        self.stem = CudaStem(stem, arithmetic)
        self.trunk = [make_layer(layer, arithmetic) for layer in rest]
        self.levels = [
            CudaLevel(level, merge_matrix, arithmetic)
            for level, merge_matrix in zip(stages.levels, stages.merge_matrices(), strict=True)
        ]
        rows, scale = reach(rest)
        reaches = [reach(level.layers, scale) for level in stages.levels]
        self.scales = [scale for _, scale in reaches]
        self.band_multiple = max(self.scales)
        most = self.stem.reach + rows + max(rows for rows, _ in reaches)
        self.halo = -(-most // self.band_multiple) * self.band_multiple

    def device_rows(self, width):
        """The most rows that a band may have, for maps that 32 bits count the numbers of."""
        rows = LARGEST_INDEX // (MOST_CHANNELS * self.seqlen * width) - 2 * self.halo
        return max(rows, self.band_multiple)

    def twin(self):
        return copy.copy(self)  # with means of its own

    def start(self, clip, rows):
        height, width = clip.shape[1:]
        self.means, self.biases = centring(self.stem.conv, clip)
        return [(height // scale, width // scale) for scale in self.scales]

    def push(self, clip, rows, tile, workers):
        """Rows (a slice) of the clip (T, H, W) to the levels' maps of them, (8 or 1, T, r, w).

        Raises:
            ValueError: the frames are too large for numbers of 32 bits to count their pixels.
        """
        height, width = clip.shape[1:]
        top, bottom = max(rows.start - self.halo, 0), min(rows.stop + self.halo, height)
        largest = MOST_CHANNELS * self.seqlen * (bottom - top) * width
        if max(largest, clip.numel()) > LARGEST_INDEX:
            raise ValueError(
                f"frames of {height}x{width}: too large for the fast engine on a GPU; expected "
                "smaller ones, or --engine reference"
            )
        maps = []
        with torch.cuda.device_of(clip):  # where kernels are started
            clip = clip.float().contiguous()
            x = run_layers(self.trunk, self.stem(clip, self.means, self.biases, top, bottom))
            for level, scale in zip(self.levels, self.scales, strict=True):
                out = level.head(run_layers(level.layers, x))
                first = rows.start // scale
                last = rows.stop // scale
                maps.append(out[:, :, first - top // scale : last - top // scale])
        return maps

    def memory_needed(self, rows, width, tile, threads):
        # Three maps of a block or a head, and what is merged.
        maps = 3 * MOST_CHANNELS * self.dtype.itemsize
        merged = MERGED_VALUES * torch.float32.itemsize
        return self.seqlen * (rows + 2 * self.halo) * width * (maps + merged)
