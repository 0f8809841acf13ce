"""Detections: their table, the challenge's text form, and what pictures mark of them."""

import numpy as np
import pytest
from PIL import Image, ImageSequence
from scipy import ndimage

from utils.metrics import EIGHT_CONNECTED
from utils.report.detections import (
    DetectionTable,
    find_detections,
    read_centroids,
    read_detections,
    write_centroids,
)
from utils.report.overlay import ALARM, COLOURS, DETECTION, FOUND, MISSED, judge, write_overlay


def test_detections_are_the_components_with_their_weighted_centroids(rng):
    scores = rng.random((4, 15, 17), np.float32)
    found = find_detections(scores, 0.8, first_frame=1)
    expected = []
    for number, frame in enumerate(scores, start=1):
        labels, count = ndimage.label(frame >= np.float32(0.8), EIGHT_CONNECTED)
        weights = frame.astype(np.float64)
        for index in range(1, count + 1):
            values = weights[labels == index]
            row, column = ndimage.center_of_mass(weights, labels, index)
            expected.append((number, row, column, len(values), values.max(), values.mean()))
    assert len(found) == len(expected)
    got = [(d.frame, d.row, d.column, d.pixels, d.peak_score, d.mean_score) for d in found]
    np.testing.assert_allclose(sorted(got), sorted(expected), rtol=1e-9)
    assert [d.frame for d in found] == sorted(d.frame for d in found)


def test_a_score_at_the_threshold_is_a_detection_and_no_score_is_none():
    scores = np.zeros((2, 4, 5), np.float32)
    assert find_detections(scores, 0.5) == []
    scores[1, 2, 3] = 0.7
    (detection,) = find_detections(scores, 0.7, first_frame=0)
    assert (detection.frame, detection.row, detection.column, detection.pixels) == (1, 2, 3, 1)
    assert len(find_detections(np.zeros((1, 3, 3), np.float32), 0)) == 1
    scores[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        find_detections(scores, 0.5)


def test_the_table_reads_back(tmp_path, rng):
    found = {
        name: find_detections(rng.random((3, 9, 9), np.float32), 0.7) for name in ("a", "b, 2")
    }
    with DetectionTable(tmp_path / "detections.csv") as table:
        for name, detections in found.items():
            table.add(name, detections)
    again = read_detections(tmp_path / "detections.csv")
    assert again.keys() == found.keys()
    for name in found:
        for one, other in zip(again[name], found[name], strict=True):
            np.testing.assert_allclose(list(vars(one).values()), list(vars(other).values()), 1e-5)
    with pytest.raises(OSError, match="cannot be written"):
        DetectionTable(tmp_path / "absent" / "detections.csv")


@pytest.mark.parametrize("order", ["rowcol", "xy"])
@pytest.mark.parametrize("first_frame", [0, 1])
def test_the_exported_text_parsed_back_equals_the_detections(tmp_path, rng, order, first_frame):
    scores = rng.random((5, 12, 31), np.float32) * (np.arange(5) != 2)[:, None, None]
    found = find_detections(scores.astype(np.float32), 0.97, first_frame)
    numbers = range(first_frame, first_frame + 5)
    write_centroids(tmp_path / "x.txt", found, numbers, order)
    again = read_centroids(tmp_path / "x.txt", order)
    assert list(again) == list(numbers) and again[first_frame + 2] == []
    pairs = [(number, *place) for number, places in again.items() for place in places]
    expected = [(d.frame, d.row, d.column) for d in found]
    assert len(expected) > 3
    np.testing.assert_allclose(pairs, expected, atol=0.005001)


def test_the_exported_text_is_in_the_challenge_form(tmp_path):
    scores = np.zeros((2, 9, 9), np.float32)
    scores[1, 2, 7], scores[1, 5, 3] = 1, 1
    write_centroids(tmp_path / "x.txt", find_detections(scores, 0.5), (1, 2), "rowcol")
    assert (tmp_path / "x.txt").read_text() == (
        "00001   0\n00002   2   0     2.00  7.00   0     5.00  3.00\n"
    )
    write_centroids(tmp_path / "x.txt", find_detections(scores, 0.5), (1, 2), "xy")
    assert "0     7.00  2.00   0     3.00  5.00" in (tmp_path / "x.txt").read_text()


@pytest.fixture
def scene():
    """Scores and centroids with a found target, a missed one and a false alarm."""
    scores = np.zeros((3, 40, 40), np.float32)
    centroids = np.zeros((3, 40, 40), np.uint8)
    centroids[1, 20, 20] = centroids[1, 30, 8] = 1
    scores[1, 20, 21] = scores[2, 10, 33] = 0.9
    return scores, centroids


def test_marks_tell_found_missed_detections_and_false_alarms(scene):
    verdict = judge(*scene, 0.5, hit=1, guard=4)
    kinds = [sorted(mark.kind for mark in marks) for marks in verdict.marks]
    assert kinds == [[], sorted([FOUND, MISSED, DETECTION]), [ALARM]]
    assert verdict.targets.tolist() == [0, 2, 0] and verdict.missed.tolist() == [0, 1, 0]
    assert verdict.alarm_pixels.tolist() == [0, 0, 1]
    unlabelled = judge(scene[0], None, 0.5, hit=1, guard=4)
    kinds = [[mark.kind for mark in marks] for marks in unlabelled.marks]
    assert kinds == [[], [DETECTION], [DETECTION]]


def test_the_overlay_has_every_frame_with_marks_in_their_colours(tmp_path, scene, rng):
    scores, centroids = scene
    frames = rng.integers(0, 60000, scores.shape, dtype=np.uint16)
    write_overlay(tmp_path / "x.gif", "x", frames, judge(scores, centroids, 0.5, 1, 4))
    with Image.open(tmp_path / "x.gif") as image:
        pages = [np.asarray(page.convert("RGB"))[60:] for page in ImageSequence.Iterator(image)]
    assert len(pages) == 3 and min(pages[0].shape[:2]) >= 400
    seen = [[bool((page == COLOURS[kind]).all(-1).any()) for kind in COLOURS] for page in pages]
    # In the order of COLOURS: found, missed, detection, false alarm.
    assert seen == [[False] * 4, [True, True, True, False], [False, False, False, True]]
