"""Frames of a numpy file: .npy files are mapped, not loaded; .npz files have to be loaded."""

import zipfile

import numpy as np

from data.images import grey_levels

ARRAY_SUFFIXES = {".npy", ".npz"}


class ArrayFrames:
    """Frames of an array in memory or mapped, by range.

    Args:
        path: of the file, for messages.
        frames: (T, H, W) of any real type.
    """

    paths = None  # its frames have no files of their own

    def __init__(self, path, frames):
        self.path, self.frames = path, frames

    def __len__(self):
        return len(self.frames)

    def place(self, index):
        """Which frame it is, for messages."""
        return f"{self.path}, frame {index + 1}"

    def fresh(self):
        """One of its own for another reader; nothing is open here, so the same."""
        return self

    def read(self, start, stop):
        """Frames [start, stop), as far as there are any: (n, H, W)."""
        return grey_levels(np.array(self.frames[start:stop]))


class ArrayMasks(ArrayFrames):
    """Masks of an array: 1 where it is above 0."""

    def read(self, start, stop):
        """Masks [start, stop), as far as there are any: (n, H, W) uint8 in {0, 1}."""
        return (np.asarray(self.frames[start:stop]) > 0).view(np.uint8)


def open_arrays(path):
    """Frames, masks and centroids of a `.npy` array, or of the arrays of a `.npz`.

    Frames are `frames` in a `.npz`, or its only array: (T, H, W), (H, W) for a single frame, or
    (T, H, W, 1 to 4) of which the first channel is taken. A `.npz` may also hold `masks` and
    `centroids`.

    Returns:
        (`ArrayFrames`, `ArrayMasks` or None, `ArrayMasks` or None).

    Raises:
        ValueError: it is no such array.
    """
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
        else:
            arrays = {"frames": np.load(path, mmap_mode="r", allow_pickle=False)}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read as an array ({error})") from error
    if "frames" not in arrays and len(arrays) == 1:
        arrays = {"frames": next(iter(arrays.values()))}
    if "frames" not in arrays:
        found = ", ".join(arrays) or "none"
        raise ValueError(f"{path}: arrays named {found}; expected one named frames")
    frames = arrays["frames"]
    if frames.ndim == 4 and frames.shape[-1] <= 4:
        frames = frames[..., 0]
    elif frames.ndim == 2:
        frames = frames[None]
    real = np.issubdtype(frames.dtype, np.number) or frames.dtype == bool
    if frames.ndim != 3 or frames.size == 0 or not real or np.iscomplexobj(frames):
        raise ValueError(
            f"{path}: an array of shape {arrays['frames'].shape} and type {frames.dtype}; "
            "expected numbers of shape (frames, height, width)"
        )
    labels = (arrays.get(name) for name in ("masks", "centroids"))
    return ArrayFrames(path, frames), *(
        None if label is None else ArrayMasks(path, label) for label in labels
    )
