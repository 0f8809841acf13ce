"""Fast evaluation of the detectors: folded layers, run band by band within a memory budget."""

from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from models.engine.budget import default_memory, parse_memory
from models.engine.folding import fold
from models.engine.heads import FinalHead
from models.engine.merge import LevelMerge
from models.engine.packed import PackedTemporalNetwork, packed_engine_runs
from models.engine.precision import usable_dtype
from models.engine.program import Numbers
from models.engine.rows import (
    CHUNK,
    RowLevel,
    RowPool,
    RowStem,
    feed,
    row_stages,
    sums_in_pieces,
    wider,
)
from models.engine.temporal import TemporalNetwork
from models.engine.workers import Workers, one_thread


def fuse(model, precision="fp32", memory=None, *, force_precision=False, allow_tf32=False):
    """An evaluation copy of a detector: many times faster, in a fraction of the memory.

    Same call: clip (B, 1, T, H, W) on the model's device to logits (B, T, H, W) float32, for any
    size that the model takes. Equal to `model.eval()` up to rounding; how the image is cut into
    bands changes nothing. The model is left as it was.

    Args:
        model: a detector of `models.MODELS`, on the device where clips will be.
        precision: "fp32", "bf16" or "fp16": the type of the layers; the logits are float32. Where
            the device lacks the type, falls back to fp32 with one warning.
        memory: bytes for everything beside the clip and its logits, or a string as "1GiB"; None
            chooses for the device.
        force_precision: compute in `precision` also where the device only emulates it.
        allow_tf32: on CUDA, let fp32 products round their factors to 10 bits.

    Raises:
        ValueError: unknown precision; in a call, a clip that the model refuses, or a budget that
            does not hold one band of it, with the smallest that does.
    """
    device = next(model.parameters()).device
    dtype = usable_dtype(precision, device, force_precision)
    return FusedDetector(model, Numbers(dtype, device), parse_memory(memory), allow_tf32)


class FusedDetector(nn.Module):
    """What `fuse` returns. Holds no parameters: weights are folded, cast and laid out for use."""

    def __init__(self, model, numbers, memory, allow_tf32=False):
        super().__init__()
        folded = fold(model, torch.float64)  # each number is rounded once, by the engine
        self.check_clip, self.seqlen = folded.check_clip, folded.seqlen
        self.numbers, self.memory, self.allow_tf32 = numbers, memory, allow_tf32
        # Chosen once: later, memory of this engine's own would count as taken.
        self.budget = default_memory(numbers.device) if memory is None else memory
        stages = folded.stages()
        self.engine = build_engine(stages, self.seqlen, numbers)
        self.workers = Workers(self.engine.map_numbers)
        offset = sum(level.offset for level in self.engine.levels)
        self.final = FinalHead(stages.merge, stages.final, offset, self.engine.map_numbers)

    def train(self, mode=True):
        if mode:
            raise RuntimeError("a fused detector is for evaluation only")
        return super().train(mode)

    def forward(self, clip):
        self.check_clip(clip)
        # Scratch lives on between calls, so it must not be made of inference tensors.
        rounding = tf32(self.allow_tf32) if clip.is_cuda else nullcontext()
        plain = torch.autocast(clip.device.type, enabled=False)
        with torch.inference_mode(False), torch.no_grad(), plain, rounding, self.workers:
            return self._detect(clip)

    def _detect(self, clip):
        batch, _, frames, height, width = clip.shape
        rows, tile = self.plan(height, width)
        logits = clip.new_empty(batch, frames, height, width, dtype=torch.float32)
        for i in range(batch):
            self.engine.start(height, width)
            merge = LevelMerge(self.final, logits[i], self.engine.sizes, self.workers)
            for top in range(0, height, rows):
                band = clip[i, 0, :, top : top + rows]
                maps = self.engine.push(band, top + rows >= height, tile, self.workers)
                merge.push(maps)
        return logits

    def plan(self, height, width):
        """(rows of a band, pixels of a tile) for frames of this size within the budget."""
        budget = self.budget
        threads = self.workers.count()
        on_cpu = self.numbers.device.type == "cpu"
        most = self.engine.band_pixels * max(1, threads // 2) if on_cpu else 1 << 30
        tile = self.engine.tile_pixels if on_cpu else 1 << 16
        unit = self.engine.unit
        rows = max(1, min(most // width, height) // unit) * unit

        def excess():
            return self.engine.bytes(rows, width, tile, threads) > budget

        # Threads should have two tiles each in a band, of 128 pixels at least, while that fits.
        for smallest_tile, tiles in ((tile, 2 * threads), (min(tile, 128), 2 * threads), (16, 0)):
            while rows > unit and rows * width > tiles * tile and excess():
                rows = max(1, rows // unit // 2) * unit
            while tile > smallest_tile and excess():
                tile //= 2
        needed = self.engine.bytes(rows, width, tile, threads)
        if needed > budget and self.memory is not None:
            raise ValueError(
                f"memory budget of {budget} bytes: frames {width} pixels wide need {needed} or more"
            )
        return rows, tile


def build_engine(stages, seqlen, numbers):
    """What runs the levels of a detector, by its kernels and by what the device is fast in."""
    if max(stages.trunk[0][0].kernel_size[1:]) > 1:
        return RowNetwork(stages, seqlen, numbers)
    if packed_engine_runs(numbers):
        return PackedTemporalNetwork(stages, seqlen)
    return TemporalNetwork(stages, seqlen, numbers)


@contextmanager
def tf32(allowed):
    """Whether products and convolutions in float32 may use TF32 on CUDA, for a while."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = allowed
    try:
        yield
    finally:
        for backend, setting in zip(backends, before, strict=True):
            backend.allow_tf32 = setting


class RowNetwork:
    """A detector with spatial kernels, see `models.engine.rows`."""

    unit = 1
    tile_pixels = 256  # on a CPU: stays in a core's cache
    band_pixels = 8192  # on a CPU: stays in the last cache

    def __init__(self, stages, seqlen, numbers):
        self.seqlen = seqlen
        self.numbers = self.map_numbers = numbers
        stem, *rest = stages.trunk
        self.trunk = [RowStem(stem, numbers), *row_stages(rest, numbers)]
        self.levels = [
            RowLevel(level, share, seqlen, numbers)
            for level, share in zip(stages.levels, stages.shares(), strict=True)
        ]

    def start(self, height, width):
        for stage in self.trunk:
            width = stage.start(self.seqlen, width, self.numbers)
        height >>= pools_in(self.trunk)
        self.sizes = []
        for level in self.levels:
            level.start(width, self.numbers)
            self.sizes.append((height >> pools_in(level.stages), level.width))

    def push(self, band, last, tile, workers):
        # torch's own threads would wait for more, spinning, on the cores of those that share rows.
        with one_thread() if sums_in_pieces(self.numbers) else nullcontext():
            return self._push(band, last, tile, workers)

    def _push(self, band, last, tile, workers):
        rows = feed(self.trunk, band.transpose(0, 1), workers, last)
        maps = []
        for level in self.levels:
            features = feed(level.stages, rows, workers, last)
            maps.append(None if features is None else level.finish_head(features, tile, workers))
        return maps

    def bytes(self, rows, width, tile, threads):
        """Upper bound of the working memory for bands of `rows` rows, in bytes."""
        item = self.numbers.dtype.itemsize * (self.seqlen + 4)
        kept, passing, rows_below, width_below = path_values(self.trunk, rows, width)
        for level in self.levels:
            values = path_values(level.stages, rows_below, width_below)
            kept += values[0] + level.channels * values[2] * values[3]
            passing = max(passing, values[1])
        wide = wider(self.numbers).dtype.itemsize // self.numbers.dtype.itemsize
        tiles = 80 * wide * (threads * max(tile, width) + width)  # of the heads, of one row
        shared = 0  # what threads keep of the rows that they share: sums
        if sums_in_pieces(self.numbers):
            shared = 32 * min(threads * max(CHUNK, width), max(rows, 1) * width + threads * width)
        return int(item * (kept + passing + 56 * (rows + 8) * width + tiles + shared))


def pools_in(stages):
    return sum(isinstance(stage, RowPool) for stage in stages)


def path_values(stages, rows, width):
    """What stages in a row keep for a band of rows of the first's input.

    Returns:
        (values per frame that stay, most that one stage needs besides, rows and columns of the last
        one's output). With the last band come the rows that waited in every stage before.
    """
    kept = passing = 0
    for stage in stages:
        if isinstance(stage, RowPool):
            rows, width = max(1, (rows + 1) // 2), max(1, width // 2)
        stays, besides = stage.values(rows)
        kept, passing = kept + stays * width, max(passing, besides * width)
        rows += stage.lag
    return kept, passing, rows, width
