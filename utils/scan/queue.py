"""Frames that wait: for what comes after them, or for their scores."""

from collections import deque

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


class Truth:
    """Frames and masks that wait for their scores."""

    def __init__(self):
        self.blocks = deque()

    def append(self, block):
        self.blocks.append(block)

    def take(self, start, stop):
        """(frames, masks, centroids) of the frames [start, stop); earlier blocks are let go."""
        parts = []
        for block in self.blocks:
            low = max(start - block.start, 0)
            high = min(stop - block.start, len(block.frames))
            if low < high:
                arrays = block.frames, block.masks, block.centroids
                parts.append([a if a is None else a[low:high] for a in arrays])
        while self.blocks and self.blocks[0].start + len(self.blocks[0].frames) <= stop:
            self.blocks.popleft()
        return [
            None if column[0] is None else column[0] if len(column) == 1 else np.concatenate(column)
            for column in zip(*parts, strict=True)
        ]
