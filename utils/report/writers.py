"""What is written of each sequence as soon as it is scored: pictures, detections, exports.

Each is called with (sequence, scores), in the order of the sequences.
"""

from dataclasses import dataclass
from pathlib import Path

from utils.report.detections import DetectionTable, find_detections, write_centroids
from utils.report.overlay import judge, match_size, write_overlay
from utils.report.score_maps import write_score_maps
from utils.run_dir import make_folder

EXPORTS = ("centroids",)


@dataclass
class Pictures:
    """Writes `<folder>/<sequence>/<frame>.png`, the score maps, and `<folder>/<sequence>.gif`.

    Args:
        folder: where to.
        threshold: a pixel is positive if its score is at least this.
        hit, guard: the protocol that tells false alarms from detections.
        first_frame: number of the first frame.
        unlabelled_only: leave out sequences that have masks.
    """

    folder: Path
    threshold: float
    hit: int
    guard: int
    first_frame: int = 1
    unlabelled_only: bool = False
    count: int = 0

    def __call__(self, sequence, scores):
        if self.unlabelled_only and sequence.masks is not None:
            return
        write_score_maps(self.folder / sequence.name, scores, self.first_frame)
        verdict = judge(scores, sequence.centroids, self.threshold, self.hit, self.guard)
        frames = match_size(sequence.frames, scores.shape[1:])
        path = self.folder / f"{sequence.name}.gif"
        write_overlay(path, sequence.name, frames, verdict, self.first_frame)
        self.count += 1


class Detections:
    """Writes detections.csv and, on request, a text file of centroids for each sequence.

    Args:
        path: of detections.csv, or None.
        threshold: a pixel is positive if its score is at least this.
        first_frame: number of the first frame.
        centroids: folder of the text files, or None.
        order: a key of `utils.report.detections.COORDINATE_ORDERS`.

    Raises:
        OSError: a place cannot be written to; before any sequence.
    """

    def __init__(self, path, threshold, first_frame=1, centroids=None, order="rowcol"):
        self.table = None if path is None else DetectionTable(path)
        self.threshold, self.first_frame, self.order = threshold, first_frame, order
        self.centroids = None if centroids is None else make_folder(centroids)
        self.count = 0

    def __call__(self, sequence, scores):
        if self.table is None and self.centroids is None:
            return
        try:
            found = find_detections(scores, self.threshold, self.first_frame)
        except ValueError as error:
            raise ValueError(f"{sequence.name}: {error}") from error
        self.count += len(found)
        if self.table is not None:
            self.table.add(sequence.name, found)
        if self.centroids is not None:
            numbers = range(self.first_frame, self.first_frame + len(scores))
            path = self.centroids / f"{sequence.name}.txt"
            write_centroids(path, found, numbers, self.order)


@dataclass
class Normalisations:
    """Remembers the mean and standard deviation that each sequence was normalised with.

    Args:
        sequences: has `normalisation(sequence)`.
    """

    sequences: object

    def __post_init__(self):
        self.values = {}

    def __call__(self, sequence, scores):
        self.values[sequence.name] = self.sequences.normalisation(sequence)

    def line(self):
        """The values in words: of the one, or the span of many."""
        means, stds = zip(*self.values.values(), strict=True)
        return f"mean {_span(means)}, std {_span(stds)}"


def _span(values):
    low, high = min(values), max(values)
    return f"{low:.4f}" if low == high else f"{low:.4f} to {high:.4f}"
