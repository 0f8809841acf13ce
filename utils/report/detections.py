"""Detections: connected positive pixels, as a table and in the challenge's text form."""

import csv
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from utils.files import csv_text, read_cell

# Which two numbers stand for a position, first and second. The published export tool writes row,
# column; the guide of the SatVideoIRSDT challenge asks for horizontal, vertical.
COORDINATE_ORDERS = {
    "rowcol": lambda detection: (detection.row, detection.column),
    "xy": lambda detection: (detection.column, detection.row),
}


@dataclass(frozen=True)
class Detection:
    """An 8-connected component of the pixels of one frame with score >= threshold.

    Attributes:
        frame: number of the frame, as in the names of the score maps.
        row, column: centroid in pixels, 0-based, weighted by score.
        pixels: their number.
        peak_score, mean_score: over its pixels.
    """

    frame: int
    row: float
    column: float
    pixels: int
    peak_score: float
    mean_score: float


COLUMNS = tuple(field.name for field in fields(Detection))


def find_detections(block, threshold):
    """The detections of a block, by frame, then from the top.

    Args:
        block: `utils.evaluation.ScoredBlock`.
        threshold: a pixel is positive if its score, in [0, 1], is at least this.

    Returns:
        List of `Detection`.
    """
    components = block.components(threshold)
    owner, count = components.owner, components.count
    frames, rows, columns = components.pixels.T
    scores = block.scores[frames, rows, columns].astype(np.float64)
    # Where the threshold is 0 all scores of a component may be 0: then its pixels weigh alike.
    empty = np.bincount(owner, scores, count)[owner] == 0
    weights = np.where(empty, 1.0, scores)
    mass = np.bincount(owner, weights, count)
    pixels = np.bincount(owner, minlength=count)
    peaks = np.zeros(count)
    np.maximum.at(peaks, owner, scores)
    first = np.zeros(count, dtype=int)
    first[owner[::-1]] = np.arange(len(owner))[::-1]  # of each component, its first pixel
    table = zip(
        np.asarray(block.numbers)[frames[first]].tolist(),
        (np.bincount(owner, weights * rows, count) / mass).tolist(),
        (np.bincount(owner, weights * columns, count) / mass).tolist(),
        pixels.tolist(),
        peaks.tolist(),
        (np.bincount(owner, scores, count) / pixels).tolist(),
        strict=True,
    )
    found = [Detection(*row) for row in table]
    return [found[index] for index in np.argsort(first)]


def table_head():
    """The first row of detections.csv, as text."""
    return csv_text([("sequence", *COLUMNS, "file")])


def table_rows(sequence, detections, files):
    """The rows of detections.csv for detections of the named sequence, as text.

    Args:
        files: {frame number: name of its file}, without those that have none of their own.
    """
    columns = [[getattr(detection, name) for detection in detections] for name in COLUMNS]
    for column, field in zip(columns, fields(Detection), strict=True):
        if field.type is float:
            column[:] = [round(entry, 6) for entry in column]
    names = [files.get(detection.frame, "") for detection in detections]
    return csv_text(zip([sequence] * len(detections), *columns, names, strict=True))


def read_detections(path):
    """Reads a detections.csv: {sequence: list of `Detection`}; sequences without any are absent."""
    kinds = [field.type for field in fields(Detection)]
    table = {}
    with Path(path).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            entries = [kind(row[name]) for kind, name in zip(kinds, COLUMNS, strict=True)]
            table.setdefault(read_cell(row["sequence"]), []).append(Detection(*entries))
    return table


def centroid_lines(detections, numbers, order):
    """Frames in the form of the SatVideoIRSDT challenge, as text.

    A line for each frame: its number in five digits, the number of targets, and for each of them
    `0`, a, b with two decimals.

    Args:
        detections: of these frames.
        numbers: the numbers of all the frames, in order.
        order: a key of `COORDINATE_ORDERS`: what a and b are.
    """
    place = COORDINATE_ORDERS[order]
    by_frame = {number: [] for number in numbers}
    for detection in detections:
        by_frame[detection.frame].append(place(detection))
    lines = [
        f"{number:05d}   {len(targets)}   "
        + "".join(f"0     {a:.2f}  {b:.2f}   " for a, b in targets)
        for number, targets in by_frame.items()
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def read_centroids(path, order):
    """Reads a file of `centroid_lines`: {frame number: list of (row, column)}.

    Raises:
        ValueError: a line is not of that form.
    """
    frames = {}
    for text in Path(path).read_text("utf-8").splitlines():
        words = text.split()
        if len(words) < 2 or len(words) != 2 + 3 * int(words[1]):
            raise ValueError(
                f"{path}: {text[:60]!r}: expected a frame's number, the number n of its targets, "
                "then n times three numbers"
            )
        pairs = zip(map(float, words[3::3]), map(float, words[4::3]), strict=True)
        frames[int(words[0])] = [(a, b) if order == "rowcol" else (b, a) for a, b in pairs]
    return frames
