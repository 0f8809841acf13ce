"""Frames of one multi-page TIFF or GIF, page by page."""

from threading import Lock

import numpy as np
from PIL import Image

from data.images import check_size, image_levels

PAGE_SUFFIXES = {".tif", ".tiff", ".gif"}


class Pages:
    """The pages of a file by range; one page is decoded at a time.

    Args:
        path: of a TIFF or GIF file.

    Raises:
        ValueError: by any use: the file cannot be read to its end, or its pages differ.
    """

    paths = None  # its frames have no files of their own

    def __init__(self, path):
        self.path = path
        self._image, self._lock = None, Lock()
        self._count = None

    def __len__(self):
        if self._count is None:
            with self._lock:
                self._count = self._reading(0, lambda image: getattr(image, "n_frames", 1))
        return self._count

    def place(self, index):
        """Which frame it is, for messages."""
        return f"{self.path}, frame {index + 1}"

    def fresh(self):
        """The same frames for another reader, with its own place in the file."""
        return Pages(self.path)

    def read(self, start, stop):
        """Frames [start, stop), as far as there are any: (n, H, W), the first channel of colours.

        Raises:
            ValueError: see the class.
        """
        count = len(self)
        pages = []
        with self._lock:
            for index in range(start, min(stop, count)):
                pages.append(self._reading(index, self._page(index)))
                check_size(pages[-1].shape, self.place(index), pages[0].shape, self.place(start))
        return np.stack(pages) if pages else np.empty((0, 0, 0), np.uint8)

    def _page(self, index):
        def levels(image):
            image.seek(index)
            return image_levels(image)

        return levels

    def _reading(self, index, take):
        try:
            if self._image is None:
                self._image = Image.open(self.path)
            return take(self._image)
        except (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError) as error:
            raise ValueError(
                f"{self.path}: cannot be read after {index} frames ({error}); "
                "expected a whole TIFF or GIF file"
            ) from error
