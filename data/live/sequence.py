"""A sequence that is tested while it is recorded."""

import time
from collections import deque

import numpy as np

from data.formats.levels import check_size
from data.live.streams import open_stream
from data.remarks import Remarks
from data.sequences import FrameBlock, TestSequences, mean_std

NAME = "live"
LEVEL_FRAMES = 40  # frames at the start that the mean and std are taken from
ENDLESS = range(1, 2**62)


class LiveSequence:
    """Frames as they come, each a block of its own; otherwise as `data.sequences.TestSequence`.

    Args:
        frames: iterable of (H, W), with `title`.
        normalisation: (mean, std); None: of the first `LEVEL_FRAMES` frames, which wait for them.
        stopped: callable: whether to stop before the next frame.
        remarks: `data.remarks.Remarks`, which hear of a stream that breaks.

    Attributes:
        reading_seconds: spent on waiting for frames so far.
    """

    name, labelled, earlier, file_names = NAME, False, None, None
    numbers = ENDLESS  # of its frames

    def __init__(self, frames, normalisation, stopped, remarks):
        self.title, self.stopped, self.remarks = frames.title, stopped, remarks
        self._frames, self._waiting = iter(frames), deque()
        self._normalisation, self._first = normalisation, None
        self.count, self.reading_seconds = 0, 0.0

    @property
    def normalisation(self):
        """(mean, std) that frames are to be normalised with."""
        if self._normalisation is None:
            self._waiting.extend(self._take(LEVEL_FRAMES))
            if not self._waiting:
                raise ValueError(f"{self.title}: no frame came")
            self._normalisation = mean_std(frame[None] for frame in self._waiting)
        return self._normalisation

    def _take(self, most):
        """Yields the next frames; as far as there are any."""
        for _ in range(most):
            began = time.perf_counter()
            frame = None if self.stopped() else self._next()
            self.reading_seconds += time.perf_counter() - began
            if frame is None:
                return
            self.count += 1
            yield frame

    def _next(self):
        """The next frame; None at the end, which a broken stream is: what came before it counts.

        Raises:
            ValueError: it broke before its first frame.
        """
        try:
            frame = next(self._frames, None)
            if frame is not None:
                self._first = frame.shape if self._first is None else self._first
                place = f"{self.title}, frame {self.count + 1}"
                check_size(frame.shape, place, self._first, "the first")
            return frame
        except ValueError as error:
            if not self.count:
                raise
            self._frames = iter(())
            self.remarks.make("broken", f"{error}; ended after frame {self.count}")
            return None

    def blocks(self, size):
        """Yields a `FrameBlock` for each frame, at once; `size` is what others ask for."""
        for start in range(len(ENDLESS)):
            frame = self._waiting.popleft() if self._waiting else next(self._take(1), None)
            if frame is None:
                return
            yield FrameBlock(start, np.ascontiguousarray(frame)[None], None, None)


def open_live(place, size, bits, normalisation, stopped):
    """The `TestSequences` of a live place: one.

    Args:
        place: "-", a device, or an address.
        size: (height, width) of the frames of "-"; None elsewhere.
        bits: of a pixel of "-": 8 or 16.
        normalisation: (mean, std), or None.
        stopped: callable: whether to stop before the next frame.

    Raises:
        ValueError: see `open_stream`.
    """
    remarks = Remarks()
    frames = open_stream(place, size, bits, remarks)
    return TestSequences([LiveSequence(frames, normalisation, stopped, remarks)], remarks)
