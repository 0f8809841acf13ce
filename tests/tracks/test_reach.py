"""How far marks reach: against the definition, and what is counted of cut detections."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from models.detector import Detector
from tests.builders import ArraySequence, random_sequence
from utils.evaluation import Evaluator, ScoredBlock
from utils.metrics import PixelIoU, ScoredFrames, find_targets
from utils.protocols import PROTOCOLS, count_marked
from utils.report.detections import find_detections
from utils.report.writers import Writer
from utils.scan import open_scan
from utils.tracks.linking import Linker
from utils.tracks.options import TrackOptions
from utils.tracks.reach import marks_up_to, reach_of
from utils.tracks.writer import linked_frames


def blobs(rng, frames=6, size=(24, 31)):
    """Scores with detections of all shapes, many at the border."""
    scores = rng.uniform(0, 1, (frames, *size)).astype(np.float32)
    for frame in scores:
        for _ in range(4):
            r, c = rng.integers(-3, size, 2)
            h, w = rng.integers(1, 9, 2)
            frame[max(r, 0) : r + h, max(c, 0) : c + w] += 0.5 * (rng.random() < 0.8)
    scores[2] = 0
    return np.clip(0.75 * scores, 0, 1)


def cut(block, threshold, reach):
    """A block as it is counted at a threshold."""
    block.mark_by(marks_up_to(reach))
    return block.marked_at(threshold)


def marked_by_hand(frame, threshold, reach):
    """Which pixels of a frame are marked: each detection from the pixel in its middle on."""
    marks = np.zeros(frame.shape, bool)
    found = find_targets(frame[None] >= np.float32(threshold))
    for k in range(found.count):
        pixels = [tuple(pixel) for pixel in found.pixels[found.owner == k, 1:].tolist()]
        weights = [float(frame[pixel]) or 1e-30 for pixel in pixels]
        centre = [
            sum(w * pixel[axis] for w, pixel in zip(weights, pixels, strict=True)) / sum(weights)
            for axis in (0, 1)
        ]
        distances = [math.dist(pixel, centre) for pixel in pixels]
        middle = min(range(len(pixels)), key=distances.__getitem__)
        waiting, seen = [pixels[middle]], {pixels[middle]}
        near = {p for p, distance in zip(pixels, distances, strict=True) if distance <= reach}
        while waiting:
            row, column = waiting.pop()
            marks[row, column] = True
            around = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
            waiting += (around & near) - seen
            seen |= around & near
    return marks


@pytest.mark.parametrize("reach", [0, 0.5, 1, 1.75, 3, 100])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_marks_are_those_of_the_definition(rng, reach, threshold):
    scores = blobs(rng)
    block = ScoredFrames(scores.copy())
    counted = cut(block, threshold, reach)
    positive = counted.scores >= np.float32(threshold)
    for frame, marks in zip(scores, positive, strict=True):
        all_of_it = frame >= np.float32(threshold)
        expected = all_of_it if threshold < 0.5 else marked_by_hand(frame, threshold, reach)
        assert np.array_equal(marks, expected)
    assert np.array_equal(counted.scores[positive], scores[positive])
    lower = scores < np.float32(threshold)
    assert np.array_equal(counted.scores[lower], scores[lower])
    assert np.array_equal(block.scores, scores)
    assert counted.components(threshold).count == block.components(threshold).count
    assert (counted is block) == np.array_equal(counted.scores, scores)
    assert (counted is block) == (reach == 100) or threshold in (0, 0.3, 1)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_at_each_threshold_its_own_detections_are_cut(rng, protocol):
    scores = blobs(rng)
    truth = (rng.random(scores.shape) > 0.995).astype(np.uint8)
    block, whole = ScoredFrames(scores, truth), ScoredFrames(scores, truth)
    block.mark_by(marks_up_to(1.5))
    found = count_marked([protocol, PROTOCOLS["hit1_guard4"]], block)[protocol.name].as_dict()
    names = [name for name, count in found.items() if isinstance(count, list)]
    before, differs = protocol.count(whole).as_dict(), 0
    for place, threshold in enumerate(protocol.thresholds):
        marks = np.stack([marked_by_hand(frame, threshold, 1.5) for frame in scores])
        marked = ScoredFrames(np.where(marks, scores, np.minimum(scores, 0.49)), truth)
        expected = protocol.count(marked if threshold >= 0.5 else whole).as_dict()
        assert [found[name][place] for name in names] == [expected[name][place] for name in names]
        differs += any(found[name][place] != before[name][place] for name in names)
    assert differs
    assert {name: before[name] for name in before if name not in names}.items() <= found.items()


def test_a_ring_is_marked_at_one_place(rng):
    angle = np.arange(0, 2 * np.pi, 0.05)
    scores = np.zeros((1, 30, 30), np.float32)
    rows, columns = (15 + (8 * turn(angle)).round() for turn in (np.sin, np.cos))
    scores[0, rows.astype(int), columns.astype(int)] = 0.9
    for reach in (2, 8):
        counted = cut(ScoredFrames(scores), 0.5, reach)
        assert find_targets(counted.scores >= 0.5).count == 1
    assert np.count_nonzero(cut(ScoredFrames(scores), 0.5, 2).scores >= 0.5) == 1


class Grey(Detector):
    """The logit of a pixel is its normalised grey level."""

    def __init__(self):
        super().__init__(10)

    def detect(self, clip):
        return clip


class Blocks(Writer):
    """Keeps what it is given."""

    def __init__(self):
        self.blocks = []

    def add(self, block):
        self.blocks.append(block)


def test_a_test_counts_what_is_marked_and_shows_all_scores(rng):
    images, masks = random_sequence(rng, 23, 24, 28)
    images[:, 5:14, 8:20] = 200
    sequence = ArraySequence("one", images, (masks > 0).astype(np.uint8))
    evaluations = {}
    for reach in (None, 2, 1000):
        kept = Blocks()
        scan = open_scan(Grey(), Grey())
        evaluator = Evaluator(scan, PROTOCOLS.values(), 0.6, [kept], reach)
        evaluations[reach] = evaluator.run([sequence]), kept.blocks
    whole = evaluations[None][1]
    (evaluation, blocks), iou = evaluations[2], PixelIoU(0.6)
    for name, protocol in PROTOCOLS.items():
        for block in whole:
            block.mark_by(marks_up_to(2))
        counts = [count_marked([protocol], block)[name] for block in whole]
        assert evaluation.counts(name).as_dict() == sum(counts[1:], counts[0]).as_dict()
        for other in (None, 1000):
            expected = [protocol.count(block) for block in whole]
            found = evaluations[other][0].counts(name).as_dict()
            assert found == sum(expected[1:], expected[0]).as_dict()
    for before, after in zip(whole, blocks, strict=True):
        assert np.array_equal(after.scores, before.scores)
        marked = after.marked_at(0.6)
        assert np.array_equal(marked.scores, cut(before, 0.6, 2).scores)
        assert isinstance(marked, ScoredBlock) and marked.start == before.start
        assert find_detections(after, 0.6) == find_detections(before, 0.6)
        assert max(found.pixels for found in find_detections(marked, 0.6)) <= 14
        iou.update(marked.scores, before.masks)
    assert evaluation.iou() == iou.iou() != evaluations[None][0].iou()


@pytest.mark.parametrize("options", [TrackOptions(), TrackOptions(min_area=3, mark_reach=1.5)])
def test_tracks_are_of_whole_detections_however_far_marks_reach(rng, options):
    scores = blobs(rng)
    sequence = SimpleNamespace(numbers=range(len(scores)))
    block = ScoredBlock(sequence, 0, scores, scores)
    frames = [list(linked_frames(block, 0.5, options, Linker(5, 5)))]
    block.mark_by(marks_up_to(0.5))
    frames.append(list(linked_frames(block, 0.5, options, Linker(5, 5))))
    for one, other in zip(*frames, strict=True):
        for name in ("pixels", "owner", "boxes", "scores"):
            assert np.array_equal(getattr(one, name), getattr(other, name))


def test_the_first_number_is_for_detections():
    for given, reach in ((None, None), ([3.0], 3), ([3.0, 1.75], 3), ([0.0], 0)):
        assert reach_of(SimpleNamespace(mark_reach=given)) == reach
