"""Accumulators of integer counts: pixel IoU, and Pd over Fa. Counts are summed, divided once.

`ScoredFrames` holds scores and truth of some frames with what was found in them.
"""

import math
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# The published thresholds; 0.5 is the operating point of the published tables.
THRESHOLDS = (
    *(0.0, 1e-20, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.2, 0.3, 0.35, 0.4),
    *(0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99, 1.0),
)
EIGHT_CONNECTED = np.ones((3, 3), dtype=int)
BLOCK = 1 << 17  # scores compared at once: they stay in the cache over the thresholds
FEW = 0.04  # share of a block below which extracting the scores left is cheaper than rereading
PART = 1 << 21  # scores that `PdFaCurve.update` counts at once
OF_TRUTH = "targets", "guarded"  # of what `ScoredFrames` keeps, what does not depend on scores


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
        self.intersection += int(np.count_nonzero(positive & masks))
        self.union += int(np.count_nonzero(positive | masks))

    def __add__(self, other):
        """The counts of both; their thresholds must agree."""
        if self.threshold != other.threshold:
            raise ValueError(f"IoU at {self.threshold} and at {other.threshold} do not add")
        total = PixelIoU(self.threshold)
        total.intersection = self.intersection + other.intersection
        total.union = self.union + other.union
        return total

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
    """The targets of some frames: the 8-connected components of each frame's centroid mask.

    Attributes:
        pixels: (n, 3) integer (frame, row, column) of all their pixels, in that order.
        owner: (n,) index of the target that a pixel belongs to.
        count: number of targets.
    """

    pixels: np.ndarray
    owner: np.ndarray
    count: int


def find_targets(centroids):
    """Labels centroid masks (n, H, W), positive where above 0: `Targets`.

    The cost is that of reading the masks once; labelling looks at positive pixels only.
    """
    _, height, width = centroids.shape
    flat = np.flatnonzero(centroids.ravel() > 0)
    pixels = np.stack(np.unravel_index(flat, centroids.shape), axis=1)
    # With a blank row and column between frames and rows, neighbours in this numbering are
    # neighbours in a frame; the four that come later are looked up.
    frames, rows, columns = pixels.T
    numbers = (frames * (height + 1) + rows) * (width + 1) + columns
    edges = []
    for step in (1, width, width + 1, width + 2):
        place = np.searchsorted(numbers, numbers + step)
        place[place == len(numbers)] = 0
        found = np.flatnonzero(numbers[place] == numbers + step)
        edges.append(np.stack([found, place[found]]))
    edges = np.concatenate(edges, axis=1)
    if edges.size == 0:
        return Targets(pixels, np.arange(len(pixels)), len(pixels))
    graph = coo_array((np.ones(edges.shape[1], bool), tuple(edges)), shape=(len(pixels),) * 2)
    count, owner = connected_components(graph, directed=False)
    return Targets(pixels, owner, count)


def squares(pixels, radius, shape):
    """The squares of half-width `radius` around pixels, by the published slicing rule.

    The square of pixel (i, j) is the Python slice [i-r : i+r+1, j-r : j+r+1] of its frame. Where
    i-r or j-r is negative the slice starts from the far end and is usually empty: a target near
    the upper or left border then has no square. The published counts include this.

    Args:
        pixels: (n, 3) integer (frame, row, column).
        radius: r in pixels (Chebyshev).
        shape: (frames, H, W).

    Returns:
        (places, inside): (n, (2r+1)^2) flat indices into an array of `shape`, and where they
        count; the others stand at some valid index.
    """
    frames, *positions = pixels.T
    spans = []
    for position, size in zip(positions, shape[1:], strict=True):
        first = position - radius
        first = np.where(first < 0, np.maximum(first + size, 0), first)
        span = first[:, None] + np.arange(2 * radius + 1)
        inside = span < np.minimum(position + radius + 1, size)[:, None]
        spans.append((np.where(inside, span, 0), inside))
    (rows, rows_inside), (columns, columns_inside) = spans
    row_starts = (frames[:, None] * shape[1] + rows) * shape[2]
    places = row_starts[:, :, None] + columns[:, None, :]
    inside = rows_inside[:, :, None] & columns_inside[:, None, :]
    size = (len(pixels), (2 * radius + 1) ** 2)
    return places.reshape(size), inside.reshape(size)


def best_scores(scores, targets, hit):
    """The largest score within `hit` pixels of each target; -inf where its squares are empty.

    Args:
        scores: (n, H, W).
        targets: `Targets` of the same frames.
        hit: half-width in pixels; see `squares` for the border.

    Returns:
        (targets.count,) in the scores' own precision.
    """
    places, inside = squares(targets.pixels, hit, scores.shape)
    nearby = np.where(inside, scores.ravel()[places], scores.dtype.type(-np.inf))
    best = np.full(targets.count, -np.inf, scores.dtype)
    np.maximum.at(best, targets.owner, nearby.max(axis=1, initial=-np.inf))
    return best


def guarded_pixels(targets, guard, shape):
    """Flat indices, each once, of the pixels inside the guard squares of any target.

    Args:
        targets: `Targets` of the frames.
        guard: half-width in pixels; see `squares` for the border.
        shape: (frames, H, W).
    """
    places, inside = squares(targets.pixels, guard, shape)
    guarded = np.zeros(math.prod(shape), dtype=bool)
    guarded[places[inside]] = True
    return np.flatnonzero(guarded)


def count_at_least(values, thresholds):
    """For each of ascending thresholds, how many values are >= it: int64, exact.

    The values are read in blocks that stay in the processor's cache, once for each threshold until
    few reach it; from there on only those are read.
    """
    values = values.ravel()
    counts = np.zeros(len(thresholds), dtype=np.int64)
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        reached_by_all = np.searchsorted(thresholds, block.min(), side="right")
        counts[:reached_by_all] += block.size
        for index, threshold in enumerate(thresholds[reached_by_all:], start=reached_by_all):
            reached = block >= threshold
            count = np.count_nonzero(reached)
            if count == 0:
                break
            counts[index] += count
            if count < FEW * block.size:
                block = block[reached]
    return counts


class ScoredFrames:
    """Scores and truth of some frames, and what was found in them: each looked for once.

    Args:
        scores: (n, H, W) floating point.
        centroids: (n, H, W), positive where above 0: each 8-connected component is a target. None
            where nothing is known of the targets.
        masks: (n, H, W), positive where above 0; the centroids if None.

    Raises:
        ValueError: the shapes differ, or a score is NaN.
    """

    def __init__(self, scores, centroids=None, masks=None):
        self.scores = np.ascontiguousarray(scores)
        self.centroids = None if centroids is None else np.asarray(centroids)
        self.masks = self.centroids if masks is None else np.asarray(masks)
        if self.scores.ndim != 3 or (
            centroids is not None and self.scores.shape != self.centroids.shape
        ):
            other = "" if centroids is None else f", centroids of {self.centroids.shape}"
            raise ValueError(
                f"scores of shape {self.scores.shape}{other}: expected (frames, height, width)"
            )
        if np.isnan(self.scores.min(initial=0)):
            raise ValueError("a score is NaN: the network's weights or input are not finite")
        self._found, self._mark = {}, None

    def __len__(self):
        return len(self.scores)

    def mark_by(self, mark):
        """Lets less than all of a detection count, see `marked_at`.

        Args:
            mark: callable(these frames, threshold) -> scores, some of them lower; None: all count.
        """
        self._mark = mark

    def marked_at(self, threshold):
        """The same frames as they are counted at a threshold, these themselves if all counts."""
        scores = None if self._mark is None else self._mark(self, threshold)
        if scores is None:
            return self
        marked = copy(self)
        marked.scores, marked._mark = scores, None
        truth = {key: found for key, found in self._found.items() if key[0] in OF_TRUTH}
        marked._found = truth
        return marked

    def remember(self, key, find):
        """What `find()` gave when it was first called under this key."""
        if key not in self._found:
            self._found[key] = find()
        return self._found[key]

    def targets(self):
        """`Targets` of the centroid masks."""
        return self.remember(("targets",), lambda: find_targets(self.centroids))

    def components(self, threshold):
        """The detections: 8-connected components of the pixels with score >= threshold, as
        `Targets`. The threshold is compared in the scores' own precision."""
        return self.remember(
            ("components", threshold),
            lambda: find_targets(self.scores >= self.scores.dtype.type(threshold)),
        )

    def reached(self, thresholds):
        """How many scores reach each of these thresholds, in any order: int64."""
        return self.remember(
            ("reached", tuple(thresholds)), lambda: count_reached(self.scores, thresholds)
        )

    def best_scores(self, hit):
        """The largest score within `hit` pixels of each target; see `best_scores`."""
        return self.remember(("best", hit), lambda: best_scores(self.scores, self.targets(), hit))

    def guarded(self, guard):
        """Flat indices of the pixels inside the guard squares; see `guarded_pixels`."""
        return self.remember(
            ("guarded", guard), lambda: guarded_pixels(self.targets(), guard, self.scores.shape)
        )


def count_reached(values, thresholds):
    """For each of these thresholds, in any order, how many values reach it: int64, exact.

    Compared in the values' own precision, as the published counts were: the float32 nearest to 0.7
    reaches 0.7.
    """
    thresholds = np.asarray(thresholds, dtype=np.float64)
    order = np.argsort(thresholds)
    counts = np.empty(len(thresholds), dtype=np.int64)
    counts[order] = count_at_least(values, thresholds[order].astype(values.dtype))
    return counts


class PdFaCurve:
    """Detected targets and false-alarm pixels over score thresholds.

    A target is an 8-connected component of a frame's centroid mask. It is detected if a pixel with
    score >= threshold lies within `hit` pixels (Chebyshev) of any of its pixels. False alarms are
    the pixels with score >= threshold outside the squares of half-width `guard` around all target
    pixels. Squares follow the published slicing rule at the border; see `squares`. Scores are
    compared in their own precision: the float32 nearest to 0.7 reaches the threshold 0.7.

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
        scores, centroids = np.asarray(scores), np.asarray(centroids)
        if scores.shape != centroids.shape or scores.ndim != 3:
            raise ValueError(
                f"scores of shape {scores.shape}, centroids of {centroids.shape}: "
                "expected both (frames, height, width)"
            )
        # In parts of a few MiB, so that memory does not grow with the number of frames.
        step = max(PART // max(math.prod(scores.shape[1:]), 1), 1)
        for start in range(0, len(scores), step):
            part = slice(start, start + step)
            self.add(ScoredFrames(scores[part], centroids[part]))

    def add(self, frames):
        """Adds `ScoredFrames` with centroids; what was found in them before is not sought again."""
        alarms = frames.reached(self.thresholds)
        guarded = frames.scores.ravel()[frames.guarded(self.guard)]
        self.targets += frames.targets().count
        self.pixels += frames.scores.size
        self.false_alarm_pixels += alarms - count_reached(guarded, self.thresholds)
        self.detected += count_reached(frames.best_scores(self.hit), self.thresholds)

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

    def as_dict(self):
        """The integers, as plain values for JSON."""
        return {
            "pixels": int(self.pixels),
            "targets": int(self.targets),
            "detected": self.detected.tolist(),
            "false_alarm_pixels": self.false_alarm_pixels.tolist(),
        }

    def __add__(self, other):
        """The curve of both sets of frames; thresholds and protocol must agree."""
        same = np.array_equal(self.thresholds, other.thresholds)
        if not same or (self.hit, self.guard) != (other.hit, other.guard):
            raise ValueError("curves of different thresholds or protocols do not add")
        total = PdFaCurve(self.thresholds, self.hit, self.guard)
        for name in ("targets", "pixels", "detected", "false_alarm_pixels"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total
