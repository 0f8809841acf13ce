"""Runs levels whose every layer but the pooling sees one temporal profile at a time.

Such a level is a chain of small matrix products over pixels, run over strips of pixels that stay in
cache. A buffer is (stored frames, C, P), pixels contiguous. In it the K temporal taps of all
channels of one output frame are K C consecutive rows, so a temporal convolution is one batched
product with overlapping views of the buffer, nothing copied. For the dilated taps (frames t-2, t,
t+2) to be consecutive, frames are stored even ones first:

    pad, 0, 2, 4, ..., pad, 1, 3, 5, ..., pad          (T + 3 stored frames)

Each pad, the middle one shared, stands for the frame of zeros beyond either end of the clip. See
`models.probe_head` for the shifted ReLU.
"""

import torch

from models.probe_head import ProbeHead, matrix


def frame_order(frames):
    """The frame held by each stored frame between the outer pads; -1 at the middle pad."""
    return [*range(0, frames, 2), -1, *range(1, frames, 2)]


def taps(buffer, first, count, step, size):
    """(count, size C, P) view of (frames, C, P): item i is frames first + i step and following."""
    _, channels, pixels = buffer.shape
    frame = channels * pixels
    return buffer.as_strided(
        (count, size * channels, pixels),
        (step * frame, pixels, 1),
        buffer.storage_offset() + first * frame,
    )


def product(weight, x, out):
    """out[i] = weight @ x[i]."""
    return torch.bmm(weight.expand(len(x), *weight.shape), x, out=out)


def tap_matrix(conv):
    """(C_out, K C_in) float64 matrix of a (K,1,1) convolution, taps outermost as in `taps`."""
    return conv.weight.double().flatten(2).transpose(1, 2).flatten(1)


def constant_response(conv, offset):
    """(C_out,) what a convolution gives for the constant `offset` (C_in,), its bias included."""
    return conv.bias.double() + conv.weight.double().sum((2, 3, 4)) @ offset


class ParityBuffer:
    """(T + 3, C, P) frames, even ones first, with pads as the module says."""

    def __init__(self, storage, frames):
        self.storage = storage
        self.evens, self.odds = (frames + 1) // 2, frames // 2

    @property
    def inner(self):
        """(T + 1, C, P): all frames and the middle pad."""
        return self.storage[1:-1]

    @property
    def halves(self):
        return self.storage[1 : 1 + self.evens], self.storage[2 + self.evens : -1]

    def shifted_relu(self, floor):
        """Shifted ReLU in place; pads become `floor`, which stands for zero."""
        torch.maximum(self.inner, floor, out=self.inner)
        for pad in (0, 1 + self.evens, -1):
            self.storage[pad] = floor


class TemporalStem:
    """The first convolution, from intensities: (T, P) to a parity buffer before the ReLU."""

    def __init__(self, conv, numbers):
        self.size, self.reach = conv.kernel_size[0], conv.padding[0]
        self.weight = numbers.cast(tap_matrix(conv))
        self.offset = conv.bias.double()
        self.floor = numbers.cast(-self.offset[:, None])

    def __call__(self, strip, scratch):
        frames, pixels = len(strip), strip[0].numel()
        clip = scratch.take("clip", frames + 2 * self.reach, 1, pixels)
        clip[: self.reach] = 0
        clip[self.reach + frames :] = 0
        clip[self.reach : self.reach + frames, 0].view(strip.shape).copy_(strip)
        storage = scratch.take("a", frames + 3, len(self.weight), pixels)
        x = ParityBuffer(storage, frames)
        for parity, half in enumerate(x.halves):
            product(self.weight, taps(clip, parity, len(half), 2, self.size), half)
        return x


class TemporalBlock:
    """A folded TDResBlock, from parity buffer to parity buffer, the output in scratch `name`."""

    def __init__(self, block, offset, numbers):
        self.weights = [numbers.cast(tap_matrix(conv)) for conv in (block.conv1, block.conv2)]
        self.mix, self.shortcut = (
            numbers.cast(matrix(block.conv3)),
            numbers.cast(matrix(block.shortcut)),
        )
        inner = constant_response(block.conv1, offset)
        outer = constant_response(block.conv2, inner)
        self.offset = constant_response(block.conv3, outer) + matrix(block.shortcut) @ offset
        self.floors = [numbers.cast(-b[:, None]) for b in (inner, outer, self.offset)]

    def __call__(self, x, scratch, name):
        first, second = self.weights
        frames, channels = x.evens + x.odds, len(self.mix)
        pixels = x.storage.shape[-1]
        # One product over both parities; the item at the middle pad means nothing.
        y = scratch.take("y", frames + 1, channels, pixels)
        product(first, taps(x.storage, 0, frames + 1, 1, 3), y)
        y_halves = y[: x.evens], y[x.evens + 1 :]
        # conv2 needs neighbours in time: back to the natural order, one pad at each end.
        natural = scratch.take(name, frames + 2, channels, pixels)
        for parity, half in enumerate(y_halves):
            torch.maximum(half, self.floors[0], out=natural[1 + parity : -1 : 2])
        natural[0] = self.floors[0]
        natural[-1] = self.floors[0]
        for parity, half in enumerate(y_halves):
            product(second, taps(natural, parity, len(half), 2, 3), half)
        torch.maximum(y, self.floors[1], out=y)
        # `natural` has done its work: its memory, still in cache, takes the output.
        out = ParityBuffer(scratch.take(name, frames + 3, channels, pixels), frames)
        product(self.mix, y, out.inner)
        out.inner.baddbmm_(self.shortcut.expand(frames + 1, *self.shortcut.shape), x.inner)
        out.shifted_relu(self.floors[2])
        return out


def pool(x, rows, width, scratch, name):
    """Maximum over 2x2 pixels, an odd last row or column left out, of P = rows * width pixels.

    It commutes with ReLU, shifted or not.
    """
    frames, channels, _ = x.storage.shape
    images = x.storage.view(frames, channels, rows, width)[..., : rows // 2 * 2, :]
    height, side = rows // 2, width // 2
    tall = scratch.take("y", frames, channels, height, width)
    torch.maximum(images[..., 0::2, :], images[..., 1::2, :], out=tall)
    small = scratch.take(name, frames, channels, height, side)
    torch.maximum(tall[..., 0 : 2 * side : 2], tall[..., 1 : 2 * side : 2], out=small)
    return ParityBuffer(small.view(frames, channels, height * side), x.evens + x.odds)


class TemporalLevel:
    """Stem, pools, blocks and head of one level: rows of the clip to rows of the level's map."""

    def __init__(self, stem, level, share, seqlen, numbers):
        self.stem = TemporalStem(stem, numbers)
        self.layers = []  # None for a pool
        self.scale = 1
        offset = self.stem.offset
        for layer in level.layers:
            if hasattr(layer, "conv1"):
                block = TemporalBlock(layer, offset, numbers)
                offset = block.offset
                self.layers.append(block)
            else:
                self.scale *= 2
                self.layers.append(None)
        self.head = ProbeHead(level, share, offset, frame_order(seqlen), numbers)
        self.offset = self.head.offset

    def prepare(self, band, strip_pixels):
        """Cuts (T, R, W) rows of the clip into strips.

        Returns:
            (map, strips): the level's (8, T, R // scale, W // scale), filled once `run` was called
            with each of the strips.
        """
        frames, rows, width = band.shape
        height, side = rows // self.scale, width // self.scale
        shape = self.head.out_channels, frames, height, side
        out = self.head.correlation.new_empty(shape)
        if self.scale == 1:
            band, out_rows = band.reshape(frames, 1, rows * width), out.view(*shape[:2], 1, -1)
            cuts = range(0, rows * width, strip_pixels)
            strips = [
                (band[..., i : i + strip_pixels], out_rows[..., i : i + strip_pixels]) for i in cuts
            ]
        else:
            step = max(1, strip_pixels // side)
            strips = [
                (
                    band[:, i * self.scale : min(i + step, height) * self.scale],
                    out[:, :, i : i + step],
                )
                for i in range(0, height, step)
            ]
        return out, strips

    def run(self, strip, scratch):
        """Computes one strip of `prepare`."""
        pixels, out = strip
        out.copy_(self._strip(pixels, scratch).view(out.shape))

    def _strip(self, strip, scratch):
        _, rows, width = strip.shape
        x = self.stem(strip, scratch)
        here, there = "a", "b"  # of the input and the output of a layer
        fresh = True  # the stem's ReLU waits for the pool, which leaves less to do
        for layer in self.layers:
            if layer is None:
                x = pool(x, rows, width, scratch, there)
                rows, width = rows // 2, width // 2
                here, there = there, here
            if fresh:
                x.shifted_relu(self.stem.floor)
                fresh = False
            if layer is not None:
                x = layer(x, scratch, there)
                here, there = there, here
        return self.head(x.inner.transpose(0, 1), scratch, ("y", there))
