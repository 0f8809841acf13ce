"""Frames that wait for what comes after them."""

import numpy as np


class Queue:
    """Frames that wait: `append` at the end, `drop` at the front; copies each about once.

    Attributes:
        first: number of the first frame that is kept.
    """

    def __init__(self):
        self.first, self.length, self.offset = 0, 0, 0
        self.store = None

    @property
    def stop(self):
        return self.first + self.length

    def append(self, frames):
        """Adds frames (n, H, W) behind the last one; of another type, all take the common type."""
        count = len(frames)
        kept = None if self.store is None else self.store[self.offset :][: self.length]
        dtype = frames.dtype if kept is None else np.result_type(kept, frames)
        end = self.offset + self.length + count
        if kept is None or end > len(self.store) or dtype != self.store.dtype:
            store = np.empty((2 * (self.length + count), *frames.shape[1:]), dtype)
            if kept is not None:
                store[: self.length] = kept
            self.store, self.offset = store, 0
        self.store[self.offset + self.length :][:count] = frames
        self.length += count

    def drop(self, stop):
        """Forgets the frames before number `stop`."""
        count = min(max(stop - self.first, 0), self.length)
        self.first, self.offset, self.length = (
            self.first + count,
            self.offset + count,
            self.length - count,
        )

    def slice(self, start, stop):
        """The frames [start, stop) that are kept; a view."""
        start, stop = max(start, self.first), min(stop, self.stop)
        place = self.offset + start - self.first
        return self.store[place : place + stop - start]
