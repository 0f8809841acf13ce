"""Mix files of NUDT-MIRSDT: a frame with the frames before it, made for detectors of last frames.

In the data of DTUM (Li et al., TNNLS 2023) `<sequence>/Mix/<frame>.mat` holds `Mix` (T, H, W),
oldest first, the frame itself last. Before a sequence's first frame they are simulated.
"""

import numpy as np
from scipy.io import loadmat

MIX_SUFFIX = ".mat"
# Largest difference of levels that are the same: of whole numbers, and of others relative to them.
SAME_WHOLE, SAME_SHARE = 0.5, 1e-5


def read_mix(path):
    """What a Mix file holds: frames (T, H, W), T >= 1, oldest first, its own frame last.

    Raises:
        ValueError: it cannot be read, or has no such array.
    """
    try:
        arrays = loadmat(path)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(f"{path}: cannot be read as a .mat file ({error})") from error
    frames = arrays.get("Mix")
    array = isinstance(frames, np.ndarray) and frames.ndim == 3 and frames.dtype.kind in "uif"
    if not array or not len(frames):
        raise ValueError(f"{path}: expected an array `Mix` of numbers (frames, height, width)")
    return frames


def compare_mix(last, first, place):
    """How a Mix file's own frame is not the frame that the file is for, in words; None if it is.

    Args:
        last: (H, W), the file's own frame.
        first: (H, W), the frame as its image has it. One of another size is left to whoever uses
            the file.
        place: of the image, for the message.
    """
    if last.shape != first.shape:
        return None
    last, levels = last.astype(np.float64), first.astype(np.float64)
    whole = first.dtype.kind in "ui"
    apart = np.abs(last - levels).max()
    if not apart > (SAME_WHOLE if whole else SAME_SHARE * np.abs(levels).max()):
        return None
    return (
        f"its last frame is not {place}: grey levels are up to {apart:.4g} apart, {last.min():.4g} "
        f"to {last.max():.4g} there and {levels.min():.4g} to {levels.max():.4g} in the image"
    )
