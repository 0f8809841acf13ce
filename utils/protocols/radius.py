"""Squares around the target pixels: the protocol of DTUM, DeepPro and DeepPro-Plus."""

import math
from dataclasses import dataclass

from utils.metrics import PdFaCurve
from utils.protocols.base import Protocol, ratios


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
    counted = ("targets", "pixels", "detected", "false_alarm_pixels")

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

    def restore(self, thresholds, counts):
        curve = PdFaCurve(thresholds, self.hit, self.guard)
        curve.targets, curve.pixels = counts["targets"], counts["pixels"]
        curve.detected += counts["detected"]
        curve.false_alarm_pixels += counts["false_alarm_pixels"]
        return curve

    def figures(self, counts):
        """{"pd": list, "fa": list, "auc": number} over the thresholds."""
        return {
            "pd": [_finite(value) for value in counts.pd()],
            "fa": [_finite(value) for value in counts.fa()],
            "auc": _finite(counts.auc()),
        }

    def rates(self, counts):
        return {
            "pd": ratios(counts["detected"], counts["targets"]),
            "fa": ratios(counts["false_alarm_pixels"], counts["pixels"]),
        }

    def found(self, block, threshold):
        return block.best_scores(self.hit) >= block.scores.dtype.type(threshold)

    def alarms(self, block, threshold):
        alarms = block.scores >= block.scores.dtype.type(threshold)
        alarms.ravel()[block.guarded(self.guard)] = False
        return alarms


def _finite(value):
    return float(value) if math.isfinite(value) else None
