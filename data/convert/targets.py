"""Masks of targets of which a box is known.

The method wants masks of the target's own pixels, at most 9 x 9 of them; boxes drawn by people are
looser, boxes of near targets larger. So a mask is found in two steps.

1. **By the image**, where the target stands out. The surroundings are the pixels outside the box,
   2 to 4 pixels from it. The background b is their median, or the plane of least squares through
   them where that fits better; their deviation s is 1.4826 times the median of |x - b|, at least
   the step between grey levels. The target is bright or dark, whichever of the largest x - b and
   b - x in the box is larger; that largest contrast is the peak. Where the peak is at least 5 s,
   the target's pixels are those in the box with at least half of the peak's contrast that are
   8-connected to it: the rule by which the masks of the generated data set are made.
   **Else** they are those with their centre in the ellipse inside the box, of semi-axes of at most
   4.5 pixels.
2. **Within reach.** The centroid is the target's pixel nearest to the mean of its pixels, weighted
   by contrast, or nearest to the centre of the ellipse; the mask is what lies at most 4 pixels from
   it, along rows and along columns. So a network that marks the mask, and nothing else, raises no
   false alarm around the centroid.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

MASK_REACH = 4  # pixels from the centroid along each axis: masks are at most 9 x 9
STANDS_OUT = 5  # standard deviations of the surroundings
_GAP, _RING = 1, 4  # pixels around the box: left out, and the outer edge of the surroundings
_CONNECTED = np.ones((3, 3), int)


@dataclass(frozen=True)
class TargetPixels:
    """The pixels of one target in a frame.

    Attributes:
        rows, columns: of its pixels, (n,) each.
        centroid: (row, column) of one of them.
        refined: whether the image told them; else they are the ellipse's.
    """

    rows: np.ndarray
    columns: np.ndarray
    centroid: tuple[int, int]
    refined: bool


def grey_step(frame):
    """The step between grey levels of a frame (H, W): 1, or the smallest of floating point ones."""
    if not np.issubdtype(frame.dtype, np.floating):
        return 1.0
    steps = np.diff(np.unique(frame))
    return float(steps.min()) if len(steps) else 1.0


def target_pixels(frame, box, refine=True, step=None):
    """The pixels of the target in a box; see the module's docstring for the rule.

    Args:
        frame: (H, W) grey levels.
        box: `data.convert.boxes.Box` that covers a part of the frame.
        refine: False: always the ellipse.
        step: `grey_step` of the frame, where it is known.

    Returns:
        `TargetPixels`, one pixel at least.
    """
    rows, columns = (
        _span(box.top, box.height, frame.shape[0], 0),
        _span(box.left, box.width, frame.shape[1], 0),
    )
    contrast = None
    if refine:
        step = grey_step(frame) if step is None else step
        contrast = _contrast(frame, box, rows, columns, step)
    if contrast is None:
        inside = _ellipse(box, rows, columns)
    else:
        labels, _ = ndimage.label(contrast >= contrast.max() / 2, _CONNECTED)
        inside = labels == labels.ravel()[contrast.argmax()]
    corner = np.array([rows.start, columns.start])
    pixels = np.argwhere(inside)
    if contrast is None:  # not their mean: the border of the frame may have cut them
        middle = box.centre - corner
    else:
        middle = contrast[inside] @ pixels / contrast[inside].sum()
    centroid = pixels[((pixels - middle) ** 2).sum(axis=1).argmin()]
    pixels = pixels[np.abs(pixels - centroid).max(axis=1) <= MASK_REACH]
    found_rows, found_columns = (pixels + corner).T
    row, column = (centroid + corner).tolist()
    return TargetPixels(found_rows, found_columns, (row, column), contrast is not None)


class DrawnTargets(NamedTuple):
    """Masks of all targets of a frame.

    Attributes:
        mask, centroids: (H, W) uint8 in {0, 1}: one pixel of a target in the latter.
        count: of the targets, as a test counts them: labels whose centroids touch or coincide are
            one.
        refined: number of those whose pixels the image told.
        shared: number of labels that are one target with another.
    """

    mask: np.ndarray
    centroids: np.ndarray
    count: int
    refined: int
    shared: int


def draw_targets_of(frame, boxes, refine=True):
    """Masks of all targets of a frame.

    Args:
        frame: (H, W) grey levels.
        boxes: list of `data.convert.boxes.Box`.
        refine: see `target_pixels`.

    Returns:
        `DrawnTargets`.
    """
    mask, centroids = np.zeros(frame.shape, np.uint8), np.zeros(frame.shape, np.uint8)
    step = grey_step(frame) if boxes and refine else None
    targets = [target_pixels(frame, box, refine, step) for box in boxes]
    for target in targets:
        mask[target.rows, target.columns] = 1
        centroids[target.centroid] = 1
    numbers, count = ndimage.label(centroids, _CONNECTED)
    owners = Counter(int(numbers[target.centroid]) for target in targets)
    refined = {int(numbers[target.centroid]) for target in targets if target.refined}
    shared = sum(labels for labels in owners.values() if labels > 1)
    return DrawnTargets(mask, centroids, count, len(refined), shared)


def central_pixels(mask):
    """Centroids (H, W) uint8 of a mask: of each 8-connected component, its most central pixel."""
    centroids = np.zeros(mask.shape, np.uint8)
    labels, count = ndimage.label(mask, _CONNECTED)
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        pixels = np.argwhere(labels[place] == number)
        middle = ((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1).argmin()
        centroids[tuple(pixels[middle] + [part.start for part in place])] = 1
    return centroids


def _span(start, length, size, margin):
    """The pixels of a frame's axis that a box covers by half or more, as a slice.

    Where there is none, the one with the box's centre. `margin` more are taken at both ends.
    """
    first, last = math.floor(start + 0.5), math.ceil(start + length - 0.5)
    if last <= first:
        first = math.floor(start + length / 2)
    first = min(max(first, 0), size - 1)
    last = max(last, first + 1)
    return slice(max(first - margin, 0), min(last + margin, size))


def _contrast(frame, box, rows, columns, step):
    """Contrast to the surroundings (h, w) in the box, positive for the target; None: none."""
    outer_rows = _span(box.top, box.height, frame.shape[0], _RING)
    outer_columns = _span(box.left, box.width, frame.shape[1], _RING)
    around = np.ones((outer_rows.stop - outer_rows.start, outer_columns.stop - outer_columns.start))
    gap_rows = _span(box.top, box.height, frame.shape[0], _GAP)
    gap_columns = _span(box.left, box.width, frame.shape[1], _GAP)
    around[
        gap_rows.start - outer_rows.start : gap_rows.stop - outer_rows.start,
        gap_columns.start - outer_columns.start : gap_columns.stop - outer_columns.start,
    ] = 0
    if not around.any():
        return None
    levels, deviation = _background(frame[outer_rows, outer_columns].astype(float), around > 0)
    deviation = max(deviation, step)
    inner = (
        slice(rows.start - outer_rows.start, rows.stop - outer_rows.start),
        slice(columns.start - outer_columns.start, columns.stop - outer_columns.start),
    )
    contrast = frame[rows, columns] - levels[inner]
    if -contrast.min() > contrast.max():
        contrast = -contrast
    return contrast if contrast.max() >= STANDS_OUT * deviation else None


def _background(levels, around):
    """The background (h, w) of grey levels (h, w), and the deviation of those `around` from it."""
    surroundings = levels[around]
    flat = np.full(levels.shape, np.median(surroundings))
    rows, columns = np.indices(levels.shape)
    terms = np.stack([np.ones_like(levels), rows, columns], axis=-1)
    plane = terms @ np.linalg.lstsq(terms[around], surroundings, rcond=None)[0]
    deviations = [float(np.median(np.abs(surroundings - b[around]))) for b in (flat, plane)]
    chosen = int(deviations[1] < deviations[0])
    return (flat, plane)[chosen], 1.4826 * deviations[chosen]


def _ellipse(box, rows, columns):
    """Which pixels of the box have their centre in its ellipse (h, w) bool, one at least."""
    row, column = box.centre
    axes = [min(side / 2, MASK_REACH + 0.5) for side in (box.height, box.width)]
    down = (np.arange(rows.start, rows.stop)[:, None] - row) / axes[0]
    across = (np.arange(columns.start, columns.stop)[None, :] - column) / axes[1]
    distance = down**2 + across**2
    return distance <= max(1.0, distance.min())
