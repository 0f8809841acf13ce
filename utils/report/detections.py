"""Detections: connected positive pixels, as a table and in the challenge's text form."""

import csv
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from utils.metrics import find_targets

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


def find_detections(scores, threshold, first_frame=1):
    """The detections in the scores (N, H, W) of a sequence, by frame, then from the top.

    Args:
        scores: in [0, 1].
        threshold: a pixel is positive if its score is at least this.
        first_frame: number of the first frame.

    Returns:
        List of `Detection`.

    Raises:
        ValueError: a score is NaN.
    """
    if np.isnan(scores.min(initial=0)):
        raise ValueError("a score is NaN: the network's weights or input are not finite")
    components = find_targets(scores >= scores.dtype.type(threshold))
    owner, count = components.owner, components.count
    frames, rows, columns = components.pixels.T
    values = scores[frames, rows, columns].astype(np.float64)
    # Where the threshold is 0 all scores of a component may be 0: then its pixels weigh alike.
    empty = np.bincount(owner, values, count)[owner] == 0
    weights = np.where(empty, 1.0, values)
    mass = np.bincount(owner, weights, count)
    pixels = np.bincount(owner, minlength=count)
    peaks = np.zeros(count)
    np.maximum.at(peaks, owner, values)
    first = np.zeros(count, dtype=int)
    first[owner[::-1]] = np.arange(len(owner))[::-1]  # of each component, its first pixel
    table = zip(
        (frames[first] + first_frame).tolist(),
        (np.bincount(owner, weights * rows, count) / mass).tolist(),
        (np.bincount(owner, weights * columns, count) / mass).tolist(),
        pixels.tolist(),
        peaks.tolist(),
        (np.bincount(owner, values, count) / pixels).tolist(),
        strict=True,
    )
    found = [Detection(*row) for row in table]
    return [found[index] for index in np.argsort(first)]


class DetectionTable:
    """detections.csv, written sequence by sequence; a context manager.

    Args:
        path: of the file; opened at once, so that a place that cannot be written to shows early.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path):
        self.path = Path(path)
        try:
            self.file = self.path.open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise OSError(f"{path}: cannot be written ({error.strerror})") from error
        self.writer = csv.writer(self.file)
        self.writer.writerow(("sequence", *COLUMNS))
        self.count = 0

    def add(self, sequence, detections):
        """Adds the detections of the named sequence."""
        for detection in detections:
            row = astuple(detection)
            rounded = [round(value, 6) if isinstance(value, float) else value for value in row]
            self.writer.writerow((sequence, *rounded))
        self.file.flush()
        self.count += len(detections)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()


def read_detections(path):
    """Reads a detections.csv: {sequence: list of `Detection`}; sequences without any are absent."""
    kinds = [field.type for field in fields(Detection)]
    table = {}
    with Path(path).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = [kind(row[name]) for kind, name in zip(kinds, COLUMNS, strict=True)]
            table.setdefault(row["sequence"], []).append(Detection(*values))
    return table


def write_centroids(path, detections, numbers, order):
    """Writes one sequence in the form of the SatVideoIRSDT challenge.

    A line for each frame: its number in five digits, the number of targets, and for each of them
    `0`, a, b with two decimals.

    Args:
        path: the text file.
        detections: of this sequence.
        numbers: the numbers of all its frames, in order.
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
    Path(path).write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")


def read_centroids(path, order):
    """Reads what `write_centroids` writes: {frame number: list of (row, column)}.

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
