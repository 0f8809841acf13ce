"""How a frame has to be moved to lie on another, by whole pixels."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from skimage.registration import phase_cross_correlation

CHANCE = 4  # standard errors that `find_shift` must bring a frame nearer to the other one
SURE = 6  # the same for `lay_on`, which is asked for every frame of a video
SMALLEST_OVERLAP = 0.5  # share of the frame that a shifted frame must still cover
SMOOTHED = 4  # pixels a side, whose means show more of a smooth scene and less of its noise
MOST_STEPS = 5  # of a search for the shift, at most
STILL_CHANCE = 3  # likewise without the parts that gain most, which are those of luck, too
BLOCKS = 16  # a side, into which a frame is divided
FEW_BLOCKS = 8  # that a target and the place where it was may reach into
NEAR = 1.25  # times the difference of a frame and itself a pixel aside: what lies well differs less


def find_shift(frame, last):
    """(2,) int: rows and columns to move a frame by, so that it lies on another.

    The peak of the phase correlation of both. It is zero where the moved frame would cover less
    than half the other one or would not be nearer to it, by more than chance, than unmoved: in
    noise the peak says nothing.

    Args:
        frame, last: (H, W) of real numbers.
    """
    shift = _peak(frame, last)
    source, target = overlap(shift, last.shape)
    if frame[source].size < SMALLEST_OVERLAP * frame.size:
        return np.zeros(2, int)
    moved = np.abs(frame[source] - last[target])
    # The mean of n such differences varies by about 1 / sqrt(n) of itself in pure noise.
    chance = CHANCE / math.sqrt(moved.size)
    nearer = moved.mean() < (1 - chance) * np.abs(frame - last).mean()
    return shift if nearer else np.zeros(2, int)


def follow_view(frames):
    """How the frames (T, H, W) of a moving camera lie on the middle one.

    From the middle outwards each frame is laid by `lay_on`, from where the nearest one lies whose
    shift is known, on the middle one or, where it does not lie well there, on that nearest one. So
    a view may leave the middle one's altogether.

    Returns:
        (T, 2) int, rows and columns to move each frame by; (T,) bool, whether it is known, that is
        whether the frame lies well. If not it is that of the nearest one whose shift is.
    """
    count = len(frames)
    shifts, known = np.zeros((count, 2), int), np.zeros(count, bool)
    middle = count // 2
    known[middle] = True

    def follow(order):
        nearest = middle  # of those that are known
        for index in order:
            shifts[index] = shifts[nearest]
            for base in dict.fromkeys((middle, nearest)):
                found, lies = lay_on(frames[index], frames[base], shifts[nearest] - shifts[base])
                if lies:
                    shifts[index], known[index], nearest = shifts[base] + found, True, index
                    break

    with ThreadPoolExecutor(2) as pool:  # the later and the earlier frames side by side
        list(pool.map(follow, (range(middle + 1, count), range(middle - 1, -1, -1))))
    return shifts, known


def lay_on(frame, other, start):
    """The shift that lays a frame on another, from one near which it is expected.

    It is the start, unless the moved frame is nearer by more than chance at the peak of the phase
    correlation or, in smooth scenes, where noise hides that, at what a linear fit says. Nearer it
    has to be without the few blocks that gain most, too: a bright target on an empty sky moves, the
    view does not.

    Args:
        frame, other: (H, W) of real numbers.
        start: (2,) int.

    Returns:
        (2,) int; whether the frame lies well there: apart from their mean levels it differs from
        the other one hardly more than that does from itself a pixel aside.
    """
    if np.array_equal(frame, other):
        return np.zeros(2, int), True
    best = np.asarray(start)
    distance = _distance(frame, other, best)
    near = NEAR * _one_pixel(other)
    for smooth in (False, True):
        shift = _slide(frame, other, best) if smooth else _peak(frame, other)
        found = math.inf if np.array_equal(shift, best) else _distance(frame, other, shift)
        surely = (1 - SURE / math.sqrt(frame.size)) * distance
        if found <= near and found < surely and _gains_widely(frame, other, best, shift):
            best, distance = shift, found
    return best, distance <= near


def _peak(frame, other):
    return phase_cross_correlation(other, frame)[0].astype(int)


def _slide(frame, other, start):
    """The shift near `start` at which the difference, to first order in the shift, is least.

    Steps of Lucas and Kanade (IJCAI 1981) for the whole image, on means of blocks.
    """
    shift = start
    for _ in range(MOST_STEPS):
        source, target = overlap(shift, other.shape)
        moved, fixed = _block_means(frame[source]), _block_means(other[target])
        if min(moved.shape) < 3:
            return start
        slopes = np.stack([slope.ravel() for slope in np.gradient(fixed)], 1) / SMOOTHED
        slopes -= slopes.mean(axis=0)
        step = np.linalg.lstsq(slopes, (moved - fixed).ravel(), rcond=None)[0]
        if not np.rint(step).any():
            break
        shift = shift + np.rint(step).astype(int)
    return shift


def _block_means(frame):
    rows, columns = (side // SMOOTHED for side in frame.shape)
    blocks = frame[: rows * SMOOTHED, : columns * SMOOTHED].reshape(
        rows, SMOOTHED, columns, SMOOTHED
    )
    return blocks.mean(axis=(1, 3))


def _one_pixel(frame):
    """Mean difference of a frame from itself a pixel aside, in the direction with more of it."""
    sides = (np.abs(np.diff(frame, axis=axis)) for axis in (0, 1))
    return max((float(side.mean()) for side in sides if side.size), default=0.0)


def _distance(frame, other, shift):
    """Mean difference of the moved frame where it covers the other; inf if it covers too little."""
    source, target = overlap(shift, other.shape)
    if frame[source].size < SMALLEST_OVERLAP * frame.size:
        return math.inf
    difference = frame[source] - other[target]
    return float(np.abs(difference - difference.mean()).mean())


def _gains_widely(frame, other, before, after):
    """Whether a shift brings a frame nearer, too, without the `FEW_BLOCKS` that gain most."""
    first, second = (_block_distances(frame, other, shift) for shift in (before, after))
    both = np.isfinite(first) & np.isfinite(second)
    gains = np.argsort((first - second)[both])[: both.sum() - FEW_BLOCKS]
    first, second = (float(blocks[both][gains].sum()) for blocks in (first, second))
    chance = STILL_CHANCE / math.sqrt(frame.size)
    return second < (1 - chance) * first or both.sum() <= 2 * FEW_BLOCKS


def _block_distances(frame, other, shift):
    """`_distance` in `BLOCKS` x `BLOCKS` parts of the other frame; NaN where it is not covered."""
    source, target = overlap(shift, other.shape)
    difference = frame[source] - other[target]
    whole = np.full(other.shape, np.nan)
    whole[target] = np.abs(difference - difference.mean())
    rows, columns = (max(side // BLOCKS, 1) for side in other.shape)
    down, across = (side // part for side, part in zip(other.shape, (rows, columns), strict=True))
    blocks = whole[: down * rows, : across * columns].reshape(down, rows, across, columns)
    return blocks.mean(axis=(1, 3))


def overlap(shift, size):
    """Slices of a frame of this size and of where they come to lie when it is moved by `shift`."""
    pairs = list(zip(shift, size, strict=True))
    source = tuple(slice(max(0, -s), max(0, min(side, side - s))) for s, side in pairs)
    target = tuple(slice(max(0, s), max(0, min(side, side + s))) for s, side in pairs)
    return source, target
