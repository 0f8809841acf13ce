"""Integrated gradients of a target's score (M. Sundararajan et al., ICML 2017).

For a target with pixels L in frame t the score is C(x) = sum over L of sigmoid(logit of frame t).
Along the straight path from x' to the clip x,

    A = (x - x') * integral over a in [0, 1] of dC/dx at x' + a (x - x'),

an array (T, H, W): how much of C(x) - C(x') is due to each grey level. Its sum is that difference
if the integral is exact: it is complete. See `utils.attribution.quadrature` for how nearly it is.
"""

import numpy as np
import torch

from utils.attribution.quadrature import Adaptive


class ScorePath:
    """The scores of some targets along the straight path from `start` to `clip`.

    Args:
        scores: `utils.attribution.scores.TargetScores`.
        clip, start: (1, T, H, W) tensors on the device of the network, of its weights' type.
    """

    def __init__(self, scores, clip, start):
        self.of_targets, self.start, self.step = scores, start, clip - start

    @property
    def targets(self):
        """K, their number."""
        return len(self.of_targets.targets)

    def scores(self, places):
        """(n, K) scores at these places, numbers in [0, 1]."""
        return self.of_targets.measure(map(self._clip, places))

    def gradients(self, places, wanted):
        """Gradients at these places, along the path.

        Args:
            places: n numbers in [0, 1].
            wanted: (n, K) bool: for which targets.

        Yields:
            (place number, target number, slope, part): part is (x - x') dC/dx, (T, H, W) float32,
            and slope its sum, dC/da.
        """
        # Points that the same targets want share their passes.
        for pattern in np.unique(wanted, axis=0):
            chosen = np.flatnonzero((wanted == pattern).all(axis=1))
            clips = (self._clip(places[i]) for i in chosen)
            found = self.of_targets.differentiate(clips, np.flatnonzero(pattern).tolist())
            for i, k, gradient in found:
                part = (gradient * self.step[0]).cpu().numpy()
                yield chosen[i], k, float(part.sum(dtype=np.float64)), part

    def _clip(self, place):
        # Rounded once, as a clip: where the score switches on, the float32 nearest to the place is
        # far enough away to be seen in the gradient.
        return (self.start.double() + place * self.step.double()).to(self.start.dtype)


def integrate(scores, clip, start, quadrature=None):
    """Integrated gradients of the targets of `scores`: list of `Integral`.

    Args:
        scores: `utils.attribution.scores.TargetScores`; all its targets share the passes.
        clip, start: (T, H, W) float32, normalised; start from `utils.attribution.paths`. They are
            run in the type of the network's weights: float64 where rounding is to be kept out.
        quadrature: `Adaptive` or `Equidistant`; adaptive to 1 % if None.

    Raises:
        ValueError: the clip is not of the network's length, or a score or gradient is not finite.
    """
    weight = next(iter(scores.detector.parameters()), torch.zeros(()))
    ends = [torch.from_numpy(each).to(weight)[None] for each in (clip, start)]
    return (quadrature or Adaptive()).integrate(ScorePath(scores, *ends))
