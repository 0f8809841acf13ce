"""Frames of a video, decoded forward, block by block."""

import re
from threading import Lock

import numpy as np

from data.images import check_size

VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"}
DECODER = "pip install av"


class VideoFrames:
    """Frames of a video as grey levels by range: 8-bit, or 16-bit where it has more.

    A range that begins before the last one ended is decoded from the video's start.

    Args:
        path: of the video.

    Raises:
        ValueError: by any use: there is no decoder, or it cannot read the file.
    """

    paths = None  # its frames have no files of their own

    def __init__(self, path):
        self.path = path
        self._frames, self._next = None, 0
        self._count = None
        self._lock = Lock()

    def __len__(self):
        if self._count is None:
            self._count = sum(1 for _ in self._decode())
        return self._count

    def place(self, index):
        """Which frame it is, for messages."""
        return f"{self.path}, frame {index + 1}"

    def fresh(self):
        """The same frames for another reader, with its own place in the file."""
        return VideoFrames(self.path)

    def read(self, start, stop):
        """Frames [start, stop), as far as there are any: (n, H, W) uint8 or uint16.

        Raises:
            ValueError: see the class.
        """
        taken = []
        with self._lock:
            if self._frames is None or start < self._next:
                self._frames, self._next = self._decode(), 0
            while self._next < stop:
                frame = next(self._frames, None)
                if frame is None:
                    self._count, self._frames = self._next, None
                    break
                if self._next >= start:
                    taken.append(_levels(frame))
                    size = taken[-1].shape
                    check_size(size, self.place(self._next), taken[0].shape, self.place(start))
                self._next += 1
        return np.stack(taken) if taken else np.empty((0, 0, 0), np.uint8)

    def _decode(self):
        try:
            import av  # not required: only videos need it
        except ImportError as error:
            raise ValueError(
                f"{self.path}: no decoder for videos is installed; install one with `{DECODER}`, "
                "or give the frames as images"
            ) from error
        count = 0
        try:
            with av.open(str(self.path)) as video:
                for frame in video.decode(video=0):
                    count += 1
                    yield frame
        except (OSError, ValueError, IndexError, av.FFmpegError) as error:
            raise ValueError(f"{self.path}: cannot be read as a video ({error})") from error
        if not count:
            raise ValueError(f"{self.path}: a video without frames")


def _levels(frame):
    deep = re.match(r"gray(9|1\d)", frame.format.name)
    return frame.to_ndarray(format="gray16le" if deep else "gray")
