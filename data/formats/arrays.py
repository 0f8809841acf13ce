"""Frames of a numpy file: .npy files are mapped, not loaded; .npz files have to be loaded."""

import numpy as np

from data.formats.levels import check_colours, check_labels, grey_levels
from data.remarks import Remarks

ARRAY_SUFFIXES = {".npy", ".npz"}
FRAME_NAMES = ("frames", "images", "imgs", "img")
MASK_NAMES = ("masks", "mask", "labels", "label", "gt")
CENTROID_NAMES = ("centroids", "masks_centroid")


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

    def close(self):
        """Nothing is open between calls."""

    def read(self, start, stop):
        """Frames [start, stop), as far as there are any: (n, H, W)."""
        try:
            frames = grey_levels(np.array(self.frames[start:stop]))
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error
        return frames


class ArrayMasks(ArrayFrames):
    """Masks of an array: 1 where it is above 0.

    Args:
        path, frames: as above.
        remarks: `data.remarks.Remarks`.
    """

    def __init__(self, path, frames, remarks):
        super().__init__(path, frames)
        self.remarks = remarks

    def read(self, start, stop):
        """Masks [start, stop), as far as there are any: (n, H, W) uint8 in {0, 1}."""
        labels = np.asarray(self.frames[start:stop])
        for index, mask in enumerate(labels, start):
            check_labels(mask, self.place(index), self.remarks)
        return (labels > 0).view(np.uint8)


def open_arrays(path, remarks):
    """Frames, masks and centroids of a `.npy` array, or of the arrays of a `.npz`.

    Frames are `frames` in a `.npz`, or its only array: (T, H, W), (H, W) for a single frame,
    (T, 1, H, W), or (T, H, W, 1 to 4) of which the first channel is taken. A `.npz` may also hold
    `masks` and `centroids`. For other names see `FRAME_NAMES` and those after it.

    Args:
        path: of the file.
        remarks: `data.remarks.Remarks` that hear of masks that look like something else.

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
            arrays = {FRAME_NAMES[0]: np.load(path, mmap_mode="r", allow_pickle=False)}
    except Exception as error:  # damage may show as any
        raise ValueError(
            f"{path}: cannot be read as an array ({error or type(error).__name__})"
        ) from error
    if len(arrays) == 1:
        arrays = {FRAME_NAMES[0]: next(iter(arrays.values()))}
    frames, masks, centroids = (
        _array_named(path, arrays, names) for names in (FRAME_NAMES, MASK_NAMES, CENTROID_NAMES)
    )
    if frames is None:
        found = ", ".join(arrays) or "none"
        raise ValueError(f"{path}: arrays named {found}; expected one named {FRAME_NAMES[0]}")
    if frames.ndim == 4 and frames.shape[-1] in (3, 4) and len(frames):
        check_colours(np.asarray(frames[0]), path, remarks)
    known = {*FRAME_NAMES, *MASK_NAMES, *CENTROID_NAMES}
    others = [name for name in arrays if name.casefold() not in known]
    if others:
        remarks.make(
            "ignored",
            f"{path}: {', '.join(others)} ignored; masks are expected as {MASK_NAMES[0]}, those of "
            f"centroids as {CENTROID_NAMES[0]}",
        )
    frames = ArrayFrames(path, _stacked(path, frames, "frames"))
    count, height, width = frames.frames.shape
    if 2 * width < min(count, height):
        remarks.make(
            "axes",
            f"{path}: {count} frames of {height}x{width} pixels; arrays are read as (frames, "
            "height, width)",
        )
    return frames, *(
        None if label is None else ArrayMasks(path, _stacked(path, label, "masks"), remarks)
        for label in (masks, centroids)
    )


def is_one_frame(path):
    """Whether a `.npy` file holds a single frame (H, W)."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).ndim == 2
    except (ValueError, OSError, EOFError):
        return False  # reading it will tell


def read_one_frame(path):
    """The frame (H, W) of a `.npy` file for which `is_one_frame`."""
    return open_arrays(path, Remarks())[0].read(0, 1)[0]


def read_one_mask(path, remarks):
    """A mask (H, W), uint8 in {0, 1}, of a `.npy` file: 1 where it is above 0."""
    return ArrayMasks(path, open_arrays(path, remarks)[0].frames, remarks).read(0, 1)[0]


def read_array_size(path):
    """(height, width) of such a frame, from the file's head."""
    return np.load(path, mmap_mode="r", allow_pickle=False).shape


ARRAY_FILES = read_one_frame, read_array_size  # for `data.frames.ImageFiles`


def _array_named(path, arrays, names):
    """The one array with one of these names, whatever their case; None if there is none."""
    found = [key for key in arrays if key.casefold() in names]
    if len(found) > 1:
        raise ValueError(f"{path}: arrays named {', '.join(found)}; expected one of them")
    return arrays[found[0]] if found else None


def _stacked(path, array, what):
    """An array as (T, H, W); see `open_arrays`."""
    stacked = array
    if array.ndim == 4 and array.shape[-1] <= 4:
        stacked = array[..., 0] if what == "frames" else array.max(axis=-1)
    elif array.ndim == 4 and array.shape[1] == 1:
        stacked = array[:, 0]
    elif array.ndim == 2:
        stacked = array[None]
    if stacked.ndim != 3 or stacked.size == 0 or stacked.dtype.kind not in "buif":
        raise ValueError(
            f"{path}: {what} of shape {array.shape} and type {array.dtype}; "
            "expected numbers of shape (frames, height, width)"
        )
    return stacked
