"""Accumulators of integer counts: pixel IoU, and Pd over Fa. Counts are summed, divided once."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

# The published thresholds; 0.5 is the operating point of the published tables.
THRESHOLDS = (
    *(0.0, 1e-20, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.2, 0.3, 0.35, 0.4),
    *(0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99, 1.0),
)
EIGHT_CONNECTED = np.ones((3, 3), dtype=int)


class PixelIoU:
    """Intersection over union of positive pixels (score > threshold) and mask pixels.

    Attributes:
        intersection, union: integer counts so far.
    """

    def __init__(self, threshold=0.5):
        self.threshold = threshold
        self.intersection = 0
        self.union = 0

    def update(self, scores, masks):
        """Adds scores and masks of one shape; masks are positive where above 0."""
        if scores.shape != masks.shape:
            raise ValueError(f"scores of shape {scores.shape}, but masks of {masks.shape}")
        positive = scores > self.threshold
        masks = masks > 0
        self.intersection += int((positive & masks).sum())
        self.union += int((positive | masks).sum())

    def iou(self):
        """Intersection / union; 0 where there is neither a positive nor a mask pixel."""
        return self.intersection / self.union if self.union else 0.0


class RunningIoU:
    """IoU of a training epoch, counted on the device; `iou` waits for it.

    Positive are pixels with sigmoid(logits) > threshold, compared as logits.
    """

    def __init__(self, threshold, device):
        self.logit = torch.logit(torch.tensor(float(threshold), dtype=torch.float64)).item()
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, logits, mask):
        """Adds logits and a mask in {0, 1} of one shape."""
        positive = logits > self.logit
        mask = mask > 0
        self.counts += torch.stack([(positive & mask).sum(), (positive | mask).sum()])

    def iou(self):
        """Intersection / union so far; 0 where there is neither a positive nor a mask pixel."""
        intersection, union = self.counts.tolist()
        return intersection / union if union else 0.0


@dataclass(frozen=True)
class Targets:
    """The targets of one frame: 8-connected components of its centroid mask.

    Attributes:
        pixels: (n, 2) integer (row, column) of all their pixels.
        owner: (n,) index of the target that a pixel belongs to.
        count: number of targets.
    """

    pixels: np.ndarray
    owner: np.ndarray
    count: int


def find_targets(centroid):
    """Labels a centroid mask (H, W) once; positive where above 0."""
    rows, columns = np.nonzero(centroid)
    pixels = np.stack([rows, columns], axis=1)
    if len(pixels) < 2:
        return Targets(pixels, np.zeros(len(pixels), dtype=int), len(pixels))
    top, left = pixels.min(axis=0)
    bottom, right = pixels.max(axis=0) + 1
    labels, count = ndimage.label(centroid[top:bottom, left:right], EIGHT_CONNECTED)
    return Targets(pixels, labels[rows - top, columns - left] - 1, count)


def region(pixels, radius, shape):
    """Where the squares of half-width `radius` around pixels lie, by the published slicing rule.

    The square of pixel (i, j) is the Python slice [i-r : i+r+1, j-r : j+r+1]. Where i-r or j-r is
    negative the slice starts from the far end and is usually empty: a target near the upper or left
    border then has no square. The published counts include this.

    Args:
        pixels: (n, 2) integer (row, column), n >= 1.
        radius: in pixels (Chebyshev).
        shape: (H, W) of the frame.

    Returns:
        (rows, columns, inside): two slices of the frame and, in the block that they cut out, a
        boolean array that is true in the union of the squares.
    """
    lower = pixels - radius
    upper = pixels + radius + 1
    if len(pixels) > 1:
        wraps = (lower < 0).any()
        (top, left), (bottom, right) = ((0, 0), shape) if wraps else (lower.min(0), upper.max(0))
    else:
        (top, left), (bottom, right) = lower[0], upper[0]
        rows, columns = slice(top, bottom), slice(left, right)
        height, width = len(range(*rows.indices(shape[0]))), len(range(*columns.indices(shape[1])))
        return rows, columns, np.ones((height, width), dtype=bool)
    inside = np.zeros((min(bottom, shape[0]) - top, min(right, shape[1]) - left), dtype=bool)
    for (first_row, first_column), (last_row, last_column) in zip(
        lower - (top, left), upper - (top, left), strict=True
    ):
        inside[first_row:last_row, first_column:last_column] = True
    return slice(top, bottom), slice(left, right), inside


def count_at_least(values, thresholds):
    """For each of ascending thresholds, how many values are >= it: int64, exact.

    Values below a threshold are dropped on the way once few are left, so the cost is that of
    reading the values a few times.
    """
    values = values.ravel()
    counts = np.zeros(len(thresholds), dtype=np.int64)
    for index, threshold in enumerate(thresholds):
        reached = values >= threshold
        counts[index] = np.count_nonzero(reached)
        if counts[index] == 0:
            break
        if counts[index] * 4 < values.size:
            values = values[reached]
    return counts


class PdFaCurve:
    """Detected targets and false-alarm pixels over score thresholds.

    A target is an 8-connected component of a frame's centroid mask. It is detected if a pixel with
    score >= threshold lies within `hit` pixels (Chebyshev) of any of its pixels. False alarms are
    the pixels with score >= threshold outside the squares of half-width `guard` around all target
    pixels. Squares follow the published slicing rule at the border; see `region`.

    Args:
        thresholds: score thresholds, in any order.
        hit, guard: half-widths in pixels. Published: 1, 4 for DeepPro-Plus, 2, 5 for DeepPro.

    Attributes:
        targets, pixels: integer totals.
        detected, false_alarm_pixels: int64 arrays over the thresholds.
    """

    def __init__(self, thresholds=THRESHOLDS, hit=1, guard=4):
        self.thresholds = np.asarray(thresholds, dtype=np.float64)
        self.hit, self.guard = hit, guard
        self.targets = 0
        self.pixels = 0
        self.detected = np.zeros(len(self.thresholds), dtype=np.int64)
        self.false_alarm_pixels = np.zeros(len(self.thresholds), dtype=np.int64)

    def update(self, scores, centroids):
        """Adds frames: scores (n, H, W) in [0, 1], centroids (n, H, W), targets where above 0.

        Raises:
            ValueError: the shapes differ, or a score is NaN.
        """
        update_curves([self], scores, centroids)

    def pd(self):
        """Detected / targets at each threshold; NaN where there is no target."""
        return self.detected / self.targets if self.targets else np.full(len(self.detected), np.nan)

    def fa(self):
        """False-alarm pixels / pixels at each threshold; NaN where there is no pixel."""
        alarms = self.false_alarm_pixels
        return alarms / self.pixels if self.pixels else np.full(len(alarms), np.nan)

    def auc(self):
        """Trapezoid of Pd over Fa at the thresholds, no end points added."""
        order = np.argsort(-self.thresholds)
        return float(np.trapezoid(self.pd()[order], self.fa()[order]))

    def __add__(self, other):
        """The curve of both sets of frames; thresholds and protocol must agree."""
        same = np.array_equal(self.thresholds, other.thresholds)
        if not same or (self.hit, self.guard) != (other.hit, other.guard):
            raise ValueError("curves of different thresholds or protocols do not add")
        total = PdFaCurve(self.thresholds, self.hit, self.guard)
        for name in ("targets", "pixels", "detected", "false_alarm_pixels"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total


def update_curves(curves, scores, centroids):
    """Adds frames to several curves of the same thresholds: each frame is labelled and read once.

    See `PdFaCurve.update`.
    """
    scores, centroids = np.asarray(scores), np.asarray(centroids)
    if scores.shape != centroids.shape or scores.ndim != 3:
        raise ValueError(
            f"scores of shape {scores.shape}, centroids of {centroids.shape}: "
            "expected both (frames, height, width)"
        )
    order = np.argsort(curves[0].thresholds)
    # Compared in the scores' own precision, as the published counts were: 0.7 in float32 is 0.7.
    thresholds = curves[0].thresholds[order].astype(scores.dtype)
    for frame, centroid in zip(scores, centroids, strict=True):
        if np.isnan(frame.min(initial=0)):
            raise ValueError("a score is NaN: the network's weights or input are not finite")
        targets = find_targets(centroid)
        positives = count_at_least(frame, thresholds)
        for curve in curves:
            curve.targets += targets.count
            curve.pixels += frame.size
            curve.false_alarm_pixels[order] += positives
            if targets.count:
                curve.false_alarm_pixels[order] -= _guarded(frame, targets, curve, thresholds)
                curve.detected[order] += _detected(frame, targets, curve, thresholds)


def _guarded(frame, targets, curve, thresholds):
    """Positive pixels inside the guard squares, over the thresholds."""
    rows, columns, inside = region(targets.pixels, curve.guard, frame.shape)
    return count_at_least(frame[rows, columns][inside], thresholds)


def _detected(frame, targets, curve, thresholds):
    """Detected targets, over the thresholds: those whose best score nearby reaches it."""
    best = []
    for target in range(targets.count):
        pixels = targets.pixels[targets.owner == target]
        rows, columns, inside = region(pixels, curve.hit, frame.shape)
        best.append(frame[rows, columns][inside].max(initial=-np.inf))
    return count_at_least(np.array(best, dtype=frame.dtype), thresholds)
