"""Fast evaluation of the detectors: folded layers, run band by band within a memory budget."""

import copy
import warnings
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import nn

from models.detector import PROMISES
from models.engine.budget import default_memory, parse_memory
from models.engine.cuda.network import CudaNetwork
from models.engine.heads import FinalHead
from models.engine.merge import LevelMerge
from models.engine.precision import PRECISIONS, Arithmetic, usable_dtype
from models.engine.rows.network import RowNetwork
from models.engine.tiles.packed import PackedTemporalNetwork
from models.engine.tiles.temporal import TemporalNetwork
from models.engine.workers import Pool, Workers, thread_count
from models.folding import fold

# The first that can is taken.
ENGINES = (CudaNetwork, PackedTemporalNetwork, TemporalNetwork, RowNetwork)


def fuse(model, precision="fp32", memory=None, *, force_precision=False):
    """An evaluation copy of a detector: many times faster, in a fraction of the memory.

    Same call: clip (B, 1, T, H, W) on the model's device to logits (B, n, H, W) float32, for any
    size that the model takes. Equal to `model.eval()` up to rounding; a budget changes no more than
    last bits. The model is left as it was; the copy makes the same promises.

    A detector without `stages`, or with stages that no engine knows, is copied as it is: the copy
    computes in float32, without a budget, and takes what the model takes, a recurrent one (frame,
    state). One warning says so where more was asked for.

    Args:
        model: a detector, on the device where clips will be.
        precision: "fp32", "bf16" or "fp16": the type of the layers; the logits are float32. Where
            the device lacks the type, falls back to fp32 with one warning.
        memory: bytes for everything beside the clip and its logits, or a string as "1GiB"; None
            chooses for the device.
        force_precision: compute in `precision` also where the device only emulates it.

    Raises:
        ValueError: unknown precision, no size of memory, weights that give no numbers, or `stages`
            that are refused; in a call, a clip that the model refuses or that holds NaN or
            infinity, frames too large for a GPU's kernels, or a budget that does not hold one band
            of it, with the smallest that does.
    """
    memory = parse_memory(memory)
    engines = []
    if model.stages() is not None:
        model.stages().check()
        folded = fold(model, torch.float64)  # each number is rounded once, by the engine
        engines = [engine for engine in ENGINES if engine.takes(folded.stages())]
    if engines:
        device = next(model.parameters()).device
        arithmetic = Arithmetic(usable_dtype(precision, device, force_precision), device)
        engines = [engine for engine in engines if engine.computes_in(arithmetic)]
    if engines:
        engine = engines[0]
        return FusedDetector(folded, engine, arithmetic, memory)
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    if precision != "fp32" or memory is not None:
        warnings.warn(
            f"{type(model).__name__} has no fast engine: it runs as trained, in fp32 and without "
            "a memory budget",
            stacklevel=2,
        )
    return UnfusedDetector(model)


def run_as_trained(model, precision="fp32", memory=None):
    """The network itself, which is the definition, where `fuse` or another engine might be."""
    if precision != "fp32" or memory is not None:
        raise ValueError("--engine reference: takes neither --precision nor --memory")
    return model


class EvaluationCopy(nn.Module):
    """What an engine gives: makes the promises of its model, and cannot be trained."""

    def __init__(self, model):
        super().__init__()
        for promise in PROMISES:
            setattr(self, promise, getattr(model, promise))

    def train(self, mode=True):
        if mode:
            raise RuntimeError("a fused detector is for evaluation only")
        return super().train(mode)

    @staticmethod
    def refuse_non_numbers(clip):
        """Refuses a clip that holds NaN or infinity: libraries' ReLUs turn these into scores.

        Raises:
            ValueError: it does.
        """
        # A sum is finite only if all its terms are, and found in an eighth of the time.
        if not (torch.isfinite(clip.sum()) or torch.isfinite(clip).all()):
            raise ValueError("a clip with NaN or infinity: expected numbers; scores would not tell")

    @contextmanager
    def evaluation(self, device):
        """Float32 stays what it is, whatever the caller has torch do; nothing is kept."""
        rounding = without_tf32() if device.type == "cuda" else nullcontext()
        with torch.no_grad(), torch.autocast(device.type, enabled=False), rounding:
            yield


class UnfusedDetector(EvaluationCopy):
    """A detector as it was trained, in float32."""

    def __init__(self, model):
        super().__init__(model)
        self.network = copy.deepcopy(model).float().eval().requires_grad_(False)

    def forward(self, *inputs):
        with self.evaluation(inputs[0].device):
            return self.network(*inputs)

    def stream(self, frame, *inputs):
        """`stream` of the network, where it `streams`."""
        with self.evaluation(frame.device):
            return self.network.stream(frame, *inputs)


class FusedDetector(EvaluationCopy):
    """A detector run by an engine. Holds no parameters: weights are cast and laid out for use.

    Several threads may call it at once: each call gives what it would alone, in as much memory.

    Args:
        folded: the folded detector, in float64.
        engine: the class, one of `ENGINES`.
        arithmetic: of the engine.
        memory: the budget in bytes, or None.
    """

    def __init__(self, folded, engine, arithmetic, memory):
        super().__init__(folded)
        self.check_clip = folded.check_clip
        self.arithmetic, self.memory = arithmetic, memory
        # Chosen once: later, memory of this engine's own would count as taken.
        self.budget = default_memory(arithmetic.device) if memory is None else memory
        stages = folded.stages()
        self.engine = engine(stages, self.seqlen, arithmetic)
        self.runs = Pool(partial(_new_run, self.engine))
        offset = sum(level.offset for level in self.engine.levels)
        self.final = FinalHead(stages.merge, stages.final, offset, self.engine.map_arithmetic)

    def forward(self, clip):
        self.check_clip(clip)
        self.refuse_non_numbers(clip)
        with (
            torch.inference_mode(False),  # scratch lives on between calls
            self.evaluation(clip.device),
            self.runs.taken() as (engine, workers),
            workers,
        ):
            plan = self.plan(*clip.shape[3:])
            # torch's own threads would wait for more, spinning, on the cores of those with tasks.
            return workers.lead(self._detect, clip, plan, engine, workers)

    def _detect(self, clip, plan, engine, workers):
        batch, _, frames, height, width = clip.shape
        rows, tile = plan
        logits = clip.new_empty(batch, frames, height, width, dtype=torch.float32)
        for i in range(batch):
            sizes = engine.start(clip[i, 0], rows)
            merge = LevelMerge(self.final, logits[i], sizes, workers)
            for top in range(0, height, rows):
                band = slice(top, min(top + rows, height))
                merge.push(engine.push(clip[i, 0], band, tile, workers))
        return logits

    def plan(self, height, width):
        """(rows of a band, pixels of a tile) for frames of this size within the budget."""
        budget = self.budget
        threads = thread_count(self.arithmetic.device)
        on_cpu = self.arithmetic.device.type == "cpu"
        most = self.engine.device_rows(width)
        if on_cpu:
            most = self.engine.band_pixels * max(1, threads // 2) // width
        tile = self.engine.tile_pixels if on_cpu else 1 << 16
        multiple = self.engine.band_multiple
        rows = max(1, min(most, -(-height // multiple) * multiple) // multiple) * multiple

        def excess():
            return self.memory_needed(rows, tile, width) > budget

        # Threads should have two tiles each in a band, of 128 pixels at least, while that fits.
        for smallest_tile, tiles in ((tile, 2 * threads), (min(tile, 128), 2 * threads), (16, 0)):
            while rows > multiple and rows * width > tiles * tile and excess():
                rows = max(1, rows // multiple // 2) * multiple
            while tile > smallest_tile and excess():
                tile //= 2
        needed = self.memory_needed(rows, tile, width)
        if needed > budget and self.memory is not None:
            raise ValueError(
                f"memory budget of {budget} bytes: frames {width} pixels wide need {needed} or more"
            )
        return rows, tile

    def memory_needed(self, rows, tile, width):
        """Upper bound of the working memory, in bytes, for a plan and frames of this width."""
        threads = thread_count(self.arithmetic.device)
        return self.engine.memory_needed(rows, width, tile, threads)


def _new_run(engine):
    """What a call works with: a twin of the engine, which is not run itself, and workers."""
    return engine.twin(), Workers(engine.map_arithmetic)


@contextmanager
def without_tf32():
    """Keeps products and convolutions in float32 on CUDA from using TF32, for a while."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, setting in zip(backends, before, strict=True):
            backend.allow_tf32 = setting
