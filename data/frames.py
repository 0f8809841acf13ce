"""Labelled sequences on disk: frames and masks of one image file each."""

import numpy as np

from data import images
from data.formats.levels import check_size, check_type
from data.images import resize, resize_mask


class ImageFiles:
    """Frames of a sequence, one an image file, read by range.

    Attributes:
        paths: of the files, in the order of the frames.

    Args:
        paths: as above.
        read_one: reads one, as `data.images.read_frame` or `read_mask`.
        read_size: reads the (height, width) of one.
    """

    def __init__(self, paths, read_one=images.read_frame, read_size=images.read_size):
        self.paths = tuple(paths)
        self.read_one, self.read_size = read_one, read_size
        self._size = None

    def __len__(self):
        return len(self.paths)

    def place(self, index):
        """Which frame it is, for messages."""
        return str(self.paths[index])

    def fresh(self):
        """One of its own for another reader; nothing is open here, so the same."""
        return self

    def close(self):
        """Nothing is open between calls."""

    def size(self):
        """(height, width) of the first frame."""
        if self._size is None:
            self._size = self.read_size(self.paths[0])
        return self._size

    def read(self, start, stop):
        """Frames [start, stop), as far as there are any: (n, H, W).

        Raises:
            ValueError: an image cannot be read, or its size or type is another one.
        """
        stacked = None
        for index, path in enumerate(self.paths[start:stop]):
            pixels = self.read_one(path)
            check_size(pixels.shape, path, self.size(), self.paths[0])
            if stacked is None:
                stacked = np.empty((len(self.paths[start:stop]), *pixels.shape), pixels.dtype)
            check_type(pixels.dtype, path, stacked.dtype, self.paths[start])
            stacked[index] = pixels
        return np.empty((0, 0, 0), np.uint8) if stacked is None else stacked


class FrameArrays:
    """Frames (N, H, W) and masks (N, H, W) uint8 in {0, 1} in memory, put there one by one."""

    def begin(self, shape, dtype):
        """Makes room for frames and masks of this shape."""
        self.frames, self.masks = np.empty(shape, dtype), np.zeros(shape, np.uint8)

    def put(self, index, frame, mask):
        """Keeps a frame and its mask; several threads may, each another one."""
        self.frames[index] = frame
        band = target_band(mask)  # the other rows are 0 already
        self.masks[index, band] = mask[band]


def read_window(files, start, stop, size=None):
    """Frames and masks [start, stop) of a sequence, each decoded once.

    Args:
        files: `data.lists.SequenceFiles`.
        start, stop: of the window.
        size: (height, width) that frames and masks are resized to, or None.

    Returns:
        frames (n, H, W) uint8, uint16 or float32, masks (n, H, W) uint8 in {0, 1}.

    Raises:
        ValueError: an unreadable file, a size or type that is not that of the sequence's first
            frame, or no frame in the window.
    """
    if not files.images[start:stop]:
        raise ValueError(f"{files.name}: no frames [{start}, {stop}) among its {len(files)}")
    arrays = FrameArrays()
    for index, (frame, mask) in enumerate(decode_window(files, start, stop, size)):
        if index == 0:
            arrays.begin((len(files.images[start:stop]), *frame.shape), frame.dtype)
        check_type(frame.dtype, files.images[start:][index], arrays.frames.dtype, files.images[0])
        arrays.put(index, frame, mask)
    return arrays.frames, arrays.masks


def decode_window(files, start, stop, size=None):
    """Yields the pairs of `read_window`; types are not compared."""
    first, expected = files.images[0], images.read_size(files.images[0])
    for image, path in zip(files.images[start:stop], files.masks[start:stop], strict=True):
        frame = images.read_frame(image, None, files.remarks)
        check_size(frame.shape, image, expected, first)
        labels = images.read_labels(path, files.remarks)
        check_size(labels.shape, path, expected, first)
        yield frame if size is None else resize(frame, size), resize_mask(labels, size)


def target_band(mask):
    """Slice from the first to the last row of a mask (H, W) that has a pixel above 0."""
    rows = np.flatnonzero(any_in_row(mask))
    return slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)


def any_in_row(masks):
    """Whether a row has a pixel above 0: (..., H) of masks (..., H, W) uint8 in {0, 1}."""
    return masks.view(bool).any(axis=-1)
