"""Runs levels whose every layer but the pooling sees one temporal profile at a time.

Such a level is a chain of small matrix products over pixels, run over tiles of pixels that stay in
a core's cache. A buffer is (stored frames, C, P), pixels contiguous. In it the K temporal taps of
all channels of one output frame are K C consecutive rows, so a temporal convolution is one batched
product with overlapping views of the buffer, nothing copied. For the dilated taps (frames t-2, t,
t+2) to be consecutive, frames are stored even ones first:

    pad, 0, 2, 4, ..., pad, 1, 3, 5, ..., pad          (T + 3 stored frames)

Each pad, the middle one shared, stands for the frame of zeros beyond either end of the clip. See
`models.probe_head` for the shifted ReLU.
"""

import torch

from models.probe_head import ProbeHead, matrix
from models.program import Program, view


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


def tap_matrix(conv):
    """(C_out, K C_in) float64 matrix of a (K,1,1) convolution, taps outermost as in `taps`."""
    return conv.weight.double().flatten(2).transpose(1, 2).flatten(1)


def constant_response(conv, offset):
    """(C_out,) what a convolution gives for the constant `offset` (C_in,), its bias included."""
    return conv.bias.double() + conv.weight.double().sum((2, 3, 4)) @ offset


class ParityBuffer:
    """(T + 3, C, P) frames, even ones first, with pads as the module says.

    Args:
        storage: the frames.
        piece: the number of the piece of memory where they are.
    """

    def __init__(self, storage, piece):
        self.storage, self.piece = storage, piece
        self.frames = len(storage) - 3
        self.evens = (self.frames + 1) // 2

    @property
    def inner(self):
        """(T + 1, C, P): all frames and the middle pad."""
        return self.storage[1:-1]

    @property
    def halves(self):
        return self.storage[1 : 1 + self.evens], self.storage[2 + self.evens : -1]

    def record_relu(self, program, floor):
        """Shifted ReLU in place; pads become `floor`, which stands for zero."""
        program.add(torch.maximum, self.inner, floor, out=self.inner)
        for pad in (0, 1 + self.evens, -1):
            program.add(self.storage[pad].copy_, floor)


class TemporalStem:
    """The first convolution, from intensities to a parity buffer before the ReLU."""

    def __init__(self, conv, numbers):
        self.size, self.reach = conv.kernel_size[0], conv.padding[0]
        self.weight = numbers.cast(tap_matrix(conv))
        self.offset = conv.bias.double()
        self.floor = numbers.cast(-self.offset[:, None])

    def record(self, program, frames, pixels, pieces):
        """Records a run; returns (T, P), where to write the intensities, and the parity buffer."""
        clip = view(pieces[1], frames + 2 * self.reach, 1, pixels)
        program.add(clip[: self.reach].zero_)
        program.add(clip[self.reach + frames :].zero_)
        x = ParityBuffer(view(pieces[0], frames + 3, len(self.weight), pixels), 0)
        for parity, half in enumerate(x.halves):
            program.product(self.weight, taps(clip, parity, len(half), 2, self.size), half)
        return clip[self.reach : self.reach + frames, 0], x


class TemporalBlock:
    """A folded TDResBlock, from parity buffer to parity buffer.

    The taps of a temporal-difference kernel sum to zero, so they are two taps on the differences of
    frames stored one after the other: see `models.row_engine`.
    """

    def __init__(self, block, offset, numbers):
        kernel = block.conv1.weight.double().flatten(2)
        differences = torch.cat([-kernel[..., 0], kernel[..., 2]], 1)
        self.weights = [numbers.cast(differences), numbers.cast(tap_matrix(block.conv2))]
        self.mix, self.shortcut = (
            numbers.cast(matrix(block.conv3)),
            numbers.cast(matrix(block.shortcut)),
        )
        inner = constant_response(block.conv1, offset)
        outer = constant_response(block.conv2, inner)
        self.offset = constant_response(block.conv3, outer) + matrix(block.shortcut) @ offset
        self.floors = [numbers.cast(-b[:, None]) for b in (inner, outer, self.offset)]
        self.channels = len(self.mix)

    def record(self, program, x, pieces):
        first, second = self.weights
        frames, pixels = x.frames, x.storage.shape[2]
        there = 1 - x.piece
        steps = view(pieces[2], frames + 2, *x.storage.shape[1:])
        program.add(torch.sub, x.storage[1:], x.storage[:-1], out=steps)
        # conv2 needs neighbours in time: its input is in the natural order, one pad at each end.
        natural = view(pieces[there], frames + 2, self.channels, pixels)
        for parity, start in enumerate((0, x.evens + 1)):
            half = natural[1 + parity : -1 : 2]
            program.product(first, taps(steps, start, len(half), 1, 2), half)
        program.add(torch.maximum, natural[1:-1], self.floors[0], out=natural[1:-1])
        program.add(natural[0].copy_, self.floors[0])
        program.add(natural[-1].copy_, self.floors[0])
        # Back in parity order; the item at the middle pad means nothing.
        y = view(pieces[2], frames + 1, self.channels, pixels)
        for parity, half in enumerate((y[: x.evens], y[x.evens + 1 :])):
            program.product(second, taps(natural, parity, len(half), 2, 3), half)
        program.add(torch.maximum, y, self.floors[1], out=y)
        # `natural` has done its work: its memory, still in cache, takes the output.
        out = ParityBuffer(view(pieces[there], frames + 3, self.channels, pixels), there)
        program.product(self.mix, y, out.inner)
        shortcut = self.shortcut.expand(frames + 1, *self.shortcut.shape)
        program.add(out.inner.baddbmm_, shortcut, x.inner)
        out.record_relu(program, self.floors[2])
        return out


def record_pool(program, images, tall, small):
    """Records the maximum over 2x2 pixels; an odd last row or column is left out.

    It commutes with ReLU, shifted or not.

    Args:
        images: (frames, C, R, W).
        tall, small: flat pieces of memory, for the maxima of pairs of rows and for the result.

    Returns:
        (frames, C, R // 2, W // 2) in `small`.
    """
    *outer, rows, width = images.shape
    height, side = rows // 2, width // 2
    tall, small = view(tall, *outer, height, width), view(small, *outer, height, side)
    pairs = images[..., : 2 * height, :]
    program.add(torch.maximum, pairs[..., 0::2, :], pairs[..., 1::2, :], out=tall)
    pairs = tall[..., : 2 * side]
    program.add(torch.maximum, pairs[..., 0::2], pairs[..., 1::2], out=small)
    return small


class TemporalLevel:
    """Blocks, pools and head of one level.

    The pool with which a level begins, if any, is left to its input: see `TemporalNetwork`.
    """

    def __init__(self, level, share, offset, seqlen, numbers):
        self.begins_pooled = not hasattr(level.layers[0], "conv1")
        self.stages = []  # None for a pool
        for layer in level.layers[self.begins_pooled :]:
            if hasattr(layer, "conv1"):
                block = TemporalBlock(layer, offset, numbers)
                offset = block.offset
                self.stages.append(block)
            else:
                self.stages.append(None)
        self.unit = 2 ** self.stages.count(None)
        self.scale = self.unit * (2 if self.begins_pooled else 1)
        self.head = ProbeHead(level, share, offset, numbers, frame_order(seqlen))
        self.offset = self.head.offset
        self.seqlen = seqlen
        self.channels = max(block.channels for block in self.stages if block is not None)

    def take_map(self, height, width, scratch):
        """(8, T, height // scale, width // scale), for an image of height x width."""
        size = height // self.scale, width // self.scale
        return scratch.take(("map", self), self.head.out_channels, self.seqlen, *size)

    def record(self, program, x, rows, width, pieces):
        """Records a tile of the level's input, a parity buffer, to (8, T, r, w) of its map."""
        for stage in self.stages:
            if stage is None:
                images = x.storage.unflatten(2, (rows, width))
                small = record_pool(program, images, pieces[2], pieces[1 - x.piece])
                x = ParityBuffer(small.flatten(2), 1 - x.piece)
                rows, width = rows // 2, width // 2
            else:
                x = stage.record(program, x, pieces)
        features = x.inner.transpose(0, 1)
        small = self.head.record(program, features, (pieces[2], pieces[x.piece]))
        return small.unflatten(2, (rows, width))

    def part(self, out, rows, columns):
        """The part of `out`, a map, that comes of a tile of the level's input."""
        rows, columns = (slice(s.start // self.unit, s.stop // self.unit) for s in (rows, columns))
        return out[:, :, rows, columns]


class TemporalNetwork:
    """A detector whose levels each start from the clip and see one temporal profile at a time.

    The stem runs once, with the levels of full size; the pool with which the other levels begin is
    taken from its output while that is in cache.
    """

    tile_pixels = 256  # on a CPU: stays in a core's cache
    band_pixels = 32768  # on a CPU: above, nothing gets faster

    def __init__(self, stages, seqlen, numbers):
        self.seqlen, self.numbers = seqlen, numbers
        self.map_numbers = numbers
        self.stem = TemporalStem(stages.trunk[0][0], numbers)
        self.levels = [
            TemporalLevel(level, share, self.stem.offset, seqlen, numbers)
            for level, share in zip(stages.levels, stages.shares(), strict=True)
        ]
        self.unit = max(level.scale for level in self.levels)
        self.channels = max(level.channels for level in self.levels)

    def start(self, height, width):
        self.sizes = [(height // level.scale, width // level.scale) for level in self.levels]

    def push(self, band, last, tile_pixels, workers):
        """(T, R, W) rows of the clip to the levels' maps of them; None where there is no row."""
        frames, height, width = band.shape
        maps = [level.take_map(height, width, workers.scratch) for level in self.levels]
        stored = frames + 3, len(self.stem.weight)
        pooled = workers.scratch.take("pooled", *stored, height // 2, width // 2)

        def run_stem(tile, scratch):
            rows, columns = tile
            size = rows.stop - rows.start, columns.stop - columns.start
            program, clip, half, smalls = scratch.program(
                ("stem", size), lambda: self._record_stem(*size, scratch)
            )
            clip.copy_(band[:, rows, columns])
            program.run()
            top, left = rows.start // 2, columns.start // 2
            pooled[..., top : top + half.shape[2], left : left + half.shape[3]] = half
            for level, out, small in zip(self.levels, maps, smalls, strict=True):
                if small is not None:
                    level.part(out, rows, columns).copy_(small)

        def run_level(task, scratch):
            level, out, rows, columns = task
            size = rows.stop - rows.start, columns.stop - columns.start
            program, x, small = scratch.program(
                (level, size), lambda: self._record_level(level, *size, scratch)
            )
            x.copy_(pooled[..., rows, columns])
            program.run()
            level.part(out, rows, columns).copy_(small)

        workers.run(run_stem, tiles(height, width, tile_pixels, 2))
        tasks = [
            (level, out, rows, columns)
            for level, out in zip(self.levels, maps, strict=True)
            if level.begins_pooled and out.numel()
            for rows, columns in tiles(*pooled.shape[2:], tile_pixels, level.unit)
        ]
        workers.run(run_level, tasks)
        return [out if out.numel() else None for out in maps]

    def _pieces(self, pixels, scratch):
        return scratch.take("pieces", 3, self.channels * (self.seqlen + 4) * pixels)

    def _record_stem(self, rows, width, scratch):
        """(program, (T, R, W) input, (T + 3, C, R // 2, W // 2) pooled stem, levels' maps)."""
        program, pieces = Program(), self._pieces(rows * width, scratch)
        clip, x = self.stem.record(program, self.seqlen, rows * width, pieces)
        images = x.storage.unflatten(2, (rows, width))
        small = scratch.take("half", images[..., ::2, ::2].numel())
        half = record_pool(program, images, pieces[1], small)
        x.record_relu(program, self.stem.floor)
        smalls = [
            None if level.begins_pooled else level.record(program, x, rows, width, pieces)
            for level in self.levels
        ]
        return program, clip.unflatten(1, (rows, width)), half, smalls

    def _record_level(self, level, rows, width, scratch):
        """(program, (T + 3, C, R, W) input, map) of a level that begins pooled."""
        program, pieces = Program(), self._pieces(rows * width, scratch)
        stored = self.seqlen + 3, len(self.stem.weight)
        x = ParityBuffer(view(pieces[0], *stored, rows * width), 0)
        x.record_relu(program, self.stem.floor)
        small = level.record(program, x, rows, width, pieces)
        return program, x.storage.unflatten(2, (rows, width)), small

    def bytes(self, rows, width, tile_pixels, threads):
        """Upper bound of the working memory for bands of `rows` rows, in bytes."""
        item = self.numbers.dtype.itemsize * (self.seqlen + 4)
        tile = max(tile_pixels, 2 * self.unit**2)
        return item * (56 * rows * width + threads * (3 * self.channels + 4) * tile)


def tiles(height, width, pixels, unit):
    """Cuts an image into (row slice, column slice) of about `pixels` each.

    All but the last of a row or column are multiples of `unit` pixels high and wide.
    """
    columns = min(max(unit, pixels // unit // unit * unit), -(-width // unit) * unit)
    rows = max(unit, pixels // columns // unit * unit)
    return [
        (slice(top, min(top + rows, height)), slice(left, min(left + columns, width)))
        for top in range(0, height, rows)
        for left in range(0, width, columns)
    ]
