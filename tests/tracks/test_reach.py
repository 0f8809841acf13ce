"""How far marks reach: against the definition, and what is counted of cut detections."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from models.detector import Detector
from tests.builders import ArraySequence, random_sequence
from utils.evaluation import Evaluator, ScoredBlock
from utils.metrics import PixelIoU, ScoredFrames, find_targets
from utils.protocols import PROTOCOLS
from utils.report.detections import find_detections
from utils.report.writers import Writer
from utils.scan import open_scan
from utils.tracks.linking import Linker
from utils.tracks.options import TrackOptions
from utils.tracks.reach import cut_marks, reach_of
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
    """A block as it is counted."""
    cut_marks(block, threshold, reach)
    return block.marked


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
    for limit in (0.5, max(threshold, 0.5)):
        positive = counted.scores >= np.float32(limit)
        for frame, marks in zip(scores, positive, strict=True):
            expected = marked_by_hand(frame, 0.5, reach) & (frame >= np.float32(limit))
            if limit == threshold:
                expected &= marked_by_hand(frame, limit, reach)
            assert np.array_equal(marks, expected)
    assert np.array_equal(counted.scores[positive], scores[positive])
    lower = scores < np.float32(0.5)
    assert np.array_equal(counted.scores[lower], scores[lower])
    assert np.array_equal(block.scores, scores)
    assert counted.components(0.5).count == block.components(0.5).count
    assert np.array_equal(counted.scores, scores) == (reach == 100)


def test_figures_at_half_do_not_depend_on_another_threshold(rng):
    scores = blobs(rng)
    blocks = [ScoredFrames(scores, (rng.random(scores.shape) > 0.995)) for _ in range(5)]
    thresholds = 0, 0.2, 0.5, 0.9, 1
    at_half = [cut(block, t, 2).scores >= 0.5 for block, t in zip(blocks, thresholds, strict=True)]
    assert all(np.array_equal(at_half[0], other) for other in at_half)


def test_at_lower_thresholds_all_is_counted_as_before(rng):
    scores = blobs(rng)
    centroids = (rng.random(scores.shape) > 0.995).astype(np.uint8)
    block, counted = ScoredFrames(scores, centroids), cut(ScoredFrames(scores, centroids), 0.5, 1.5)
    assert 0 < np.count_nonzero(counted.scores != scores) < np.count_nonzero(scores >= 0.5)
    for name, protocol in PROTOCOLS.items():
        if not protocol.counted:
            continue
        before, after = (protocol.count(each).as_dict() for each in (block, counted))
        below = np.array(protocol.thresholds) < 0.5
        for key, counts in before.items():
            if isinstance(counts, list):
                assert np.array_equal(np.array(counts)[below], np.array(after[key])[below]), name
    place = PROTOCOLS["hit1_guard4"].thresholds.index(0.5)
    before, after = (
        PROTOCOLS["hit1_guard4"].count(each).as_dict()["false_alarm_pixels"][place]
        for each in (block, counted)
    )
    assert after < before


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
        counts = [protocol.count(cut(block, 0.6, 2)) for block in whole]
        assert evaluation.counts(name).as_dict() == sum(counts[1:], counts[0]).as_dict()
        for other in (None, 1000):
            expected = [protocol.count(block) for block in whole]
            found = evaluations[other][0].counts(name).as_dict()
            assert found == sum(expected[1:], expected[0]).as_dict()
    for before, after in zip(whole, blocks, strict=True):
        assert np.array_equal(after.scores, before.scores)
        assert np.array_equal(after.marked.scores, cut(before, 0.6, 2).scores)
        assert isinstance(after.marked, ScoredBlock) and after.marked.start == before.start
        assert find_detections(after, 0.6) == find_detections(before, 0.6)
        assert max(found.pixels for found in find_detections(after.marked, 0.6)) <= 14
        iou.update(after.marked.scores, before.masks)
    assert evaluation.iou() == iou.iou() != evaluations[None][0].iou()


@pytest.mark.parametrize("options", [TrackOptions(), TrackOptions(min_area=3, mark_reach=1.5)])
def test_tracks_are_of_whole_detections_however_far_marks_reach(rng, options):
    scores = blobs(rng)
    sequence = SimpleNamespace(numbers=range(len(scores)))
    block = ScoredBlock(sequence, 0, scores, scores)
    frames = [list(linked_frames(block, 0.5, options, Linker(5, 5)))]
    cut_marks(block, 0.5, 0.5)
    frames.append(list(linked_frames(block, 0.5, options, Linker(5, 5))))
    for one, other in zip(*frames, strict=True):
        for name in ("pixels", "owner", "boxes", "scores"):
            assert np.array_equal(getattr(one, name), getattr(other, name))


def test_the_first_number_is_for_detections():
    for given, reach in ((None, None), ([3.0], 3), ([3.0, 1.75], 3), ([0.0], 0)):
        assert reach_of(SimpleNamespace(mark_reach=given)) == reach
