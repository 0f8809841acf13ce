"""Runs a detector over sequences: validation while it trains, and the test with its counts."""

import itertools
import math
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from utils.metrics import PixelIoU, ScoredFrames
from utils.protocols import count_marked
from utils.scan import MOST_NARROW, normalised, run_clip, window_starts
from utils.scan.queue import Truth
from utils.tracks.reach import marks_up_to

READ = MOST_NARROW  # frames that are read at a time


class ScoredBlock(ScoredFrames):
    """Consecutive frames of a sequence with their scores and truth; see `ScoredFrames`.

    Attributes:
        sequence: the sequence: `name`, `numbers`, `labelled`, length, `read(start, stop)`.
        start, stop: its frames [start, stop) are in the block, 0-based.
        frames: (n, h, w) grey levels; of another size where a data set resizes its frames.
        scores: (n, H, W) float32 in [0, 1].
        masks, centroids: (n, H, W) uint8 in {0, 1}; None where nothing is known of the targets.
    """

    def __init__(self, sequence, start, frames, scores, masks=None, centroids=None):
        super().__init__(scores, centroids, masks)
        self.sequence, self.start, self.stop = sequence, start, start + len(scores)
        self.frames = frames

    @property
    def numbers(self):
        """The numbers of its frames in what is written."""
        return self.sequence.numbers[self.start : self.stop]


@dataclass
class SequenceResult:
    """What one sequence scored.

    Attributes:
        name: of the sequence.
        labelled: whether it has masks; if not there are no counts.
        frames: their number.
        counts: by protocol name, the protocol's counts.
        iou: `PixelIoU` of the scores.
    """

    name: str
    labelled: bool
    frames: int
    counts: dict
    iou: PixelIoU


@dataclass
class Timing:
    """Seconds spent, by the wall clock.

    Reading and scoring run beside the network in threads of their own, so that the parts may add up
    to more than the total.

    Attributes:
        reading: decoding frames and masks.
        network: from frames to final scores, waiting for the frames not included.
        scoring: counting under all protocols.
        output: what the writers took: pictures, tables.
        total: from the first frame to the last result.
        frames, sequences: their numbers.
    """

    reading: float = 0.0
    network: float = 0.0
    scoring: float = 0.0
    output: float = 0.0
    total: float = 0.0
    frames: int = 0
    sequences: int = 0


@dataclass
class Evaluation:
    """What a test list scored, by sequence in the list's order, and the time it took.

    Attributes:
        protocols: the `utils.protocols.Protocol`s under which it was counted.
        results: list of `SequenceResult`, of all sequences.
    """

    protocols: tuple
    results: list = field(default_factory=list)
    timing: Timing = field(default_factory=Timing)

    @property
    def sequences(self):
        """The results of the sequences with masks."""
        return [result for result in self.results if result.labelled]

    def counts(self, protocol, names=None):
        """The counts of the named sequences under a protocol's name, added up; of all if None."""
        results = [r for r in self.sequences if names is None or r.name in names]
        return add_up(result.counts[protocol] for result in results)

    def share(self, group):
        """Joins the results of several processes, each of which took its share of the sequences."""
        self.results = group.gather(self.results)
        self.timing.frames = sum(group.gather([self.timing.frames]))
        self.timing.sequences = len(self.results)

    def iou(self):
        """Intersection over union of all sequences together."""
        return add_up(result.iou for result in self.sequences).iou()


def add_up(items):
    """The sum of things that can be added; there is at least one."""
    items = iter(items)
    total = next(items)
    for item in items:
        total = total + item
    return total


class Evaluator:
    """Tests a detector: its scan over every sequence, counts and writers over the final scores.

    While the network runs, the next frames are read and the scores before are counted and written.
    A few blocks of frames are in memory at a time, however long a sequence is.

    Args:
        scan: from `utils.scan.open_scan`.
        protocols: the `utils.protocols.Protocol`s to count under.
        threshold: of the IoU: a pixel is positive if its score is above it.
        writers: each gets `add(block)` with every `ScoredBlock` in order, `end(sequence)` after a
            sequence's last one, `abandon()` in place of that after an error.
        reach: pixels that the marks of a detection reach, see `utils.tracks.reach`; None: all.
    """

    def __init__(self, scan, protocols, threshold, writers=(), reach=None):
        self.scan, self.protocols, self.threshold = scan, tuple(protocols), threshold
        self.writers, self.reach = list(writers), reach

    def run(self, sequences, progress=None):
        """Scans all sequences: their `Evaluation`.

        Args:
            sequences: `data.sequences.TestSequences`.
            progress: has `update(frames)`, such as a bar of tqdm; or None.

        Raises:
            ValueError: a score is NaN, or data cannot be read; the message names the sequence.
        """
        evaluation = Evaluation(self.protocols)
        self._run(evaluation, sequences, progress)
        return evaluation

    def run_far(self, sequences, progress=None, *, alone=True):
        """As `run`, as far as it goes: what has ended before an error is not lost.

        Ctrl-C and SIGTERM are such errors if it is `alone`: other processes would wait for it.

        Returns:
            (`Evaluation` of the sequences that have ended, the error that ended it or None).
        """
        evaluation, ends = Evaluation(self.protocols), BaseException if alone else Exception
        try:
            self._run(evaluation, sequences, progress)
        except ends as error:
            for writer in self.writers:
                writer.abandon()
            return evaluation, error
        return evaluation, None

    def _run(self, evaluation, sequences, progress):
        timing, began = evaluation.timing, time.perf_counter()
        with ThreadPoolExecutor(max_workers=1) as scorer:
            jobs, last, waiting, result = deque(), None, Truth(), None
            for sequence, block in ahead(timed(blocks_of(sequences), timing)):
                start = time.perf_counter()
                with named(sequence):
                    if result is None:
                        earlier = sequence.earlier if self.scan.looks_back else None
                        self.scan.begin(*sequence.normalisation, earlier)
                        result = self._new_result(sequence)
                    if block is None:
                        final = self.scan.finish()
                    else:
                        waiting.append(block)
                        final = self.scan.push(block.frames)
                timing.network += time.perf_counter() - start
                for first, scores in final:
                    scored = sequence, first, scores, waiting.take(first, first + len(scores))
                    last = scorer.submit(after, last, self._take, result, timing, *scored)
                    jobs.append(last)
                if block is None:
                    last = scorer.submit(after, last, self._end, evaluation, result, sequence)
                    jobs.append(last)
                    result = None
                elif progress is not None:
                    progress.update(len(block.frames))
                while len(jobs) > 2:
                    jobs.popleft().result()
            for job in jobs:
                job.result()
        timing.total = time.perf_counter() - began

    def _new_result(self, sequence):
        return SequenceResult(sequence.name, sequence.labelled, 0, {}, PixelIoU(self.threshold))

    def _take(self, result, timing, sequence, start, scores, taken):
        """Counts and writes final scores of some frames; `taken`: these, masks and centroids."""
        frames, masks, centroids = taken
        began = time.perf_counter()
        with named(sequence):
            if masks is not None:
                scores = resize_scores(scores, masks.shape[1:])
            block = ScoredBlock(sequence, start, frames, scores, masks, centroids)
            if self.reach is not None:
                block.mark_by(marks_up_to(self.reach))
            result.frames += len(scores)
            timing.frames += len(scores)
            if masks is not None:
                for name, counts in count_marked(self.protocols, block).items():
                    before = result.counts.get(name)
                    result.counts[name] = counts if before is None else before + counts
                result.iou.update(block.marked_at(self.threshold).scores, masks)
            counted = time.perf_counter()
            timing.scoring += counted - began
            for writer in self.writers:
                writer.add(block)
        timing.output += time.perf_counter() - counted

    def _end(self, evaluation, result, sequence):
        began = time.perf_counter()
        for writer in self.writers:
            writer.end(sequence)
        evaluation.results.append(result)
        evaluation.timing.sequences += 1
        evaluation.timing.output += time.perf_counter() - began


def after(job, call, *values):
    """`call(*values)`, unless the job before it failed: a writer never ends what misses a block."""
    if job is not None:
        job.result()
    call(*values)


def blocks_of(sequences):
    """Yields (sequence, `FrameBlock`) of all sequences in order, (sequence, None) at each end."""
    for sequence in sequences:
        sequence.normalisation  # noqa: B018  looked for here, where frames are read
        for block in sequence.blocks(READ):
            yield sequence, block
        yield sequence, None


def ahead(items):
    """Yields the items, the next one made in another thread while one is in use."""
    items, end = iter(items), object()
    with ThreadPoolExecutor(max_workers=1) as reader:
        following = reader.submit(next, items, end)
        while (item := following.result()) is not end:
            following = reader.submit(next, items, end)
            yield item


def timed(items, timing):
    """Yields the items; what making them took goes to `timing.reading`."""
    items, end = iter(items), object()
    while True:
        began = time.perf_counter()
        item = next(items, end)
        timing.reading += time.perf_counter() - began
        if item is end:
            return
        yield item


class named:
    """Puts a sequence's name before the message of a ValueError; as a context manager."""

    def __init__(self, sequence):
        self.name = sequence.name

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if isinstance(error, ValueError) and self.name not in str(error):
            raise ValueError(f"{self.name}: {error}") from error


def resize_scores(scores, size):
    """Scores or logits (n, h, w) resized bilinearly to (n, *size), if not of that size already."""
    if tuple(scores.shape[-2:]) == tuple(size):
        return scores
    maps = torch.as_tensor(scores)[None]
    resized = functional.interpolate(maps, size=tuple(size), mode="bilinear")[0]
    return resized if isinstance(scores, torch.Tensor) else resized.numpy()


@torch.inference_mode()
def validate(detector, network, loss, sequences, threshold, device):
    """Validation: the clips of labelled sequences, not joined (paper, training protocol).

    Args:
        detector: makes the promises; `network` is what is called, in evaluation mode.
        loss: callable(logits, mask).
        sequences: `data.sequences.TestSequences`, or part of it.
        threshold: a pixel is positive if its score is above it.
        device: where the network is.

    Returns:
        List of ([loss of each clip], `PixelIoU`), one for each sequence. The padding of a short
        sequence counts in the loss, as in training, not in the IoU.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    results = []
    clips = ((sequence, *clip) for sequence in sequences for clip in clips_of(sequence, detector))
    for _, group in itertools.groupby(ahead(clips), key=lambda item: id(item[0])):
        losses, iou = [], PixelIoU(threshold)
        for sequence, clip, masks, real in group:
            logits = run_clip(network, clip[None].to(device), detector).float()[0]
            scores = resize_scores(torch.sigmoid(logits), masks.shape[1:])
            logits = resize_scores(logits, masks.shape[1:])
            masks, real = masks[-len(logits) :], real[-len(logits) :]
            iou.update(scores[real].cpu().numpy(), masks[real])
            losses.append(loss(logits[None], torch.from_numpy(masks)[None].to(device)).item())
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(
                    f"{sequence.name}: the validation loss is {losses[-1]}; expected a finite "
                    "number. Lower --learning_rate, or check the images"
                )
        results.append((losses, iou))
    return results


def clips_of(sequence, detector):
    """Yields (clip, masks, real) of the clips that a labelled sequence is validated with.

    Those of the test windows; of a detector that predicts the last frame, one clip for each frame.
    Padding is as in the test: see `utils.scan`.

    Returns:
        clip (1, T, H, W) float32, normalised; masks (T, H', W') uint8; real (T,) bool: which frames
        are not padding.
    """
    seqlen, frames = detector.seqlen, len(sequence)
    if detector.predicts == "last" and not detector.recurrent:
        spans = [(stop - seqlen, stop) for stop in range(1, frames + 1)]
    else:
        starts = window_starts(frames, seqlen)
        spans = [(start, start + seqlen) for start in starts]
    for start, stop in spans:
        block = sequence.read(max(start, 0), min(stop, frames))
        clip = normalised(block.frames, *sequence.normalisation)
        before, after = max(-start, 0), max(stop - frames, 0)
        clip = np.concatenate(
            [
                clip[:1].repeat(before, axis=0),
                clip,
                np.zeros((after, *clip.shape[1:]), np.float32),
            ]
        )
        masks = np.pad(block.masks, ((before, after), (0, 0), (0, 0)))
        real = np.zeros(seqlen, bool)
        real[before : seqlen - after] = True
        yield torch.from_numpy(clip)[None], masks, real
