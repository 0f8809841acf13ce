"""Runs levels whose every layer but the pooling sees one temporal profile at a time.

Such a level is a chain of small matrix products over pixels, run over tiles of pixels that stay in
a core's cache. A buffer is (stored frames, C, P), pixels contiguous. In it the K temporal taps of
all channels of one output frame are K C consecutive rows, so a temporal convolution is one batched
product with overlapping views of the buffer, nothing copied. For the dilated taps (frames t-2, t,
t+2) to be consecutive, frames are stored even ones first:

    pad, 0, 2, 4, ..., pad, 1, 3, 5, ..., pad          (T + 3 stored frames)

A pad stands for the frame of zeros beyond either end of the clip; the middle one serves the even
frames as their end and the odd ones as their beginning. See `models.engine.heads` for the shifted
ReLU.
"""

import torch

from models.engine.differences import difference_taps
from models.engine.heads import LevelHead, channel_matrix
from models.engine.merge import MERGED_VALUES
from models.engine.tape import Tape, shaped
from models.engine.tiles.network import TiledLevel, TiledNetwork


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


def tap_matrix(kernel):
    """(C_out, K C_in) float64 matrix of a (K,1,1) kernel, taps outermost as in `taps`."""
    return kernel.double().flatten(2).transpose(1, 2).flatten(1)


def constant_response(conv, offset):
    """(C_out,) what a convolution gives for the constant `offset` (C_in,), its bias included."""
    return conv.bias.double() + conv.weight.double().sum((2, 3, 4)) @ offset


class ParityBuffer:
    """(T + 3, C, P) frames, even ones first, with pads as the module says.

    Args:
        storage: the frames.
        index: which of the three flat buffers of memory they are in.

    Attributes:
        others: the other two.
    """

    def __init__(self, storage, index):
        self.storage = storage
        self.others = tuple(other for other in range(3) if other != index)
        self.frames = len(storage) - 3
        self.evens = (self.frames + 1) // 2

    @property
    def inner(self):
        """(T + 1, C, P): all frames and the middle pad."""
        return self.storage[1:-1]

    @property
    def halves(self):
        return self.storage[1 : 1 + self.evens], self.storage[2 + self.evens : -1]

    def record_relu(self, tape, floor):
        """Shifted ReLU in place; pads become `floor`, which stands for zero."""
        tape.add(torch.maximum, self.inner, floor, out=self.inner)
        for pads in (self.storage[:: 1 + self.evens], self.storage[-1]):
            tape.add(pads.copy_, floor)


class TemporalStem:
    """The first convolution, from intensities to a parity buffer before the ReLU."""

    def __init__(self, conv, arithmetic):
        self.size, self.reach = conv.kernel_size[0], conv.padding[0]
        self.weight = arithmetic.cast(tap_matrix(conv.weight))
        self.offset = conv.bias.double()
        self.floor = arithmetic.cast(-self.offset[:, None])
        self.channels = len(self.weight)

    def record(self, tape, frames, pixels, buffers):
        """Records a run; returns (T, P), where to write the intensities, and the parity buffer."""
        clip = shaped(buffers[1], frames + 2 * self.reach, 1, pixels)
        tape.add(clip[: self.reach].zero_)
        tape.add(clip[self.reach + frames :].zero_)
        x = ParityBuffer(shaped(buffers[0], frames + 3, self.channels, pixels), 0)
        for parity, half in enumerate(x.halves):
            tape.add_product(self.weight, taps(clip, parity, len(half), 2, self.size), half)
        return clip[self.reach : self.reach + frames, 0], x


class TemporalBlock:
    """A folded TDResBlock, from parity buffer to parity buffer.

    A temporal-difference kernel has two taps on the differences of frames stored one after the
    other: see `models.engine.differences`.
    """

    def __init__(self, block, offset, arithmetic):
        kernels = difference_taps(block.conv1.weight), block.conv2.weight
        self.weights = [arithmetic.cast(tap_matrix(kernel)) for kernel in kernels]
        mix, shortcut = channel_matrix(block.conv3), channel_matrix(block.shortcut[0])
        self.mix, self.shortcut = arithmetic.cast(mix), arithmetic.cast(shortcut)
        inner = constant_response(block.conv1, offset)
        outer = constant_response(block.conv2, inner)
        self.offset = constant_response(block.conv3, outer) + shortcut @ offset
        self.floors = [arithmetic.cast(-b[:, None]) for b in (inner, outer, self.offset)]
        self.channels = len(self.mix)

    def record(self, tape, x, buffers):
        first, second = self.weights
        frames, pixels = x.frames, x.storage.shape[2]
        one, other = x.others
        differences = shaped(buffers[other], frames + 2, *x.storage.shape[1:])
        tape.add(torch.sub, x.storage[1:], x.storage[:-1], out=differences)
        # In parity order; the item at the middle pad means nothing.
        y = shaped(buffers[one], frames + 1, self.channels, pixels)
        halves = y[: x.evens], y[x.evens + 1 :]
        for start, half in zip((0, x.evens + 1), halves, strict=True):
            tape.add_product(first, taps(differences, start, len(half), 1, 2), half)
        # conv2 needs neighbours in time: its input is in the natural order, one pad at each end.
        natural = shaped(buffers[other], frames + 2, self.channels, pixels)
        for parity, half in enumerate(halves):
            tape.add(torch.maximum, half, self.floors[0], out=natural[1 + parity : -1 : 2])
        tape.add(natural[:: frames + 1].copy_, self.floors[0])
        for parity, half in enumerate(halves):
            tape.add_product(second, taps(natural, parity, len(half), 2, 3), half)
        tape.add(torch.maximum, y, self.floors[1], out=y)
        # `natural` has done its work: its memory, still in cache, takes the output.
        out = ParityBuffer(shaped(buffers[other], frames + 3, self.channels, pixels), other)
        tape.add_product(self.mix, y, out.inner)
        shortcut = self.shortcut.expand(frames + 1, *self.shortcut.shape)
        tape.add(out.inner.baddbmm_, shortcut, x.inner)
        out.record_relu(tape, self.floors[2])
        return out


def record_pool(tape, images, tall, small):
    """Records the maximum over 2x2 pixels; an odd last row or column is left out.

    It commutes with ReLU, shifted or not.

    Args:
        images: (frames, C, R, W).
        tall, small: flat buffers, for the maxima of pairs of rows and for the result.

    Returns:
        (frames, C, R // 2, W // 2) in `small`.
    """
    *outer, rows, width = images.shape
    height, side = rows // 2, width // 2
    tall, small = shaped(tall, *outer, height, width), shaped(small, *outer, height, side)
    pairs = images[..., : 2 * height, :]
    tape.add(torch.maximum, pairs[..., 0::2, :], pairs[..., 1::2, :], out=tall)
    pairs = tall[..., : 2 * side]
    tape.add(torch.maximum, pairs[..., 0::2], pairs[..., 1::2], out=small)
    return small


class TemporalLevel(TiledLevel):
    """Blocks, pools and head of one level."""

    def __init__(self, level, merge_matrix, offset, seqlen, arithmetic):
        def make_block(layer):
            nonlocal offset
            block = TemporalBlock(layer, offset, arithmetic)
            offset = block.offset
            return block

        super().__init__(level, seqlen, make_block)
        self.head = LevelHead(level, merge_matrix, offset, arithmetic, frame_order(seqlen))
        self.offset = self.head.offset

    def record(self, tape, x, rows, width, buffers):
        """Records a tile of the level's input, a parity buffer, to (8, T, r, w) of its map."""
        for layer in self.layers:
            if layer is None:
                images = x.storage.unflatten(2, (rows, width))
                one, other = x.others
                small = record_pool(tape, images, buffers[one], buffers[other])
                x = ParityBuffer(small.flatten(2), other)
                rows, width = rows // 2, width // 2
            else:
                x = layer.record(tape, x, buffers)
        features = x.inner.transpose(0, 1)
        small = self.head.record(tape, features, [buffers[other] for other in x.others])
        return small.unflatten(2, (rows, width))


class TemporalNetwork(TiledNetwork):
    """A detector of temporal levels, as products recorded for each size of tile."""

    band_pixels = 32768

    def __init__(self, stages, seqlen, arithmetic):
        stem = TemporalStem(stages.trunk[0][0], arithmetic)
        levels = [
            TemporalLevel(level, merge_matrix, stem.offset, seqlen, arithmetic)
            for level, merge_matrix in zip(stages.levels, stages.merge_matrices(), strict=True)
        ]
        super().__init__(stem, levels, seqlen)
        self.arithmetic = self.map_arithmetic = arithmetic

    def take_pooled(self, frames, height, width, scratch):
        return scratch.take("pooled", frames + 3, self.stem.channels, height, width)

    def run_stem(self, clip, pooled, map_tiles, scratch):
        size = clip.shape[1:]
        tape, intensities, half, smalls = scratch.recorded(
            ("stem", size), lambda: self._record_stem(*size, scratch)
        )
        intensities.copy_(clip)
        tape.run()
        pooled.copy_(half)
        for out, small in zip(map_tiles, smalls, strict=True):
            if small is not None:
                out.copy_(small)

    def run_level(self, level, pooled, out, scratch):
        size = pooled.shape[2:]
        tape, x, small = scratch.recorded(
            (level, size), lambda: self._record_level(level, *size, scratch)
        )
        x.copy_(pooled)
        tape.run()
        out.copy_(small)

    def _buffers(self, pixels, scratch):
        return scratch.take("buffers", 3, self.channels * (self.seqlen + 4) * pixels)

    def _record_stem(self, rows, width, scratch):
        """(tape, (T, R, W) input, (T + 3, C, R // 2, W // 2) pooled stem, levels' maps)."""
        tape, buffers = Tape(), self._buffers(rows * width, scratch)
        clip, x = self.stem.record(tape, self.seqlen, rows * width, buffers)
        images = x.storage.unflatten(2, (rows, width))
        small = scratch.take("half", images[..., ::2, ::2].numel())
        half = record_pool(tape, images, buffers[1], small)
        x.record_relu(tape, self.stem.floor)
        smalls = [
            None if level.begins_pooled else level.record(tape, x, rows, width, buffers)
            for level in self.levels
        ]
        return tape, clip.unflatten(1, (rows, width)), half, smalls

    def _record_level(self, level, rows, width, scratch):
        """(tape, (T + 3, C, R, W) input, map) of a level that begins pooled."""
        tape, buffers = Tape(), self._buffers(rows * width, scratch)
        stored = self.seqlen + 3, self.stem.channels
        x = ParityBuffer(shaped(buffers[0], *stored, rows * width), 0)
        x.record_relu(tape, self.stem.floor)
        small = level.record(tape, x, rows, width, buffers)
        return tape, x.storage.unflatten(2, (rows, width)), small

    def memory_needed(self, rows, width, tile_pixels, threads):
        tile = max(tile_pixels, 2 * self.band_multiple**2)
        of_tile = 3 * self.channels + self.stem.channels // 2  # three buffers; the stem, pooled
        values = MERGED_VALUES * rows * width + threads * of_tile * tile
        return self.arithmetic.dtype.itemsize * (self.seqlen + 4) * values
