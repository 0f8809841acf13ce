"""Mix files of NUDT-MIRSDT: a frame with the frames before it, made for detectors of last frames.

In the data of DTUM (Li et al., TNNLS 2023) `<sequence>/Mix/<frame>.mat` holds `Mix` (T, H, W),
oldest first, the frame itself last. Before a sequence's first frame they are simulated.
"""

import numpy as np
from scipy.io import loadmat


def read_earlier(path):
    """The frames (n, H, W) before the frame of a Mix file, oldest first.

    Raises:
        ValueError: it cannot be read, or has no such array.
    """
    try:
        arrays = loadmat(path)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(f"{path}: cannot be read as a .mat file ({error})") from error
    frames = arrays.get("Mix")
    if not isinstance(frames, np.ndarray) or frames.ndim != 3 or frames.dtype.kind not in "uif":
        raise ValueError(f"{path}: expected an array `Mix` of numbers (frames, height, width)")
    return frames[:-1]
