"""How a frame has to be moved to lie on another, by whole pixels."""

import math

import numpy as np
from skimage.registration import phase_cross_correlation

CHANCE = 4  # standard errors that a shift must bring a frame nearer to the other one
SMALLEST_OVERLAP = 0.5  # share of the frame that a shifted frame must still cover


def find_shift(frame, last):
    """(2,) int: rows and columns to move a frame by, so that it lies on another.

    The peak of the phase correlation of both. It is zero where the moved frame would cover less
    than half the other one or would not be nearer to it, by more than chance, than unmoved: in
    noise the peak says nothing.

    Args:
        frame, last: (H, W) of real numbers.
    """
    shift = phase_cross_correlation(last, frame)[0].astype(int)
    source, target = overlap(shift, last.shape)
    if frame[source].size < SMALLEST_OVERLAP * frame.size:
        return np.zeros(2, int)
    moved = np.abs(frame[source] - last[target])
    # The mean of n such differences varies by about 1 / sqrt(n) of itself in pure noise.
    chance = CHANCE / math.sqrt(moved.size)
    nearer = moved.mean() < (1 - chance) * np.abs(frame - last).mean()
    return shift if nearer else np.zeros(2, int)


def overlap(shift, size):
    """Slices of a frame of this size and of where they come to lie when it is moved by `shift`."""
    pairs = list(zip(shift, size, strict=True))
    source = tuple(slice(max(0, -s), max(0, min(side, side - s))) for s, side in pairs)
    target = tuple(slice(max(0, s), max(0, min(side, side + s))) for s, side in pairs)
    return source, target
