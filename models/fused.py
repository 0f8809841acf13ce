"""Fast evaluation of the detectors: folded layers, run band by band within a memory budget."""

from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn import functional

from models.folding import fold
from models.memory import default_memory, parse_memory
from models.precision import usable_dtype
from models.probe_head import FinalHead, Numbers, Scratch, matrix
from models.row_engine import RowLevel, RowStem, feed, row_stages
from models.temporal_engine import TemporalLevel

BAND_PIXELS = 8192  # pixels of a band on a CPU, above which nothing gets faster
STRIP_PIXELS = 512  # pixels of a strip on a CPU with one or two threads: stays in its cache


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
        folded = fold(model)
        self.check_clip, self.seqlen = folded.check_clip, folded.seqlen
        self.numbers, self.memory, self.allow_tf32 = numbers, memory, allow_tf32
        stages = folded.stages()
        spatial = max(stages.trunk[0][0].kernel_size[1:]) > 1
        self.engine = (RowNetwork if spatial else TemporalNetwork)(stages, self.seqlen, numbers)
        offset = sum(level.offset for level in self.engine.levels)
        self.final = FinalHead(stages.merge, stages.final, offset, numbers)

    def train(self, mode=True):
        if mode:
            raise RuntimeError("a fused detector is for evaluation only")
        return super().train(mode)

    @torch.no_grad()
    def forward(self, clip):
        self.check_clip(clip)
        with tf32(self.allow_tf32) if clip.is_cuda else nullcontext():
            return self._detect(clip)

    def _detect(self, clip):
        batch, _, frames, height, width = clip.shape
        rows, strip = self.plan(height, width)
        logits = clip.new_empty(batch, frames, height, width, dtype=torch.float32)
        scratch = Scratch(self.numbers)
        for i in range(batch):
            merge = LevelMerge(self.final, logits[i], len(self.engine.levels))
            self.engine.start(height, width)
            for top in range(0, height, rows):
                band = clip[i, 0, :, top : top + rows]
                maps = self.engine.push(band, top + rows >= height, strip, scratch)
                merge.push(maps, self.engine.sizes)
        return logits

    def plan(self, height, width):
        """(rows of a band, pixels of a strip) for frames of this size within the budget."""
        budget = default_memory(self.numbers.device) if self.memory is None else self.memory
        threads = torch.get_num_threads()
        most = BAND_PIXELS * max(1, threads // 2) if self.numbers.device.type == "cpu" else 1 << 30
        strip = STRIP_PIXELS * max(1, threads // 2)
        if self.numbers.device.type != "cpu":
            strip = 1 << 16
        unit = self.engine.unit
        rows = max(1, min(most // width, height) // unit) * unit
        while rows > unit and self.engine.bytes(rows, width, strip) > budget:
            rows = max(1, rows // unit // 2) * unit
        while strip > 64 and self.engine.bytes(rows, width, strip) > budget:
            strip //= 2
        needed = self.engine.bytes(rows, width, strip)
        if needed > budget:
            raise ValueError(
                f"memory budget of {budget} bytes: frames {width} pixels wide need {needed} or more"
            )
        return rows, strip


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


class TemporalNetwork:
    """A detector whose levels each start from the clip and see one temporal profile at a time."""

    def __init__(self, stages, seqlen, numbers):
        self.seqlen, self.numbers = seqlen, numbers
        shares = shares_of(stages)
        self.levels = [
            TemporalLevel(stages.trunk[0][0], level, share, seqlen, numbers)
            for level, share in zip(stages.levels, shares, strict=True)
        ]
        self.unit = max(level.scale for level in self.levels)

    def start(self, height, width):
        self.sizes = [(height // level.scale, width // level.scale) for level in self.levels]

    def push(self, band, last, strip, scratch):
        return [
            level.push(band, strip, scratch) if band.shape[1] >= level.scale else None
            for level in self.levels
        ]

    def bytes(self, rows, width, strip):
        """Upper bound of the working memory for bands of `rows` rows, in bytes."""
        item = self.numbers.dtype.itemsize * (self.seqlen + 4)
        strip = min(strip, rows * width)
        whole = max(strip, self.unit * width)  # a strip of a pooled level is at least one row
        return item * (56 * rows * width + 340 * strip + 40 * whole)


class RowNetwork:
    """A detector with spatial kernels, see `models.row_engine`."""

    unit = 1

    def __init__(self, stages, seqlen, numbers):
        self.seqlen, self.numbers = seqlen, numbers
        stem, *rest = stages.trunk
        self.trunk = [RowStem(stem, numbers), *row_stages(rest, numbers)]
        self.levels = [
            RowLevel(level, share, seqlen, numbers)
            for level, share in zip(stages.levels, shares_of(stages), strict=True)
        ]

    def start(self, height, width):
        for stage in self.trunk:
            width = stage.start(self.seqlen, width, self.numbers)
        pools = sum(not hasattr(stage, "conv1") for stage in self.trunk[1:])
        height >>= pools
        self.sizes = []
        for level in self.levels:
            level.start(width, self.numbers)
            pools = sum(not hasattr(stage, "conv1") for stage in level.stages)
            self.sizes.append((height >> pools, level.width))

    def push(self, band, last, strip, scratch):
        rows = feed(self.trunk, band.transpose(0, 1), last)
        maps = []
        for level in self.levels:
            features = feed(level.stages, rows, last)
            maps.append(None if features is None else level.finish_head(features, strip, scratch))
        return maps

    def bytes(self, rows, width, strip):
        """Upper bound of the working memory for bands of `rows` rows, in bytes."""
        item = self.numbers.dtype.itemsize * (self.seqlen + 2)
        total = sum(
            channels * (rows + context + 6)
            for stages in [self.trunk, *(level.stages for level in self.levels)]
            for channels, context in [stage.row_channels() for stage in stages]
        )
        return int(item * (width * (total + 56 * (rows + 8)) + 120 * max(strip, width)))


def shares_of(stages):
    """For every level, its columns of the merging matrix; None where there is no merge."""
    if stages.merge is None:
        return [None]
    return matrix(stages.merge[0]).chunk(len(stages.levels), dim=1)


class LevelMerge:
    """Collects the levels' maps, upsamples and adds them, and writes logits as far as they reach.

    Upsampling is bilinear with corners aligned over the whole image: output row r of H lies at
    r (h - 1) / (H - 1) in a map of h rows.
    """

    def __init__(self, final, logits, levels):
        self.final, self.logits = final, logits
        self.maps, self.tops = [None] * levels, [0] * levels  # waiting rows and the first's number
        self.done = 0

    def push(self, maps, sizes):
        for k, new in enumerate(maps):
            if new is not None:
                old = self.maps[k]
                self.maps[k] = new if old is None else torch.cat([old, new], dim=2)
        end = min(self._reach(k, sizes[k][0]) for k in range(len(self.maps)))
        if end <= self.done:
            return
        total = None
        for k, (height, width) in enumerate(sizes):
            part = self._upsampled(k, end, height, width)
            total = part if total is None else total.add_(part)
        frames, _, side = self.logits.shape
        self.logits[:, self.done : end] = self.final(total.flatten(2)).view(frames, -1, side)
        self.done = end

    def _source(self, row, height):
        """Position of an output row in a map of `height` rows: (row above, weight of the next)."""
        whole = self.logits.shape[1]
        if whole == 1 or height == 1:
            return 0, 0.0
        above, rest = divmod(row * (height - 1), whole - 1)
        return above, rest / (whole - 1)

    def _reach(self, k, height):
        """How many output rows the rows of level k suffice for."""
        whole = self.logits.shape[1]
        have = self.tops[k] + (0 if self.maps[k] is None else self.maps[k].shape[2])
        if have >= height:
            return whole
        # Row r needs row `above` and, with a weight, the next: r (h-1) <= (have-1) (H-1).
        return 0 if have == 0 else (have - 1) * (whole - 1) // (height - 1) + 1

    def _upsampled(self, k, end, height, width):
        maps, top = self.maps[k], self.tops[k]
        side = self.logits.shape[2]
        if (height, width) == tuple(self.logits.shape[1:]):
            part = maps[:, :, self.done - top : end - top].contiguous()
            keep = end
        else:
            sources = [self._source(row, height) for row in range(self.done, end)]
            above = torch.tensor([a for a, _ in sources])
            weight = torch.tensor([w for _, w in sources], dtype=maps.dtype).view(-1, 1)
            below = (above + 1).clamp(max=height - 1)
            above, below = (above - top).to(maps.device), (below - top).to(maps.device)
            below.clamp_(max=maps.shape[2] - 1)  # only rows of weight zero
            part = torch.lerp(
                maps.index_select(2, above), maps.index_select(2, below), weight.to(maps.device)
            )
            part = functional.interpolate(
                part, size=(end - self.done, side), mode="bilinear", align_corners=True
            )
            keep = self._source(end, height)[0] if end < self.logits.shape[1] else height
        keep = min(max(keep, top), top + maps.shape[2])
        self.maps[k], self.tops[k] = maps[:, :, keep - top :].clone(), keep
        return part
