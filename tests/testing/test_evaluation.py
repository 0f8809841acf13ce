"""The test of a detector, block by block, against whole sequences; validation; memory."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from losses import build_loss
from models.detector import Detector
from tests.builders import ArraySequence, random_sequence
from tests.report.scored import in_processes
from utils.evaluation import (
    READ,
    Evaluator,
    ScoredBlock,
    ahead,
    resize_scores,
    validate,
)
from utils.metrics import PixelIoU
from utils.protocols import MAIN, PROTOCOLS, choose
from utils.report.highlights import Highlights
from utils.scan import open_scan, run_clip, window_starts
from utils.scan.queue import Truth

MEAN, STD = 100.0, 20.0


class Brightness(Detector):
    """The logit of a pixel is its normalised grey level, times a factor, in every frame."""

    def __init__(self, seqlen=10, factor=4.0):
        super().__init__(seqlen)
        self.factor = factor

    def detect(self, clip):
        return self.factor * clip


class LastBrightness(Brightness):
    predicts = "last"

    def detect(self, clip):
        return self.factor * clip[:, :, -1:]


class Kept:
    """A writer that keeps what it is given."""

    def __init__(self):
        self.blocks, self.ended = [], []

    def add(self, block):
        self.blocks.append(block)

    def end(self, sequence):
        self.ended.append(sequence.name)

    def scores(self, name):
        return np.concatenate([b.scores for b in self.blocks if b.sequence.name == name])


@pytest.fixture
def sequences(rng):
    made = []
    for name, size in (("Sequence47", (41, 8, 10)), ("Sequence85", (7, 12, 14))):
        images, masks = random_sequence(rng, *size)
        made.append(ArraySequence(name, images, (masks > 0).astype(np.uint8)))
    made.append(ArraySequence("unlabelled", random_sequence(rng, 23, 9, 9)[0]))
    return made


def evaluate(sequences, detector=None, batch_size=1):
    detector, kept = detector or Brightness(), Kept()
    scan = open_scan(detector, detector, "cpu", batch_size)
    return Evaluator(scan, PROTOCOLS.values(), 0.5, [kept]).run(sequences), kept


def expected_scores(sequence):
    logits = 4 * (sequence.frames.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    return torch.sigmoid(torch.from_numpy(logits)).numpy()


@pytest.mark.parametrize("detector", (Brightness(), LastBrightness()), ids=("all", "last"))
@pytest.mark.parametrize("batch_size", (1, 3))
def test_counts_are_those_of_the_whole_sequences(sequences, detector, batch_size):
    evaluation, kept = evaluate(sequences, detector, batch_size)
    assert [result.name for result in evaluation.sequences] == ["Sequence47", "Sequence85"]
    assert kept.ended == ["Sequence47", "Sequence85", "unlabelled"]
    whole = {name: None for name in PROTOCOLS}
    iou = PixelIoU(0.5)
    for sequence in sequences:
        scores = expected_scores(sequence)
        np.testing.assert_allclose(kept.scores(sequence.name), scores, atol=1e-6)
        if not sequence.labelled:
            continue
        scores = kept.scores(sequence.name)
        iou.update(scores, sequence.masks)
        truth = sequence.masks, sequence.centroids
        block = ScoredBlock(sequence, 0, sequence.frames, scores, *truth)
        for name, protocol in PROTOCOLS.items():
            counts = protocol.count(block)
            whole[name] = counts if whole[name] is None else whole[name] + counts
    for name, counts in whole.items():
        assert evaluation.counts(name).as_dict() == counts.as_dict()
    assert evaluation.iou() == iou.iou()
    assert evaluation.timing.frames == 41 + 7 + 23


def test_blocks_carry_the_frames_and_masks_of_their_scores(sequences):
    _, kept = evaluate(sequences)
    for sequence in sequences:
        blocks = [block for block in kept.blocks if block.sequence is sequence]
        stop = 0
        for block in blocks:
            assert block.start == stop and block.stop - block.start == len(block.scores)
            stop = block.stop
            span = slice(block.start, block.stop)
            np.testing.assert_array_equal(block.frames, sequence.frames[span])
            assert list(block.numbers) == [index + 1 for index in range(span.start, span.stop)]
            if sequence.labelled:
                np.testing.assert_array_equal(block.masks, sequence.masks[span])
                np.testing.assert_array_equal(block.centroids, sequence.centroids[span])
        assert stop == len(sequence)


def test_counts_of_some_sequences_are_theirs_alone(sequences):
    evaluation, _ = evaluate(sequences)
    name = next(iter(PROTOCOLS))
    parts = [evaluation.counts(name, [result.name]) for result in evaluation.sequences]
    assert (parts[0] + parts[1]).as_dict() == evaluation.counts(name).as_dict()
    assert parts[1].pixels == 7 * 12 * 14


@pytest.mark.parametrize("size", (2, 3, 4, 7))
@pytest.mark.parametrize("labelled", ("00111", "10010", "11000", "00001", "00000"))
def test_several_processes_count_what_one_does_whatever_is_labelled(rng, size, labelled):
    made = []
    for number, has_masks in enumerate(labelled):
        frames, masks = random_sequence(rng, 5 + number, 8, 9)
        masks = (masks > 0).astype(np.uint8) if has_masks == "1" else None
        made.append(ArraySequence(f"s{number}", frames, masks))

    def run(group):
        detector, writer = Brightness(), Highlights(0.5, PROTOCOLS[MAIN])
        scan = open_scan(detector, detector)
        evaluation = Evaluator(scan, choose(), 0.5, [writer]).run(group.shard(made))
        for each in (evaluation, writer):
            each.share(group)
        counts = [(r.name, r.counts[MAIN].as_dict()) for r in evaluation.sequences]
        return counts, evaluation.timing.frames, [strip.sequence for strip in writer.strips]

    alone = in_processes(1, run)[0]
    assert [name for name, _ in alone[0]] == [f"s{n}" for n in range(5) if labelled[n] == "1"]
    assert in_processes(size, run) == [alone] * size


def test_scores_are_resized_to_masks_of_another_size(rng):
    frames = rng.integers(60, 140, (12, 16, 20), dtype=np.uint8)
    masks = np.zeros((12, 8, 10), np.uint8)
    _, kept = evaluate([ArraySequence("resized", frames, masks)])
    assert kept.scores("resized").shape == masks.shape
    whole = resize_scores(expected_scores(ArraySequence("resized", frames)), (8, 10))
    np.testing.assert_allclose(kept.scores("resized"), whole, atol=1e-6)


def test_nan_logits_are_refused_with_the_sequence(sequences):
    with pytest.raises(ValueError, match="Sequence47: a score is NaN"):
        evaluate(sequences, Brightness(factor=float("nan")))


def test_frames_that_cannot_be_read_end_the_test_with_their_message(sequences):
    def broken(size):
        yield sequences[1].read(0, 5)
        raise ValueError("00006.png: cannot be read")

    sequences[1].blocks = broken
    with pytest.raises(ValueError, match="00006.png"):
        evaluate(sequences)


def test_frames_before_the_first_one_reach_the_detector():
    class First(LastBrightness):
        """The logit of the first frame of the clip."""

        def detect(self, clip):
            return clip[:, :, :1]

    sequence = ArraySequence("s", np.full((12, 4, 5), 100, np.uint8))
    sequence.earlier = np.full((9, 4, 5), 140, np.uint8)
    _, kept = evaluate([sequence], First())
    assert (kept.scores("s")[:9] > 0.8).all() and (kept.scores("s")[9:] == 0.5).all()


@pytest.mark.parametrize("failing", range(1, 6))
def test_after_a_writer_has_failed_none_gets_more(sequences, failing):
    class Failing(Kept):
        def add(self, block):
            time.sleep(0.01)  # the network is ahead by now
            super().add(block)
            if len(self.blocks) == failing:
                raise OSError("no room")

    detector, first, second = Brightness(), Failing(), Kept()
    scan = open_scan(detector, detector)
    with pytest.raises(OSError, match="no room"):
        Evaluator(scan, choose(), 0.5, [first, second]).run(sequences)
    assert len(first.blocks) == failing and len(second.blocks) == failing - 1
    assert first.ended == second.ended and sequences[2].name not in second.ended


def test_the_network_waits_for_slow_writers(sequences):
    class Slow(Kept):
        def add(self, block):
            time.sleep(0.02)
            super().add(block)
            ahead_by.append(detector.clips - len(self.blocks))

    class Counting(LastBrightness):
        clips = 0

        def detect(self, clip):
            self.clips += len(clip)
            return super().detect(clip)

    detector, ahead_by, slow = Counting(), [], Slow()
    scan = open_scan(detector, detector)
    Evaluator(scan, choose(), 0.5, [slow]).run([sequences[0]])
    assert max(ahead_by) <= 2 * READ


def test_truth_gives_the_frames_asked_for_and_forgets_them(rng):
    sequence, truth, start = ArraySequence("s", rng.random((50, 2, 3))), Truth(), 0
    for block in sequence.blocks(7):
        truth.append(block)
        stop = min(max(block.start - 3, 0), 50)
        if stop > start:
            frames, masks, _ = truth.take(start, stop)
            np.testing.assert_array_equal(frames, sequence.frames[start:stop])
            assert masks is None and len(truth.blocks) <= 3
            start = stop


def test_items_made_ahead_come_in_order_and_raise_in_their_place():
    def items():
        yield from range(3)
        raise KeyError("fourth")

    seen = []
    with pytest.raises(KeyError, match="fourth"):
        for item in ahead(items()):
            seen.append(item)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("detector", (Brightness(), LastBrightness()), ids=("all", "last"))
def test_validation_is_the_loss_and_iou_of_clips_that_are_not_joined(sequences, detector):
    criterion = build_loss("SoftIoU")
    labelled = sequences[:2]
    # Padding scores 0.5: at this threshold it would count, were it not left out.
    found = validate(detector, detector, criterion, labelled, 0.4, "cpu")
    for sequence, (losses, iou) in zip(labelled, found, strict=True):
        count, expected_losses, expected = len(sequence), [], PixelIoU(0.4)
        if detector.predicts == "last":
            spans = [range(stop - 10, stop) for stop in range(1, count + 1)]
        else:
            spans = [range(start, start + 10) for start in window_starts(count, 10)]
        for span in spans:
            # Before the first frame it is repeated; after the last one there are zeros.
            inside = [min(max(index, 0), count - 1) for index in span]
            real = np.array([0 <= index < count for index in span])
            clip = (sequence.frames[inside].astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
            clip[[index >= count for index in span]] = 0
            masks = sequence.masks[inside] * real[:, None, None].astype(np.uint8)
            logits = run_clip(detector, torch.from_numpy(clip)[None, None], detector)
            n = logits.shape[1]
            mask, real = torch.from_numpy(masks)[-n:], real[-n:]
            expected_losses.append(criterion(logits, mask[None]).item())
            scores = torch.sigmoid(logits)[0].numpy()
            expected.update(scores[real], mask.numpy()[real])
        assert losses == pytest.approx(expected_losses)
        assert (iou.intersection, iou.union) == (expected.intersection, expected.union)


def test_a_validation_loss_that_is_not_finite_names_the_sequence(sequences):
    detector = Brightness(factor=float("nan"))
    with pytest.raises(FloatingPointError, match="Sequence47: the validation loss is nan"):
        validate(detector, detector, build_loss("BCE"), sequences[:1], 0.5, "cpu")


def test_a_block_without_truth_has_detections_but_no_targets():
    scores = np.zeros((2, 5, 5), np.float32)
    scores[1, 2, 2] = 0.9
    sequence = ArraySequence("s", np.zeros((2, 5, 5), np.uint8))
    block = ScoredBlock(sequence, 0, sequence.frames, scores)
    assert block.components(0.5).count == 1 and block.masks is None


PEAK = """
import resource, sys

import numpy as np
from tests.builders import ArraySequence, FrameBlock
from utils.evaluation import Evaluator
from utils.protocols import choose
from utils.scan import open_scan
from tests.testing.test_evaluation import Brightness

class Endless(ArraySequence):
    def __init__(self, count):
        self.some = np.random.default_rng(46).integers(0, 255, (16, 128, 128), dtype=np.uint8)
        super().__init__("long", range(count), masks=range(count))
    def read(self, start, stop):
        frames = self.some[: stop - start]
        mask = (frames > 254).astype(np.uint8)
        return FrameBlock(start, frames, mask, mask)

detector = Brightness(40)
scan = open_scan(detector, detector)
for count in map(int, sys.argv[1:]):
    evaluation = Evaluator(scan, choose(), 0.5).run([Endless(count)])
    assert evaluation.timing.frames == count
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="resource is a module of Unix")
def test_a_long_sequence_needs_no_more_memory_than_a_short_one():
    done = subprocess.run(
        [sys.executable, "-c", PEAK, "300", "600", "3000"],
        capture_output=True,
        text=True,
        check=True,
    )
    _, short, long = map(int, done.stdout.split())
    # Frames, masks and scores of the 2,400 frames more are 275 MB.
    assert long - short < 40_000 * (1 if sys.platform != "darwin" else 1024)
