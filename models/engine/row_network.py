"""A detector with spatial kernels, made of the layers in `models.engine.rows`."""

from contextlib import nullcontext

import torch

from models.blocks import STDResBlock, Stem, TDResBlock
from models.engine.heads import LevelHead
from models.engine.rows import CONVOLVED_PIXELS, RowPool, RowStem, fuses_layers, row_layers
from models.engine.tape import Tape, shaped
from models.engine.workers import one_thread
from models.folding import ChannelAffine
from models.stages import is_pool


class RowNetwork:
    """Runs a detector whose first layer is a `Stem` over a clip that arrives in bands of rows."""

    band_multiple = 1
    tile_pixels = 256  # on a CPU: stays in a core's cache
    band_pixels = 8192  # on a CPU: stays in the last cache

    @staticmethod
    def computes_in(arithmetic):
        return True

    @staticmethod
    def takes(stages):
        """Whether a network has this form: a folded `Stem`, then residual blocks and pools.

        Every level ends in a block.
        """
        stem, *rest = stages.trunk
        layers = [*rest, *(layer for level in stages.levels for layer in level.layers)]
        return (
            isinstance(stem, Stem)
            and isinstance(stem[1], ChannelAffine)
            and stem[0].dilation == (1, 1, 1)
            and all(is_pool(x) or isinstance(x, (TDResBlock, STDResBlock)) for x in layers)
            and not any(is_pool(level.layers[-1]) for level in stages.levels)
        )

    def __init__(self, stages, seqlen, arithmetic):
        self.seqlen = seqlen
        self.arithmetic = self.map_arithmetic = arithmetic
        stem, *rest = stages.trunk
        self.trunk = [RowStem(stem, arithmetic), *row_layers(rest, arithmetic)]
        self.levels = [
            RowLevel(level, merge_matrix, seqlen, arithmetic)
            for level, merge_matrix in zip(stages.levels, stages.merge_matrices(), strict=True)
        ]

    def start(self, height, width):
        for layer in self.trunk:
            width = layer.start(self.seqlen, width, self.arithmetic)
        height >>= count_pools(self.trunk)
        self.sizes = []
        for level in self.levels:
            level.start(width, self.arithmetic)
            self.sizes.append((height >> count_pools(level.layers), level.width))

    def push(self, band, last, tile, workers):
        """Rows (T, R, W) of the clip to those of each level's map that are ready, or None.

        A map's are (8, T, r, w). `last` says that no more rows come.
        """
        # torch's own threads would wait for more, spinning, on the cores of those that have rows.
        with one_thread() if fuses_layers(self.arithmetic) else nullcontext():
            rows = push_through(self.trunk, band.transpose(0, 1), workers, last)
            maps = []
            for level in self.levels:
                features = push_through(level.layers, rows, workers, last)
                maps.append(None if features is None else level.run_head(features, tile, workers))
            return maps

    def memory_needed(self, rows, width, tile, threads):
        """Upper bound of the working memory for bands of `rows` rows, in bytes."""
        item = self.arithmetic.dtype.itemsize * (self.seqlen + 4)
        kept, passing, rows_below, width_below = memory_of_path(self.trunk, rows, width)
        for level in self.levels:
            below = memory_of_path(level.layers, rows_below, width_below)
            kept += below[0] + level.channels * below[2] * below[3]
            passing = max(passing, below[1])
        tiles = 80 * (threads * max(tile, width) + width)  # of the heads, of one row
        sums = 0  # of the rows that threads are at
        if fuses_layers(self.arithmetic):
            convolved = threads * max(CONVOLVED_PIXELS, width)
            sums = 32 * min(convolved, max(rows, 1) * width + threads * width)
        return int(item * (kept + passing + 56 * (rows + 8) * width + tiles + sums))


def count_pools(layers):
    return sum(isinstance(layer, RowPool) for layer in layers)


def memory_of_path(layers, rows, width):
    """What layers, one after the other, need for a band of rows of the first's input.

    Returns:
        (values per frame kept until the next band, most that one layer needs besides, rows and
        columns of the last one's output). With the last band come the rows that waited before.
    """
    kept = passing = 0
    for layer in layers:
        if isinstance(layer, RowPool):
            rows, width = max(1, (rows + 1) // 2), max(1, width // 2)
        stays, besides = layer.memory_values(rows)
        kept, passing = kept + stays * width, max(passing, besides * width)
        rows += layer.lag
    return kept, passing, rows, width


def push_through(layers, rows, workers, last=False):
    """Rows (or None) pushed through layers in turn; with `last`, what waits in them comes too."""
    for layer in layers:
        pushed = [layer.push(rows, workers)] if rows is not None and len(rows) else []
        if last:
            pushed.append(layer.finish(workers))
        pushed = [out for out in pushed if out is not None and len(out)]
        rows = None if not pushed else pushed[0] if len(pushed) == 1 else torch.cat(pushed)
    return rows


class RowLevel:
    """Blocks, pools and head of one level, fed with rows of the trunk."""

    def __init__(self, level, merge_matrix, seqlen, arithmetic):
        self.layers = row_layers(level.layers, arithmetic)
        self.channels = len(self.layers[-1].bias)
        no_offset = merge_matrix.new_zeros(self.channels)
        self.head = LevelHead(level, merge_matrix, no_offset, arithmetic)
        self.offset = self.head.offset
        self.seqlen = seqlen

    def start(self, width, arithmetic):
        for layer in self.layers:
            width = layer.start(self.seqlen, width, arithmetic)
        self.width = width

    def run_head(self, features, tile_pixels, workers):
        """(R, T, W, C) features to the map, (8, T, R, W)."""
        rows = len(features)
        out = features.new_empty(self.head.out_channels, self.seqlen, rows, self.width)
        step = max(1, tile_pixels // self.width)

        def run(top, scratch):
            taken = features[top : top + step]
            tape, stored, small = scratch.recorded(
                (self, len(taken), self.width), lambda: self._record_head(len(taken), scratch)
            )
            stored.copy_(taken.permute(3, 1, 0, 2))
            tape.run()
            out[:, :, top : top + step] = small

        workers.run(run, range(0, rows, step))
        return out

    def _record_head(self, rows, scratch):
        """(tape, (C, T, R, W) features to be written, (8, T, R, W) map)."""
        tape = Tape()
        channels, pixels = self.channels, rows * self.width
        values = channels * self.seqlen * pixels
        buffers = scratch.take("head", 2, values)
        features = shaped(buffers[1], channels, self.seqlen, pixels)
        small = self.head.record(tape, features, buffers)
        size = rows, self.width
        return tape, features.unflatten(2, size), small.unflatten(2, size)
