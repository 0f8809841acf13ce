"""A detector with spatial kernels, cut into the segments of `models.engine.rows.segments`."""

import copy
from collections import defaultdict

from models.engine.base import Engine, ends_in_blocks
from models.engine.merge import MERGED_ROWS, MERGED_VALUES
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

    def sizes_of_inputs(self, rows, height, width):
        """Yields, of every segment, (it, the most rows that come at once, height, width of all).

        Of what comes to the stem these are `rows`, `height` and `width`.
        """
        sizes = {self.stem: (rows, height, width)}
        for segment in self.segments:
            rows, *size = sizes[segment]
            yield segment, rows, *size
            size = (side // segment.shrinks for side in size)
            sizes |= dict.fromkeys(segment.after, (segment.rows_out(rows), *size))

    def start(self, clip, rows):
        self.stem.centre(clip)
        sizes = {}
        for segment, rows_at_once, height, width in self.sizes_of_inputs(rows, *clip.shape[1:]):
            segment.start(rows_at_once, self.seqlen, width)
            sizes[segment] = height, width
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
        maps = MERGED_VALUES * (rows + MERGED_ROWS) * width * self.seqlen
        kept, buffers = self.memory_parts(rows, width, tile, threads)
        return kept + sum(buffers.values()) + maps * self.map_arithmetic.dtype.itemsize

    def memory_parts(self, rows, width, tile, threads):
        """(bytes of the rows that wait, {(name, type): bytes} of what tasks work in)."""
        frames = self.seqlen + 4  # with those beyond the clip
        kept, tasks = 0, defaultdict(list)
        for segment, rows_in, _, width_in in self.sizes_of_inputs(rows, 0, width):
            kept += segment.kept_bytes(rows_in, frames, width_in)
            made, width = segment.rows_out(rows_in), width_in // segment.shrinks
            pieces = segment.pieces(made, segment.rows_of_a_task(made, width, threads))
            buffers = segment.buffers(max(map(len, pieces)), frames, width, tile)
            for key, numbers in buffers.items():
                tasks[key].append((made, numbers))
        return kept, {
            (name, dtype): dtype.itemsize * numbers_at_a_time(found, threads)
            for (name, dtype), found in tasks.items()
        }


def numbers_at_a_time(tasks, threads):
    """In as many buffers as there are threads, used again for (how many tasks, numbers of each)."""
    return sum(max((n for count, n in tasks if count > i), default=0) for i in range(threads))
