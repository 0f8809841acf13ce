"""Detectors whose levels each start from the stem, run over tiles of pixels by several threads.

The stem runs once, tile by tile, with the levels of full size; the pool with which the other levels
begin is taken from its output while that is in cache. Those levels then run over tiles of it.
"""

from models.blocks import TDResBlock
from models.engine.base import Engine, blocks_without_pools
from models.stages import is_pool


class TiledLevel:
    """One level: its place in the detector, and where its tiles go in its map.

    Attributes:
        begins_pooled: whether it begins with a pool, which is left to its input.
        layers: made by `make_block` of each of its blocks; None for a pool.
        shrinks: pixels of its input, a side, that one pixel of its map stands for.
        scale: the same of the image.
    """

    def __init__(self, level, seqlen, make_block):
        self.begins_pooled = is_pool(level.layers[0])
        self.layers = [
            None if is_pool(layer) else make_block(layer)
            for layer in level.layers[self.begins_pooled :]
        ]
        self.shrinks = 2 ** self.layers.count(None)
        self.scale = self.shrinks * (2 if self.begins_pooled else 1)
        self.channels = max(  # of a map between any two layers
            *(layer.channels for layer in self.layers if layer is not None),
            *(len(conv.bias) for conv in (level.probe.conv[0], level.projection[0])),
        )
        self.seqlen = seqlen

    def take_map(self, height, width, scratch):
        """(8, T, height // scale, width // scale), for an image of height x width."""
        size = height // self.scale, width // self.scale
        return scratch.take(("map", self), len(self.offset), self.seqlen, *size)

    def map_tile(self, out, rows, columns):
        """The part of `out`, the level's map, that is made from a tile of its input."""
        rows, columns = (
            slice(side.start // self.shrinks, side.stop // self.shrinks) for side in (rows, columns)
        )
        return out[:, :, rows, columns]


class TiledNetwork(Engine):
    """The stem and the levels of a detector, of `TiledLevel`.

    Subclasses give

        take_pooled(frames, height, width, scratch): memory for the stem's output, pooled, in an
            engine's own layout of (..., height, width);
        run_stem(clip, pooled, map_tiles, scratch): a tile (T, R, W) of the stem, to its place in
            that memory, and of the levels of full size, to theirs in the maps, None for others;
        run_level(level, pooled, out, scratch): a tile of a level that begins pooled.
    """

    band_pixels = 16384  # above, nothing gets faster

    def __init__(self, stem, levels, seqlen):
        self.stem, self.levels, self.seqlen = stem, levels, seqlen
        self.band_multiple = max(level.scale for level in levels)
        self.channels = max(stem.channels, *(level.channels for level in levels))

    @staticmethod
    def takes(stages):
        """As `Engine.takes`; kernels act along time only, and the trunk is one convolution.

        Every level is of `TDResBlock` and pools. At most one begins at full size, and that one has
        no pool.
        """
        full_size = [level for level in stages.levels if not is_pool(level.layers[0])]
        return (
            Engine.takes(stages)
            and stages.is_temporal()
            and len(stages.trunk) == 1
            and all(isinstance(block, TDResBlock) for block in blocks_without_pools(stages))
            and len(full_size) <= 1
            and not any(is_pool(layer) for level in full_size for layer in level.layers)
        )

    def start(self, clip, rows):
        height, width = clip.shape[1:]
        return [(height // level.scale, width // level.scale) for level in self.levels]

    def push(self, clip, band, tile_pixels, workers):
        band = clip[:, band]
        frames, height, width = band.shape
        maps = [level.take_map(height, width, workers.scratch) for level in self.levels]
        pooled = self.take_pooled(frames, height // 2, width // 2, workers.scratch)

        def run_stem(tile, scratch):
            rows, columns = tile
            half = (slice(side.start // 2, side.stop // 2) for side in tile)
            map_tiles = [
                None if level.begins_pooled else level.map_tile(out, rows, columns)
                for level, out in zip(self.levels, maps, strict=True)
            ]
            self.run_stem(band[:, rows, columns], pooled[(..., *half)], map_tiles, scratch)

        def run_level(task, scratch):
            level, out, rows, columns = task
            out = level.map_tile(out, rows, columns)
            self.run_level(level, pooled[..., rows, columns], out, scratch)

        workers.run(run_stem, tiles(height, width, tile_pixels, 2))
        tasks = [
            (level, out, rows, columns)
            for level, out in zip(self.levels, maps, strict=True)
            if level.begins_pooled and out.numel()
            for rows, columns in tiles(height // 2, width // 2, tile_pixels, level.shrinks)
        ]
        workers.run(run_level, tasks)
        return [out if out.numel() else None for out in maps]


def tiles(height, width, pixels, multiple):
    """Cuts an image into (row slice, column slice) of about `pixels` each.

    All but the last of a row or column are a multiple of `multiple` pixels high and wide.
    """
    columns = min(
        max(multiple, pixels // multiple // multiple * multiple), -(-width // multiple) * multiple
    )
    rows = max(multiple, pixels // columns // multiple * multiple)
    return [
        (slice(top, min(top + rows, height)), slice(left, min(left + columns, width)))
        for top in range(0, height, rows)
        for left in range(0, width, columns)
    ]
