"""A detector with spatial kernels, cut into the segments of `models.engine.rows.segments`."""

import copy

from models.engine.base import Engine, ends_in_blocks
from models.engine.rows.blocks import FirstHalf, LastHalf, SecondHalf
from models.engine.rows.segments import PoolSegment, RowQueue, Segment, StemSegment
from models.stages import is_pool


class RowNetwork(Engine):
    """Runs a detector of spatial layers over a clip that arrives in bands of rows."""

    @staticmethod
    def takes(stages):
        """As `Engine.takes`; every level ends in a block."""
        return Engine.takes(stages) and ends_in_blocks(stages)

    def __init__(self, stages, seqlen, arithmetic):
        self.seqlen = seqlen
        self.arithmetic = self.map_arithmetic = arithmetic
        stem, *rest = stages.trunk
        self.stem = trunk = StemSegment(stem, arithmetic)
        self.segments = [self.stem]  # each after those whose rows it gets
        for layer in rest:
            trunk = self._add(trunk, layer)
        self.levels = []  # the last segment of each
        for level, merge_matrix in zip(stages.levels, stages.merge_matrices(), strict=True):
            before = trunk
            for layer in level.layers[:-1]:
                before = self._add(before, layer)
            last = LastHalf(level, merge_matrix, seqlen, arithmetic)
            self._add(before, level.layers[-1], last)
            self.levels.append(last)

    def _add(self, before, layer, second=None):
        """Adds a pool or a block after a segment; returns its last segment."""
        if is_pool(layer):
            added = [PoolSegment(before.out_channels, self.arithmetic)]
        else:
            second = second or SecondHalf(layer, self.arithmetic)
            added = [FirstHalf(layer, second, self.arithmetic), second]
        before.after.append(added[0])
        self.segments += added
        return added[-1]

    def twin(self):
        """One of the same weights, to be run at the same time: its rows are its own."""
        weights = {
            id(value): value
            for segment in self.segments
            for value in vars(segment).values()
            if not isinstance(value, (RowQueue, Segment, list))
        }
        twin = copy.copy(self)
        parts = self.stem, self.segments, self.levels
        twin.stem, twin.segments, twin.levels = copy.deepcopy(parts, weights)
        return twin

    def start(self, clip, rows):
        sizes = {}

        def start(segment, rows, height, width):
            segment.start(rows, self.seqlen, width)
            sizes[segment] = height // segment.shrinks, segment.width
            for after in segment.after:
                start(after, segment.rows_out(rows), *sizes[segment])

        self.stem.centre(clip)
        start(self.stem, rows, *clip.shape[1:])
        return [sizes[level] for level in self.levels]

    def push(self, clip, band, tile, workers):
        rows = clip[:, band].transpose(0, 1).unsqueeze(3)
        self.stem.append(len(rows))
        self.stem.write(0, rows)
        for level in self.levels:
            level.tile = tile
        for segment in self.segments:
            if band.stop == clip.shape[1]:
                segment.finish()
            segment.run(workers)
        return [level.take_map() for level in self.levels]

    def memory_needed(self, rows, width, tile, threads):
        frames = self.seqlen + 4
        kept, made, beside = [], [], []  # by segment, numbers

        def add(segment, rows, width):
            kept.append(segment.kept_values(rows) * width * frames)
            rows, width = segment.rows_out(rows), max(1, width // segment.shrinks)
            step = segment.rows_of_a_task(rows, width, threads)
            tasks = min(threads, len(segment.pieces(rows, step)))
            made.append(tasks * segment.values_made(step, frames, width))
            beside.append(tasks * segment.values_beside(step, frames, width))
            for after in segment.after:
                add(after, rows, width)

        add(self.stem, rows, width)
        heads = 80 * (threads * max(tile, width) + width)
        maps = 56 * (rows + 8) * width
        values = sum(kept) + max(made) + max(beside) + frames * (heads + maps)
        return int(self.arithmetic.dtype.itemsize * values)
