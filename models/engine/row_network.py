"""Runs a detector with spatial kernels band by band, through the row stages of its description."""

from contextlib import nullcontext

import torch

from models.blocks import STDResBlock, TDResBlock
from models.engine.heads import LevelHead
from models.engine.precision import Arithmetic
from models.engine.rows import CONVOLVED_PIXELS, RowPool, RowStem, row_stages, sums_by_lines
from models.engine.tape import Tape, shaped
from models.engine.workers import one_thread
from models.folding import ChannelAffine
from models.stages import is_pool


class RowNetwork:
    """A detector whose stem has kept its norm, and whose levels end in residual blocks."""

    band_multiple = 1
    tile_pixels = 256  # on a CPU: stays in a core's cache
    band_pixels = 8192  # on a CPU: stays in the last cache

    @staticmethod
    def computes_in(arithmetic):
        return True

    @staticmethod
    def takes(stages):
        """Whether a network has this form, of residual blocks of `models.blocks` and pools."""
        stem, *rest = stages.trunk
        layers = [*rest, *(layer for level in stages.levels for layer in level.layers)]
        return (
            not is_pool(stem)
            and any(isinstance(layer, ChannelAffine) for layer in stem.children())
            and all(is_pool(x) or isinstance(x, (TDResBlock, STDResBlock)) for x in layers)
            and not any(is_pool(level.layers[-1]) for level in stages.levels)
        )

    def __init__(self, stages, seqlen, arithmetic):
        self.seqlen = seqlen
        self.arithmetic = self.map_arithmetic = arithmetic
        stem, *rest = stages.trunk
        self.trunk = [RowStem(stem, arithmetic), *row_stages(rest, arithmetic)]
        self.levels = [
            RowLevel(level, merge_matrix, seqlen, arithmetic)
            for level, merge_matrix in zip(stages.levels, stages.merge_matrices(), strict=True)
        ]

    def start(self, height, width):
        for stage in self.trunk:
            width = stage.start(self.seqlen, width, self.arithmetic)
        height >>= count_pools(self.trunk)
        self.sizes = []
        for level in self.levels:
            level.start(width, self.arithmetic)
            self.sizes.append((height >> count_pools(level.stages), level.width))

    def push(self, band, last, tile, workers):
        """(T, R, W) rows of the clip to the rows (8, T, r, w) of each level's map that are ready;
        None where none is."""
        # torch's own threads would wait for more, spinning, on the cores of those that have rows.
        with one_thread() if sums_by_lines(self.arithmetic) else nullcontext():
            rows = push_through(self.trunk, band.transpose(0, 1), workers, last)
            maps = []
            for level in self.levels:
                features = push_through(level.stages, rows, workers, last)
                maps.append(None if features is None else level.run_head(features, tile, workers))
            return maps

    def memory_needed(self, rows, width, tile, threads):
        """Upper bound of the working memory for bands of `rows` rows, in bytes."""
        item = self.arithmetic.dtype.itemsize * (self.seqlen + 4)
        kept, passing, rows_below, width_below = memory_of_path(self.trunk, rows, width)
        for level in self.levels:
            below = memory_of_path(level.stages, rows_below, width_below)
            kept += below[0] + level.channels * below[2] * below[3]
            passing = max(passing, below[1])
        wide = head_arithmetic(self.arithmetic).dtype.itemsize // self.arithmetic.dtype.itemsize
        tiles = 80 * wide * (threads * max(tile, width) + width)  # of the heads, of one row
        sums = 0  # of the rows that threads are at
        if sums_by_lines(self.arithmetic):
            convolved = threads * max(CONVOLVED_PIXELS, width)
            sums = 32 * min(convolved, max(rows, 1) * width + threads * width)
        return int(item * (kept + passing + 56 * (rows + 8) * width + tiles + sums))


def head_arithmetic(arithmetic):
    """In what the heads compute: in float64 where a kernel's sums are taken line by line."""
    wide = sums_by_lines(arithmetic)
    return Arithmetic(torch.float64, arithmetic.device) if wide else arithmetic


def count_pools(stages):
    return sum(isinstance(stage, RowPool) for stage in stages)


def memory_of_path(stages, rows, width):
    """What stages in a row need for a band of rows of the first's input, in values per frame.

    Returns:
        (kept until the next band, most that one stage needs besides, rows and columns of the last
        one's output). With the last band come the rows that waited in every stage before.
    """
    kept = passing = 0
    for stage in stages:
        if isinstance(stage, RowPool):
            rows, width = max(1, (rows + 1) // 2), max(1, width // 2)
        stays, besides = stage.memory_values(rows)
        kept, passing = kept + stays * width, max(passing, besides * width)
        rows += stage.lag
    return kept, passing, rows, width


def push_through(stages, rows, workers, last=False):
    """Rows (or None) pushed through stages in turn; with `last`, what waits in them comes too."""
    for stage in stages:
        pushed = [stage.push(rows, workers)] if rows is not None and len(rows) else []
        if last:
            pushed.append(stage.finish(workers))
        pushed = [out for out in pushed if out is not None and len(out)]
        rows = None if not pushed else pushed[0] if len(pushed) == 1 else torch.cat(pushed)
    return rows


class RowLevel:
    """Blocks, pools and head of one level, fed with rows of the trunk."""

    def __init__(self, level, merge_matrix, seqlen, arithmetic):
        self.stages = row_stages(level.layers, arithmetic, ends_level=True)
        offset = self.stages[-1].offset
        self.channels = len(offset)
        self.wide = head_arithmetic(arithmetic)
        self.bias = self.wide.cast(offset[:, None, None, None])
        self.head = LevelHead(level, merge_matrix, torch.zeros_like(offset), self.wide)
        self.offset = self.head.offset
        self.seqlen = seqlen

    def start(self, width, arithmetic):
        for stage in self.stages:
            width = stage.start(self.seqlen, width, arithmetic)
        self.width = width

    def run_head(self, features, tile_pixels, workers):
        """(R, C, T * W) before the ReLU to (8, T, R, W)."""
        rows, _, _ = features.shape
        out = features.new_empty(self.head.out_channels, self.seqlen, rows, self.width)
        step = max(1, tile_pixels // self.width)

        def run(top, scratch):
            taken = features[top : top + step]
            tape, stored, small = scratch.recorded(
                (self, len(taken), self.width), lambda: self._record_head(len(taken), scratch)
            )
            taken = taken.unflatten(2, (self.seqlen, self.width)).permute(1, 2, 0, 3)
            torch.add(taken, self.bias, out=stored)
            stored.clamp_min_(0)
            tape.run()
            out[:, :, top : top + step] = small

        workers.run(run, range(0, rows, step))
        return out

    def _record_head(self, rows, scratch):
        """(tape, (C, T, R, W) features to be written, (8, T, R, W) map)."""
        tape = Tape()
        channels, pixels = self.channels, rows * self.width
        values = channels * self.seqlen * pixels
        buffers = scratch.take("head", 2, values, dtype=self.wide.dtype)
        features = shaped(buffers[1], channels, self.seqlen, pixels)
        small = self.head.record(tape, features, buffers)
        size = rows, self.width
        return tape, features.unflatten(2, size), small.unflatten(2, size)
