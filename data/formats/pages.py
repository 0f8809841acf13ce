"""Frames of one multi-page TIFF or GIF, page by page."""

from threading import Lock

import numpy as np

from data.formats.levels import check_colours, check_size, check_type, grey_levels
from data.formats.library import LibraryPages
from data.formats.tiff import TiffPages, is_tiff

PAGE_SUFFIXES = {".tif", ".tiff", ".gif"}


class Pages:
    """The frames of a file by range; one is decoded at a time.

    Args:
        path: of a TIFF or GIF file.
        remarks: `data.remarks.Remarks` that hear of colours.
        other: `Pages` of the same file, which may know its frames already; or None.

    Raises:
        ValueError: by any use: the file cannot be read to its end, or its frames differ.
    """

    paths = None  # its frames have no files of their own

    def __init__(self, path, remarks, other=None):
        self.path, self.remarks = path, remarks
        self._file, self._lock = None, Lock()
        self._known = None if other is None else other._known  # once opened, maybe closed again

    def __len__(self):
        if self._known is None:
            with self._lock:
                self._read(0, lambda file: file.count)
        return self._known.count

    def place(self, index):
        """Which frame it is, for messages."""
        return f"{self.path}, frame {index + 1}"

    def fresh(self):
        """The same frames for another reader, with its own place in the file."""
        return Pages(self.path, self.remarks, self)

    def close(self):
        """Closes the file, which another use opens again."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def __del__(self):
        self.close()

    def read(self, start, stop):
        """Frames [start, stop), as far as there are any: (n, H, W), the first channel of colours.

        Raises:
            ValueError: see the class.
        """
        count = len(self)
        frames = []
        with self._lock:
            for index in range(start, min(stop, count)):
                frames.append(
                    self._read(index, lambda file, index=index: self._levels(file, index))
                )
                first = frames[0]
                check_size(frames[-1].shape, self.place(index), first.shape, self.place(start))
                check_type(frames[-1].dtype, self.place(index), first.dtype, self.place(start))
        return np.stack(frames) if frames else np.empty((0, 0, 0), np.uint8)

    def _levels(self, file, index):
        picture = file.picture(index)
        if index == 0 and picture.ndim == 3:
            check_colours(picture, self.path, self.remarks)
        return grey_levels(picture if picture.ndim == 2 else picture[..., 0])

    def _read(self, index, take):
        try:
            if self._file is None:
                self._file = self._known = _open(self.path, self._known)
            return take(self._file)
        except Exception as error:  # a decoder may meet damage with any
            raise ValueError(
                f"{self.path}: cannot be read after {index} frames ({error or type(error)}); "
                "expected a whole TIFF or GIF file"
            ) from error


def _open(path, known):
    with path.open("rb") as file:
        begin = file.read(4)
    return TiffPages(path, known) if is_tiff(begin) else LibraryPages(path)
