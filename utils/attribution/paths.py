"""Where the paths of integrated gradients start: clips without what makes a target.

A path leads from its start x' to the clip x in a straight line, x' + a (x - x') for a in [0, 1].
"""

import numpy as np
from scipy import ndimage

MEDIAN_BLUR = 9  # side of the box that blurs the median


def mean_level(clip, mean, std):
    """The constant grey level that normalisation maps to 0: the data set's mean."""
    return np.zeros_like(clip)


def blurred_median(clip, mean, std):
    """Each pixel's median over the frames, blurred by a 9x9 box; the same in every frame.

    The image is mirrored at its borders, the outermost pixels not repeated.
    """
    median = np.median(clip, axis=0)
    blurred = ndimage.uniform_filter(median, MEDIAN_BLUR, mode="mirror")
    return np.broadcast_to(blurred, clip.shape).astype(np.float32)


def black(clip, mean, std):
    """Grey level 0 everywhere."""
    return np.full_like(clip, -mean / std)


# Each maps a clip (T, H, W) float32, normalised by mean and std, to a start of that shape. `zero`
# and `mean` are the names of the published code.
PATHS = {"zero": mean_level, "mean": blurred_median, "black": black}


def path_start(name, clip, normalisation, real=slice(None)):
    """The start (T, H, W) of the named path to a clip.

    Args:
        name: of `PATHS`.
        clip: (T, H, W) float32, normalised.
        normalisation: (mean, std) that it was normalised with.
        real: slice of its frames that are not padding; those that are stay as they are along the
            whole path, so that nothing is attributed to them.
    """
    start = clip.copy()
    start[real] = PATHS[name](clip[real], *normalisation)
    return start
