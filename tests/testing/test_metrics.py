"""Pd, Fa, AUC and IoU against golden counts and the definition."""

import numpy as np
import pytest
import torch

from utils.metrics import THRESHOLDS, PdFaCurve, PixelIoU, RunningIoU

GOLDEN = {"metrics_a": (1, 4), "metrics_a_protocol_2_5": (2, 5), "metrics_b": (1, 4)}
COUNTS = ("targets", "pixels", "detected", "false_alarm_pixels")


@pytest.mark.parametrize("case", GOLDEN)
def test_every_count_equals_the_golden_one(shared, case):
    golden = np.load(shared / "golden" / "metrics" / f"{case}.npz")
    hit, guard = GOLDEN[case]
    curve = PdFaCurve(golden["thresholds"], hit, guard)
    curve.update(golden["prediction"], golden["centroid"])
    assert (golden["targets"] == curve.targets).all() and curve.pixels == golden["pixels"]
    assert np.array_equal(curve.detected, golden["detected_targets"])
    assert np.array_equal(curve.false_alarm_pixels, golden["false_alarm_pixels"])
    assert curve.detected.dtype == curve.false_alarm_pixels.dtype == np.int64


def random_case(rng, frames=4):
    height, width = rng.integers(3, 30, 2)
    scores = rng.random((frames, height, width), dtype=np.float32) ** 6
    centroids = (rng.random(scores.shape) < 0.01).astype(np.uint8) * 255
    return scores, centroids


def counts(curve):
    return [np.asarray(getattr(curve, name)).tolist() for name in COUNTS]


def test_merged_curves_equal_the_curve_of_all_frames(rng):
    scores, centroids = random_case(rng)
    whole, first, second = PdFaCurve(), PdFaCurve(), PdFaCurve()
    whole.update(scores, centroids)
    first.update(scores[:1], centroids[:1])
    second.update(scores[1:], centroids[1:])
    assert counts(first + second) == counts(whole)


def test_curves_of_different_protocols_do_not_add():
    with pytest.raises(ValueError, match="do not add"):
        PdFaCurve(hit=1, guard=4) + PdFaCurve(hit=2, guard=5)


def test_thresholds_may_come_in_any_order(rng):
    scores, centroids = random_case(rng)
    shuffled = rng.permutation(len(THRESHOLDS))
    curve, other = PdFaCurve(), PdFaCurve(np.array(THRESHOLDS)[shuffled])
    curve.update(scores, centroids)
    other.update(scores, centroids)
    assert np.array_equal(curve.detected[shuffled], other.detected)
    assert np.array_equal(curve.false_alarm_pixels[shuffled], other.false_alarm_pixels)
    assert other.auc() == pytest.approx(curve.auc())


@pytest.mark.parametrize(("hit", "guard", "area"), [(1, 4, 81), (2, 5, 121)])
def test_at_threshold_0_each_inner_target_protects_its_square(hit, guard, area):
    centroids = np.zeros((1, 40, 40), np.uint8)
    centroids[0, 10, 10] = centroids[0, 30, 30] = 1
    curve = PdFaCurve([0.0], hit, guard)
    curve.update(np.zeros((1, 40, 40), np.float32), centroids)
    assert curve.targets == 2 and curve.false_alarm_pixels[0] == 1600 - 2 * area


def test_a_target_at_the_upper_or_left_border_follows_the_published_slices():
    centroids = np.zeros((1, 20, 20), np.uint8)
    centroids[0, 0, 10] = 1
    curve = PdFaCurve([0.5], hit=1, guard=4)
    curve.update(np.ones((1, 20, 20), np.float32), centroids)
    assert curve.detected[0] == 0 and curve.false_alarm_pixels[0] == 400


def test_a_score_of_exactly_the_threshold_is_positive_for_pd_and_fa_but_not_for_iou():
    scores = np.full((1, 9, 9), 0.7, np.float32)
    centroids = np.zeros((1, 9, 9), np.uint8)
    centroids[0, 4, 4] = 1
    curve, iou = PdFaCurve([0.7], hit=0, guard=0), PixelIoU(np.float32(0.7))
    curve.update(scores, centroids)
    iou.update(scores, centroids)
    assert curve.detected[0] == 1 and curve.false_alarm_pixels[0] == 80
    assert iou.intersection == 0 and iou.union == 1


def test_auc_is_the_trapezoid_without_end_points():
    curve = PdFaCurve([0.0, 0.5, 1.0])
    curve.targets, curve.pixels = 10, 100
    curve.detected = np.array([10, 8, 2])
    curve.false_alarm_pixels = np.array([100, 20, 0])
    expected = 0.2 * (0.2 + 0.8) / 2 + 0.8 * (0.8 + 1.0) / 2
    assert curve.auc() == pytest.approx(expected)


def test_no_target_gives_nan_not_a_crash():
    curve = PdFaCurve()
    curve.update(np.zeros((1, 5, 5), np.float32), np.zeros((1, 5, 5), np.uint8))
    assert np.isnan(curve.pd()).all() and curve.fa()[0] == 1


def test_nan_scores_and_wrong_shapes_are_refused():
    scores = np.zeros((1, 5, 5), np.float32)
    with pytest.raises(ValueError, match="expected both"):
        PdFaCurve().update(scores, np.zeros((1, 5, 6), np.uint8))
    scores[0, 2, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        PdFaCurve().update(scores, np.zeros((1, 5, 5), np.uint8))


def test_iou_counts_pixels_and_divides_once(rng):
    iou = PixelIoU(0.5)
    intersection = union = 0
    for _ in range(3):
        scores = rng.random((2, 6, 7), dtype=np.float32)
        masks = (rng.random((2, 6, 7)) < 0.3).astype(np.uint8)
        iou.update(scores, masks)
        intersection += sum(s > 0.5 and m for s, m in zip(scores.flat, masks.flat, strict=True))
        union += sum(s > 0.5 or m for s, m in zip(scores.flat, masks.flat, strict=True))
    assert (iou.intersection, iou.union) == (intersection, union)
    assert PixelIoU().iou() == 0


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_iou_of_an_epoch_counts_logits_as_scores(threshold):
    logits = torch.randn(2, 3, 8, 8)
    mask = (torch.rand(2, 3, 8, 8) < 0.3).to(torch.uint8)
    running, reference = RunningIoU(threshold, "cpu"), PixelIoU(threshold)
    running.update(logits, mask)
    reference.update(torch.sigmoid(logits).numpy(), mask.numpy())
    assert running.counts.tolist() == [reference.intersection, reference.union]
