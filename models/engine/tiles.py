"""Detectors whose levels each start from the clip, run over tiles of pixels by several threads.

The stem runs once, tile by tile, with the levels of full size; the pool with which the other levels
begin is taken from its output while that is in cache. Those levels then run over tiles of it.
"""


class TiledLevel:
    """One level: its place in the detector, and where its tiles go in its map.

    Attributes:
        begins_pooled: whether it begins with a pool, which is left to its input.
        stages: made by `block` of each of its layers; None for a pool.
        unit: pixels of its input that one pixel of its map stands for, a side.
        scale: the same of the image.
    """

    def __init__(self, level, seqlen, block):
        self.begins_pooled = not hasattr(level.layers[0], "conv1")
        self.stages = [
            block(layer) if hasattr(layer, "conv1") else None
            for layer in level.layers[self.begins_pooled :]
        ]
        self.unit = 2 ** self.stages.count(None)
        self.scale = self.unit * (2 if self.begins_pooled else 1)
        self.channels = max(stage.channels for stage in self.stages if stage is not None)
        self.seqlen = seqlen

    def take_map(self, height, width, scratch):
        """(8, T, height // scale, width // scale), for an image of height x width."""
        size = height // self.scale, width // self.scale
        return scratch.take(("map", self), len(self.offset), self.seqlen, *size)

    def part(self, out, rows, columns):
        """The part of `out`, a map, that comes of a tile of the level's input."""
        rows, columns = (slice(s.start // self.unit, s.stop // self.unit) for s in (rows, columns))
        return out[:, :, rows, columns]


class TiledNetwork:
    """The stem and the levels of a detector, of `TiledLevel`.

    Subclasses give `take_pooled`, `run_stem` and `run_level`.
    """

    band_pixels = 16384  # on a CPU: above, nothing gets faster

    def __init__(self, stem, levels, seqlen):
        self.stem, self.levels, self.seqlen = stem, levels, seqlen
        self.unit = max(level.scale for level in levels)
        self.channels = max(level.channels for level in levels)

    def start(self, height, width):
        self.sizes = [(height // level.scale, width // level.scale) for level in self.levels]

    def push(self, band, last, tile_pixels, workers):
        """(T, R, W) rows of the clip to the levels' maps of them; None where there is no row."""
        frames, height, width = band.shape
        maps = [level.take_map(height, width, workers.scratch) for level in self.levels]
        pooled = self.take_pooled(frames, height // 2, width // 2, workers.scratch)

        def run_stem(tile, scratch):
            rows, columns = tile
            half = (slice(side.start // 2, side.stop // 2) for side in tile)
            parts = [
                None if level.begins_pooled else level.part(out, rows, columns)
                for level, out in zip(self.levels, maps, strict=True)
            ]
            self.run_stem(band[:, rows, columns], pooled[(..., *half)], parts, scratch)

        def run_level(task, scratch):
            level, out, rows, columns = task
            out = level.part(out, rows, columns)
            self.run_level(level, pooled[..., rows, columns], out, scratch)

        workers.run(run_stem, tiles(height, width, tile_pixels, 2))
        tasks = [
            (level, out, rows, columns)
            for level, out in zip(self.levels, maps, strict=True)
            if level.begins_pooled and out.numel()
            for rows, columns in tiles(height // 2, width // 2, tile_pixels, level.unit)
        ]
        workers.run(run_level, tasks)
        return [out if out.numel() else None for out in maps]

    def take_pooled(self, frames, height, width, scratch):
        """Memory for the stem's output, pooled: an engine's own layout of (..., height, width)."""
        raise NotImplementedError

    def run_stem(self, clip, pooled, maps, scratch):
        """A tile of the stem and of the levels of full size.

        Args:
            clip: (T, R, W) intensities.
            pooled: part of what `take_pooled` gave, to be written.
            maps: by level its part of the map, to be written; None for levels that begin pooled.
        """
        raise NotImplementedError

    def run_level(self, level, pooled, out, scratch):
        """A tile of a level that begins pooled, to `out`, its part of the map."""
        raise NotImplementedError


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
