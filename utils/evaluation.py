"""Runs a detector over labelled sequences: validation windows, and stitched test sequences.

Anything that maps a clip (B, 1, T, H, W) to logits (B, T, H, W) is a detector.
"""

import itertools
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from utils.metrics import THRESHOLDS, PdFaCurve, PixelIoU, update_curves
from utils.windows import stitch

# (hit, guard) of the published rows: of DeepPro-Plus and DTUM, and of DeepPro.
PROTOCOLS = {"hit1_guard4": (1, 4), "hit2_guard5": (2, 5)}


@dataclass
class SequenceResult:
    """What one sequence scored.

    Attributes:
        name: of the sequence.
        frames: their number.
        curves: a `PdFaCurve` for each of `PROTOCOLS`.
        iou: `PixelIoU` of the stitched scores.
    """

    name: str
    frames: int
    curves: dict
    iou: PixelIoU


@dataclass
class Timing:
    """Seconds spent, by the wall clock.

    Reading and scoring run beside the network in threads of their own, so that the parts may add up
    to more than the total.

    Attributes:
        reading: decoding frames and masks.
        network: from clips to stitched scores, waiting for the frames not included.
        scoring: counting under all protocols.
        output: what `on_scores` took: pictures, tables.
        total: from the first frame to the last result.
        frames: number of frames.
    """

    reading: float = 0.0
    network: float = 0.0
    scoring: float = 0.0
    output: float = 0.0
    total: float = 0.0
    frames: int = 0


@dataclass
class Evaluation:
    """What a test list scored: results by sequence, in the list's order, and the time it took."""

    sequences: list = field(default_factory=list)
    timing: Timing = field(default_factory=Timing)

    def curve(self, protocol, names=None):
        """The summed `PdFaCurve` of the named sequences; of all if None."""
        hit, guard = PROTOCOLS[protocol]
        total = PdFaCurve(THRESHOLDS, hit, guard)
        for result in self.sequences:
            if names is None or result.name in names:
                total = total + result.curves[protocol]
        return total

    def iou(self):
        """Intersection over union of all sequences together."""
        intersection = sum(result.iou.intersection for result in self.sequences)
        union = sum(result.iou.union for result in self.sequences)
        return intersection / union if union else 0.0


@torch.inference_mode()
def evaluate_windows(detector, loss, sequences, threshold, device, progress=iter, gather=list):
    """Validation: the windows of the test list, unstitched (paper, training protocol).

    Args:
        detector: maps clips to logits, in evaluation mode.
        loss: callable(logits, mask).
        sequences: `data.sequences.LabelledSequences`.
        threshold: a pixel is positive if its score is above it.
        device: where the detector is.
        progress: wraps the iterator over sequences.
        gather: joins what several processes found, each on its share of the sequences.

    Returns:
        (mean loss over the windows, IoU over all their pixels). The padding of a short sequence
        counts in the loss, as in training, not in the IoU.
    """
    results = []
    for sequence in progress(sequences):
        losses, iou = [], PixelIoU(threshold)
        for start, clip in sequences.clips(sequence):
            masks = sequence.masks[start : start + sequences.seqlen]
            logits = detector(clip[None].to(device)).float()
            scores = _match_size(torch.sigmoid(logits), masks.shape[1:])
            iou.update(scores[0, : len(masks)].cpu().numpy(), masks)
            logits = _match_size(logits, masks.shape[1:])
            padded = np.zeros(logits.shape[1:], np.uint8)
            padded[: len(masks)] = masks
            losses.append(loss(logits, torch.from_numpy(padded)[None].to(device)).item())
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(
                    f"{sequence.name}: the validation loss is {losses[-1]}; expected a finite "
                    "number. Lower --learning_rate, or check the images"
                )
        results.append((losses, iou))
    results, total = gather(results), PixelIoU(threshold)
    for _, iou in results:
        total.intersection += iou.intersection
        total.union += iou.union
    return float(np.mean([loss for losses, _ in results for loss in losses])), total.iou()


@torch.inference_mode()
def score_sequence(detector, sequences, sequence, device, batch_size=1):
    """Stitched scores (N, H, W) float32 of one sequence, at the size of its masks if it has any."""
    starts, windows = [], []
    for batch in _batches(sequences.clips(sequence), batch_size):
        clips = torch.stack([clip for _, clip in batch])
        logits = detector(_send(clips, device))
        windows.extend(_fetch(torch.sigmoid(logits.float())))
        starts.extend(start for start, _ in batch)
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)  # once a sequence, not once a window
    scores = stitch([window.numpy() for window in windows], starts, len(sequence.frames))
    size = scores.shape[1:] if sequence.masks is None else sequence.masks.shape[1:]
    if scores.shape[1:] != size:
        scores = _match_size(torch.from_numpy(scores)[None], size)[0].numpy()
    return scores


def evaluate_sequences(
    detector,
    sequences,
    threshold,
    device,
    batch_size=1,
    on_scores=None,
    progress=iter,
    gather=list,
):
    """Test: stitched scores of every sequence, counted under all `PROTOCOLS`.

    While the network runs on one sequence the next is read and the one before it is counted; no
    more than these three are in memory.

    Args:
        detector, sequences, threshold, device, progress, gather: as in `evaluate_windows`;
            sequences without masks are scored but not counted.
        batch_size: windows of a sequence that are fed at once.
        on_scores: called with (sequence, scores) after each sequence, in order and in another
            thread, for whoever writes or draws them.

    Returns:
        `Evaluation`.

    Raises:
        ValueError: a score is NaN, or data cannot be read.
    """
    evaluation = Evaluation()
    timing = evaluation.timing
    began = time.perf_counter()
    with ThreadPoolExecutor(max_workers=1) as scorer:
        pending = None
        for sequence in progress(sequences):
            start = time.perf_counter()
            scores = score_sequence(detector, sequences, sequence, device, batch_size)
            timing.network += time.perf_counter() - start
            if pending is not None:
                pending.result()
            pending = scorer.submit(
                _take_scores, evaluation, sequence, scores, threshold, on_scores
            )
        if pending is not None:
            pending.result()
    evaluation.sequences = gather(evaluation.sequences)
    timing.frames = sum(gather([timing.frames]))
    timing.reading = getattr(sequences, "reading_seconds", 0.0)
    timing.total = time.perf_counter() - began
    return evaluation


def _take_scores(evaluation, sequence, scores, threshold, on_scores):
    timing = evaluation.timing
    timing.frames += len(scores)
    start = time.perf_counter()
    if sequence.masks is not None:
        evaluation.sequences.append(count_sequence(sequence, scores, threshold))
    counted = time.perf_counter()
    timing.scoring += counted - start
    if on_scores is not None:
        on_scores(sequence, scores)
        timing.output += time.perf_counter() - counted


def count_sequence(sequence, scores, threshold):
    """Counts one sequence's scores under all `PROTOCOLS`; see `SequenceResult`."""
    curves = {name: PdFaCurve(THRESHOLDS, *radii) for name, radii in PROTOCOLS.items()}
    try:
        update_curves(list(curves.values()), scores, sequence.centroids)
    except ValueError as error:
        raise ValueError(f"{sequence.name}: {error}") from error
    iou = PixelIoU(threshold)
    iou.update(scores, sequence.masks)
    return SequenceResult(sequence.name, len(scores), curves, iou)


def _batches(items, size):
    iterator = iter(items)
    return iter(lambda: list(itertools.islice(iterator, size)), [])


def _send(tensor, device):
    """A CPU tensor on `device`; the GPU copies it while the CPU goes on."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _fetch(tensor):
    """A tensor on the CPU; from a GPU it is filled only once the GPU has caught up."""
    if not tensor.is_cuda:
        return tensor.cpu()
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def _match_size(maps, size):
    """Maps (B, T, h, w) resized bilinearly to (B, T, *size), if they are not of that size."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return functional.interpolate(maps, size=tuple(size), mode="bilinear")
