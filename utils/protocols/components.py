"""Protocols that match the detections' centroids to the targets'."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from utils.metrics import EIGHT_CONNECTED, FEW, THRESHOLDS, find_targets
from utils.protocols.base import Counts, Protocol, ratios

# Below, most of a frame is one component.
COMPONENT_THRESHOLDS = tuple(threshold for threshold in THRESHOLDS if threshold >= 0.1)


class Components(NamedTuple):
    """The 8-connected components of some frames, by frame and in it by their first pixel.

    Attributes:
        frame: (n,) the frame that each is in.
        area: (n,) number of pixels.
        centroid: (n, 2) mean row and column of the pixels.
    """

    frame: np.ndarray
    area: np.ndarray
    centroid: np.ndarray


def measure(targets):
    """The `Components` of a `utils.metrics.Targets`."""
    frames, rows, columns = targets.pixels.T
    area = np.bincount(targets.owner, minlength=targets.count)
    frame = np.zeros(targets.count, dtype=int)
    frame[targets.owner] = frames
    sums = [np.bincount(targets.owner, each, minlength=targets.count) for each in (rows, columns)]
    return Components(frame, area, np.stack(sums, axis=1) / area[:, None])


def find_components(positive):
    """The `Components` of (n, H, W) bool."""
    if np.count_nonzero(positive) < FEW * positive.size:
        return measure(find_targets(positive))
    found = []
    for frame, mask in enumerate(positive):
        labels, count = ndimage.label(mask, EIGHT_CONNECTED)
        area = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        rows, columns = (
            np.bincount(labels.ravel(), np.broadcast_to(each, mask.shape).ravel(), count + 1)[1:]
            for each in np.ogrid[: mask.shape[0], : mask.shape[1]]
        )
        centroid = np.stack([rows, columns], axis=1) / area[:, None]
        found.append((np.full(count, frame), area, centroid))
    return Components(*(np.concatenate(each) for each in zip(*found, strict=True)))


def at_threshold(block, threshold):
    """The `Components` of a block's pixels with score >= threshold; looked for once."""
    key, limit = ("measured", threshold), block.scores.dtype.type(threshold)
    return block.remember(key, lambda: find_components(block.scores >= limit))


def target_components(block):
    """The `Components` of a block's targets; looked for once."""
    return block.remember("measured targets", lambda: measure(block.targets()))


def distances(targets, detections):
    """Yields, for every frame with targets, (targets, detections, distances) of that frame.

    Args:
        targets, detections: `Components`.

    Returns:
        The numbers of the targets (n,) and of the detections (m,), and the distances (n, m) of
        their centroids in pixels.
    """
    for frame in np.unique(targets.frame):
        some, others = (
            np.arange(*np.searchsorted(each.frame, (frame, frame + 1)))
            for each in (targets, detections)
        )
        apart = targets.centroid[some][:, None] - detections.centroid[others]
        yield some, others, np.sqrt((apart**2).sum(axis=2))


class ComponentProtocol(Protocol):
    """Base: each detection is a component, taken by at most one target.

    Targets are, as everywhere here, the components of the centroid masks, or of the masks where a
    data set has no others. The papers take the components of the masks; a target's centroid is the
    same within a pixel.
    """

    thresholds = COMPONENT_THRESHOLDS

    def match(self, targets, detections):
        """For each target the number of the detection that it takes, -1 for none."""
        raise NotImplementedError

    def false(self, detections, taken):
        """Which detections are false: bool; `taken` as from `match`."""
        false = np.ones(len(detections.area), dtype=bool)
        false[taken[taken >= 0]] = False
        return false

    def found(self, block, threshold):
        return self.match(target_components(block), at_threshold(block, threshold)) >= 0

    def alarms(self, block, threshold):
        pixels = block.components(threshold)
        detections = measure(pixels)
        taken = self.match(target_components(block), detections)
        alarms = np.zeros(block.scores.shape, dtype=bool)
        alarms[tuple(pixels.pixels[self.false(detections, taken)[pixels.owner]].T)] = True
        return alarms


@dataclass(frozen=True)
class CentroidProtocol(ComponentProtocol):
    """A target is detected if an untaken detection's centroid is less than `distance` away.

    In each frame the targets, in the order of their first pixels, take the first such detection in
    the same order (Euclidean distance in pixels). Pd = detected / targets. Fa = (positive pixels -
    pixels of the taken detections) / pixels. Reported so by BasicIRSTD (X. Ying et al.) and
    DQAligner.

    `by_area` is the older code of DNANet (B. Li et al., TIP 2023) and what descends from it,
    LMAFormer, MISTNet and FeedbackSTS among them: false pixels are the pixels of those detections
    whose area is not equal to that of a taken detection of the same frame. It is too low, since a
    false detection as large as a taken one vanishes: to be reported beside papers that used it, and
    nowhere else.

    Attributes:
        distance: in pixels; less than it is near.
        by_area: count false pixels as described.
    """

    name: str
    title: str
    distance: float
    by_area: bool = False

    columns = (("Pd", "pd", 100, 2), ("Fa", "fa", 1e5, 2))
    counted = ("targets", "pixels", "detected", "false_alarm_pixels")

    def match(self, targets, detections):
        taken = np.full(len(targets.area), -1)
        for some, others, apart in distances(targets, detections):
            near = apart < self.distance
            for target, candidates in zip(some, near, strict=True):
                if candidates.any():
                    first = candidates.argmax()
                    taken[target] = others[first]
                    near[:, first] = False
        return taken

    def false(self, detections, taken):
        if not self.by_area:
            return super().false(detections, taken)
        # An area of a frame as one number.
        kinds = detections.frame * (detections.area.max(initial=0) + 1) + detections.area
        return ~np.isin(kinds, kinds[taken[taken >= 0]])

    def count(self, block):
        targets, detected, alarms = target_components(block), [], []
        for threshold in self.thresholds:
            detections = at_threshold(block, threshold)
            taken = self.match(targets, detections)
            detected.append(np.count_nonzero(taken >= 0))
            alarms.append(detections.area[self.false(detections, taken)].sum())
        return Counts(
            targets=len(targets.area),
            pixels=block.scores.size,
            detected=detected,
            false_alarm_pixels=alarms,
        )

    def figures(self, counts):
        """{"pd": list, "fa": list} over the thresholds."""
        return {
            "pd": ratios(counts["detected"], counts["targets"]),
            "fa": ratios(counts["false_alarm_pixels"], counts["pixels"]),
        }


@dataclass(frozen=True)
class F1Protocol(ComponentProtocol):
    """Precision, recall and F1 of detections matched one to one to the targets of their frame.

    As many pairs as possible are formed whose centroids are at most `distance` apart (Euclidean, in
    pixels), and of all such matchings the one of the smallest total distance. Precision = pairs /
    detections, recall = pairs / targets, F1 = 2 pairs / (detections + targets). So scored locally
    for the CSIG challenge (2 px; the distance of its server is not public). DeepDIG pairs greedily
    within 3 px, which can be fewer pairs.

    Attributes:
        distance: in pixels; up to it is near.
    """

    name: str
    title: str
    distance: float

    columns = (("P", "precision", 100, 2), ("R", "recall", 100, 2), ("F1", "f1", 100, 2))
    counted = ("targets", "matched", "detections")

    def match(self, targets, detections):
        taken = np.full(len(targets.area), -1)
        for some, others, apart in distances(targets, detections):
            near = apart <= self.distance
            used = near.any(axis=0)
            others, apart, near = others[used], apart[:, used], near[:, used]
            # A pair that is too far apart costs more than all near ones together.
            cost = np.where(near, apart, (min(apart.shape) + 1) * (self.distance + 1))
            pairs = [
                (t, d) for t, d in zip(*linear_sum_assignment(cost), strict=True) if near[t, d]
            ]
            for target, detection in pairs:
                taken[some[target]] = others[detection]
        return taken

    def count(self, block):
        targets, matched, detections = target_components(block), [], []
        for threshold in self.thresholds:
            found = at_threshold(block, threshold)
            matched.append(np.count_nonzero(self.match(targets, found) >= 0))
            detections.append(len(found.area))
        return Counts(targets=len(targets.area), matched=matched, detections=detections)

    def figures(self, counts):
        """{"precision": list, "recall": list, "f1": list} over the thresholds."""
        matched, detections, targets = (
            counts[name] for name in ("matched", "detections", "targets")
        )
        return {
            "precision": ratios(matched, detections),
            "recall": ratios(matched, targets),
            "f1": ratios(2 * matched, detections + targets),
        }
