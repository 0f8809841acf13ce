"""Detections: their definition, their table, and the challenge's text form."""

import csv

import numpy as np
import pytest
from scipy import ndimage

from tests.report.scored import block_of, blocks_of, feed, sequence_of
from utils.files import read_cell
from utils.metrics import EIGHT_CONNECTED
from utils.report.detections import (
    centroid_lines,
    find_detections,
    read_centroids,
    read_detections,
)
from utils.report.writers import Detections


def test_detections_are_the_components_with_their_weighted_centroids(rng):
    scores = rng.random((4, 15, 17), np.float32)
    found = find_detections(block_of(scores), 0.8)
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


def test_detections_do_not_depend_on_how_frames_come_in_blocks(rng):
    scores = rng.random((11, 15, 17), np.float32)
    sequence = sequence_of("s", scores)
    sequence.numbers = [7 * index for index in range(11)]
    whole, parts = (
        [d for block in blocks_of(sequence, scores, size) for d in find_detections(block, 0.9)]
        for size in (11, 3)
    )
    assert whole == parts and {d.frame for d in whole} == set(sequence.numbers)


def test_a_score_at_the_threshold_is_a_detection_and_no_score_is_none():
    scores = np.zeros((2, 4, 5), np.float32)
    assert find_detections(block_of(scores), 0.5) == []
    scores[1, 2, 3] = 0.7
    (detection,) = find_detections(block_of(scores), 0.7)
    assert (detection.frame, detection.row, detection.column, detection.pixels) == (2, 2, 3, 1)
    assert len(find_detections(block_of(np.zeros((1, 3, 3), np.float32)), 0)) == 1
    scores[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        block_of(scores)


def test_the_table_reads_back(tmp_path, rng):
    writer, found = Detections(tmp_path / "detections.csv", 0.7), {}
    for name in ("a", "b, 2"):
        scores = rng.random((9, 9, 9), np.float32)
        sequence = sequence_of(name, scores)
        if name == "a":
            sequence.file_names = tuple(f"=cam_{7 * index}.png" for index in range(9))
        feed([writer], sequence, scores, size=4)
        found[name] = find_detections(block_of(scores), 0.7)
    assert writer.close() == [tmp_path / "detections.csv"]
    assert writer.count == sum(map(len, found.values()))
    again = read_detections(tmp_path / "detections.csv")
    assert again.keys() == found.keys()
    for name in found:
        for one, other in zip(again[name], found[name], strict=True):
            np.testing.assert_allclose(list(vars(one).values()), list(vars(other).values()), 1e-5)
    with (tmp_path / "detections.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            came_from = f"=cam_{7 * (int(row['frame']) - 1)}.png"
            assert read_cell(row["file"]) == (came_from if row["sequence"] == "a" else "")
    with pytest.raises(OSError, match="cannot be written"):
        Detections(tmp_path / "absent" / "detections.csv", 0.5)


@pytest.mark.parametrize("order", ["rowcol", "xy"])
@pytest.mark.parametrize("first_frame", [0, 1])
def test_the_exported_text_parsed_back_equals_the_detections(tmp_path, rng, order, first_frame):
    scores = rng.random((5, 12, 31), np.float32) * (np.arange(5) != 2)[:, None, None]
    scores = scores.astype(np.float32)
    sequence = sequence_of("x", scores)
    sequence.numbers = range(first_frame, first_frame + 5)
    writer = Detections(None, 0.97, tmp_path, order)
    feed([writer], sequence, scores, size=2)
    assert writer.close() == [tmp_path]
    again = read_centroids(tmp_path / "x.txt", order)
    assert list(again) == list(sequence.numbers) and again[first_frame + 2] == []
    pairs = [(number, *place) for number, places in again.items() for place in places]
    (block,) = blocks_of(sequence, scores, 5)
    expected = [(d.frame, d.row, d.column) for d in find_detections(block, 0.97)]
    assert len(expected) > 3
    np.testing.assert_allclose(pairs, expected, atol=0.005001)


def test_the_exported_text_is_in_the_challenge_form():
    scores = np.zeros((2, 9, 9), np.float32)
    scores[1, 2, 7], scores[1, 5, 3] = 1, 1
    found = find_detections(block_of(scores), 0.5)
    assert centroid_lines(found, (1, 2), "rowcol") == (
        "00001   0\n00002   2   0     2.00  7.00   0     5.00  3.00\n"
    )
    assert "0     7.00  2.00   0     3.00  5.00" in centroid_lines(found, (1, 2), "xy")
