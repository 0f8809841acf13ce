"""The protocols: by what rule detections are counted as found targets and false alarms.

`PROTOCOLS` is the one place that knows radii, threshold grids, rules and their names.
"""

import math
from dataclasses import dataclass

from utils.metrics import THRESHOLDS, PdFaCurve

OPERATING_POINT = 0.5  # the threshold of the published tables


class Protocol:
    """A rule for counting, and what is made of the counts.

    Counts are integers; those of several blocks, sequences or processes are added with `+` and
    divided once, by `figures`.

    Attributes:
        name: as on the command line and in metrics.json.
        title: for people.
        thresholds: score thresholds, ascending; one of them is `OPERATING_POINT`.
        columns: of its tables: (title, key of `figures`, factor, digits).
    """

    name = title = None
    thresholds = THRESHOLDS
    columns = ()

    def count(self, block):
        """The counts of a block of frames with truth, a `utils.metrics.ScoredFrames`."""
        raise NotImplementedError

    def figures(self, counts):
        """What is reported of the counts: plain numbers or lists over the thresholds, by key.

        A ratio without denominator is None.
        """
        raise NotImplementedError

    def found(self, block, threshold):
        """Which targets of a block, in the order of `block.targets()`, are detected: bool."""
        raise NotImplementedError

    def alarms(self, block, threshold):
        """Which pixels of a block are false alarms: (n, H, W) bool."""
        raise NotImplementedError


@dataclass(frozen=True)
class RadiusProtocol(Protocol):
    """Published counting of DTUM, DeepPro and DeepPro-Plus: squares around the target pixels.

    Targets are the 8-connected components of the centroid masks. A target is detected if a pixel
    with score >= threshold lies within `hit` pixels (Chebyshev) of any of its pixels. False alarms
    are the pixels with score >= threshold outside the squares of half-width `guard` around all
    target pixels. Pd = detected / targets, Fa = false-alarm pixels / all pixels, AUC the trapezoid
    of Pd over Fa at the 27 published thresholds, no end points added. Squares that reach over the
    upper or left border are empty, as in the published counts: see `utils.metrics.squares`.

    Attributes:
        hit, guard: half-widths in pixels.
    """

    hit: int
    guard: int

    columns = (("Pd", "pd", 100, 2), ("Fa", "fa", 1e5, 2), ("AUC", "auc", 1, 4))

    @property
    def name(self):
        return f"hit{self.hit}_guard{self.guard}"

    @property
    def title(self):
        return f"hit {self.hit}, guard {self.guard}"

    def count(self, block):
        """A `utils.metrics.PdFaCurve` of the block."""
        counts = PdFaCurve(self.thresholds, self.hit, self.guard)
        counts.add(block)
        return counts

    def figures(self, counts):
        """{"pd": list, "fa": list, "auc": number} over the thresholds."""
        return {
            "pd": [_finite(value) for value in counts.pd()],
            "fa": [_finite(value) for value in counts.fa()],
            "auc": _finite(counts.auc()),
        }

    def found(self, block, threshold):
        return block.best_scores(self.hit) >= block.scores.dtype.type(threshold)

    def alarms(self, block, threshold):
        alarms = block.scores >= block.scores.dtype.type(threshold)
        alarms.ravel()[block.guarded(self.guard)] = False
        return alarms


# DeepPro-Plus and DTUM were published with the first, DeepPro with the second.
PROTOCOLS = {protocol.name: protocol for protocol in (RadiusProtocol(1, 4), RadiusProtocol(2, 5))}
MAIN = next(iter(PROTOCOLS))  # what tables are sorted by, and pictures drawn by, if not told


def operating_point(thresholds):
    """The place of the threshold 0.5 in a grid.

    Raises:
        ValueError: the grid has no such threshold.
    """
    return list(thresholds).index(OPERATING_POINT)


def _finite(value):
    return float(value) if math.isfinite(value) else None
