"""Pd and Fa counts against their definition, written out pixel by pixel."""

import numpy as np
import pytest
from scipy import ndimage

from utils import metrics
from utils.metrics import EIGHT_CONNECTED, THRESHOLDS, PdFaCurve, ScoredFrames, find_targets
from utils.protocols import choose

RADII = [(1, 4), (2, 5), (0, 0), (3, 2), (1, 9)]


def define_counts(scores, centroids, hit, guard, thresholds):
    """(targets, detected, false-alarm pixels), literally: Python slices, by threshold."""
    targets, detected, alarms = 0, [], []
    for threshold in thresholds:
        targets, found_targets, alarm_pixels = 0, 0, 0
        for frame, centroid in zip(scores, centroids, strict=True):
            positive = frame >= np.float32(threshold)
            labels, count = ndimage.label(centroid, EIGHT_CONNECTED)
            unguarded = positive.copy()
            for target in range(1, count + 1):
                found = False
                for i, j in np.argwhere(labels == target):
                    found |= positive[i - hit : i + hit + 1, j - hit : j + hit + 1].any()
                    unguarded[i - guard : i + guard + 1, j - guard : j + guard + 1] = False
                found_targets += found
            targets += count
            alarm_pixels += unguarded.sum()
        detected.append(found_targets)
        alarms.append(alarm_pixels)
    return targets, detected, alarms


def random_case(rng):
    """A few frames: borders, merged targets, none, scores exactly at thresholds, 0 and 1."""
    frames, height, width = rng.integers(0, 4), rng.integers(1, 24), rng.integers(1, 24)
    shape = (frames, height, width)
    levels = np.array([0, *THRESHOLDS, 1, 0.123, 3e-7], dtype=np.float32)
    scores = rng.choice(levels, shape)
    smooth = (rng.random(shape) ** rng.choice([1, 8, 60])).astype(np.float32)
    scores = np.where(rng.random(shape) < rng.random(), smooth, scores)
    centroids = (rng.random(shape) < rng.choice([0, 0.01, 0.1, 0.4])).astype(np.uint8)
    centroids[rng.random(frames) < 0.2] = 0
    for frame in centroids:
        for _ in range(rng.integers(0, 3)):
            row, column = rng.integers(0, height), rng.integers(0, width)
            frame[row : row + rng.integers(1, 4), column : column + rng.integers(1, 4)] = 255
    return scores, centroids


@pytest.mark.parametrize("hit, guard", RADII)
def test_counts_equal_the_definition_on_random_frames(hit, guard):
    rng = np.random.default_rng([46, hit, guard])
    total = PdFaCurve(THRESHOLDS, hit, guard)
    sums = [0, np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS))]
    for case in range(60):
        scores, centroids = random_case(rng)
        curve = PdFaCurve(THRESHOLDS, hit, guard)
        curve.update(scores, centroids)
        expected = define_counts(scores, centroids, hit, guard, THRESHOLDS)
        assert curve.targets == expected[0], case
        np.testing.assert_array_equal(curve.detected, expected[1], str(case))
        np.testing.assert_array_equal(curve.false_alarm_pixels, expected[2], str(case))
        total = total + curve
        sums = [old + np.asarray(new) for old, new in zip(sums, expected, strict=True)]
    assert total.targets == sums[0]
    np.testing.assert_array_equal(total.detected, sums[1])
    np.testing.assert_array_equal(total.false_alarm_pixels, sums[2])


def test_two_protocols_counted_together_equal_each_alone():
    rng = np.random.default_rng(1)
    scores, centroids = random_case(rng)
    together = [PdFaCurve(THRESHOLDS, *radii) for radii in RADII]
    frames = ScoredFrames(scores, centroids)
    for curve in together:
        curve.add(frames)
    for curve in together:
        alone = PdFaCurve(THRESHOLDS, curve.hit, curve.guard)
        alone.update(scores, centroids)
        np.testing.assert_array_equal(curve.detected, alone.detected)
        np.testing.assert_array_equal(curve.false_alarm_pixels, alone.false_alarm_pixels)


@pytest.mark.parametrize("block, part", [(1, 1), (7, 100), (64, 1 << 21)])
def test_counts_do_not_depend_on_how_the_work_is_cut(monkeypatch, block, part):
    rng = np.random.default_rng(2)
    scores, centroids = rng.random((5, 9, 11), np.float32) ** 9, np.zeros((5, 9, 11), np.uint8)
    centroids[1, 5:7, 5] = centroids[4, 8, 10] = 1
    whole = PdFaCurve()
    whole.update(scores, centroids)
    monkeypatch.setattr(metrics, "BLOCK", block)
    monkeypatch.setattr(metrics, "PART", part)
    cut = PdFaCurve()
    cut.update(scores, centroids)
    np.testing.assert_array_equal(cut.detected, whole.detected)
    np.testing.assert_array_equal(cut.false_alarm_pixels, whole.false_alarm_pixels)


def test_thresholds_may_come_in_any_order_and_other_precision_than_the_scores():
    scores = np.float32([[[0.7, 0.2, 0.1]]])
    curve = PdFaCurve([0.7, 0.1, 1.0, 0.2], hit=1, guard=0)
    curve.update(scores, np.zeros((1, 1, 3), np.uint8))
    assert curve.false_alarm_pixels.tolist() == [1, 3, 0, 2]


def test_touching_corners_make_one_target_and_frames_never_touch():
    centroids = np.zeros((2, 4, 4), np.uint8)
    centroids[0, 3, 3] = centroids[0, 2, 2] = centroids[0, 3, 1] = 1
    centroids[1, 0, 0] = centroids[1, 0, 3] = centroids[1, 1, 0] = 1
    targets = find_targets(centroids)
    assert targets.count == 3
    assert len(targets.pixels) == len(targets.owner) == 6


def test_a_nan_score_is_refused():
    scores = np.zeros((2, 5, 5), np.float32)
    scores[1, 2, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        PdFaCurve().update(scores, np.zeros((2, 5, 5), np.uint8))


def test_nothing_is_looked_for_twice(monkeypatch):
    searches, search = [], metrics.find_targets
    monkeypatch.setattr(metrics, "find_targets", lambda *a: searches.append(a) or search(*a))
    frames = ScoredFrames(*random_case(np.random.default_rng(3)))
    for protocol in choose():
        protocol.count(frames)
        for threshold in (0.5, 0.5):
            protocol.found(frames, threshold)
            protocol.alarms(frames, threshold)
            frames.components(threshold)
    assert len(searches) == 2  # the targets, and the detections at 0.5


@pytest.mark.parametrize("protocol", choose(), ids=lambda protocol: protocol.name)
def test_what_pictures_show_is_what_is_counted(protocol):
    rng = np.random.default_rng(4)
    for _ in range(20):
        frames = ScoredFrames(*random_case(rng))
        counts = protocol.count(frames).as_dict()
        for index, threshold in enumerate(protocol.thresholds):
            found, alarms = (f(frames, threshold) for f in (protocol.found, protocol.alarms))
            assert found.shape == (counts["targets"],) and found.sum() == counts["detected"][index]
            assert alarms.shape == frames.scores.shape
            assert alarms.sum() == counts["false_alarm_pixels"][index]


def test_figures_are_plain_and_none_without_denominator():
    (protocol, *_) = choose()
    empty = protocol.count(ScoredFrames(np.zeros((1, 3, 3), np.float32), np.zeros((1, 3, 3))))
    figures = protocol.figures(empty)
    assert figures["pd"] == [None] * len(protocol.thresholds) and figures["auc"] is None
    assert figures["fa"][0] == 1.0 and figures["fa"][-1] == 0.0
    assert {key for _, key, _, _ in protocol.columns} <= figures.keys()
