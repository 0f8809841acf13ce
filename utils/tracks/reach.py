"""How far the marks of a detection reach: pixels far from its centroid count as not positive.

A detection is an 8-connected component of the pixels of a frame with score >= threshold. Marked are
its pixels at most `reach` from its centroid, weighted by score. The pixel nearest to the centroid
is always marked, and others only where marked ones connect them to it, so that there are as many
detections as before. A large target is then marked where a small one would be.
"""

import numpy as np

from utils.metrics import find_targets
from utils.protocols import OPERATING_POINT


def score_centroids(found, scores):
    """Centroids of detections, (k, 2) row and column, weighted by score.

    Args:
        found: the detections, as `utils.metrics.Targets`.
        scores: (n,) float64, of their pixels.
    """
    count, owner = found.count, found.owner
    # Where the threshold is 0 all scores of a detection may be 0: then its pixels weigh alike.
    weights = np.where(np.bincount(owner, scores, count)[owner] == 0, 1.0, scores)
    mass = np.bincount(owner, weights, count)
    sums = [np.bincount(owner, weights * each, count) for each in found.pixels.T[1:]]
    return np.stack(sums, axis=1) / mass[:, None]


def near_pixels(found, centroids, reach, shape):
    """Which pixels of detections are marked: (n,) bool; see the module.

    Args:
        found: the detections, as `utils.metrics.Targets`.
        centroids: (k, 2) of these.
        reach: in pixels; the distance is Euclidean.
        shape: (frames, H, W) that they are in.
    """
    away = np.hypot(*(found.pixels[:, 1:] - centroids[found.owner]).T)
    near = away <= reach
    if near.all():
        return near
    order = np.lexsort((away, found.owner))
    nearest = order[np.searchsorted(found.owner[order], np.arange(found.count))]
    near[nearest] = True
    image = np.zeros(shape, bool)
    image[tuple(found.pixels[near].T)] = True
    parts = np.full(len(near), -1)
    parts[near] = find_targets(image).owner  # pixels come in the same order
    return near & (parts == parts[nearest][found.owner])


def marks_up_to(reach):
    """How frames are marked whose detections are marked up to `reach` pixels.

    Returns:
        For `utils.metrics.ScoredFrames.mark_by`: at each threshold its own detections are cut, but
        below that of published figures none. Pixels that are not marked get the largest score
        below the threshold.
    """

    def mark(block, threshold):
        if threshold < OPERATING_POINT:
            return None
        found = find_targets(block.scores >= block.scores.dtype.type(threshold))  # not kept
        weights = block.scores[tuple(found.pixels.T)].astype(np.float64)
        near = near_pixels(found, score_centroids(found, weights), reach, block.scores.shape)
        if near.all():
            return None
        scores, limit = block.scores.copy(), block.scores.dtype.type(threshold)
        scores[tuple(found.pixels[~near].T)] = np.nextafter(limit, limit - 1)
        return scores

    return mark


def reach_of(given):
    """How far a command's options let the marks of detections reach; None: all are marked."""
    return given.mark_reach[0] if given.mark_reach else None
