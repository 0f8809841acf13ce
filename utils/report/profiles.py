"""Temporal profiles of single pixels, recorded while a sequence passes by in blocks.

Which pixel is worth showing turns out only when its target is there. So the last frames and scores
are kept for a while, and what follows is added as it comes.
"""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

PROFILE_REACH = 100  # frames of a profile before and after the frame that it is about
PROFILE_BYTES = 96 << 20  # of frames and scores that are kept for it


class Passed(NamedTuple):
    """What is kept of a `utils.evaluation.ScoredBlock`."""

    start: int
    numbers: list
    frames: np.ndarray
    scores: np.ndarray
    centroids: np.ndarray | None


class RecentFrames:
    """The last frames of a sequence with their scores, and profiles out of them.

    Args:
        reach: frames before and after that a profile covers at most.
        most_bytes: that may be kept: where frames are large, profiles cover fewer of them.
    """

    def __init__(self, reach=PROFILE_REACH, most_bytes=PROFILE_BYTES):
        self.reach, self.most_bytes = reach, most_bytes
        self.passed = deque()

    def add(self, block):
        """Takes a block; what lies too far back is dropped."""
        kept = Passed(block.start, block.numbers, block.frames, block.scores, block.centroids)
        self.passed.append(kept)
        arrays = [array for array in kept[2:] if array is not None]
        of_frame = sum(array.nbytes for array in arrays) // max(len(kept.scores), 1)
        self.reach = min(self.reach, self.most_bytes // max(of_frame, 1))
        while len(self.passed) > 1 and self.passed[1].start <= block.start - self.reach:
            self.passed.popleft()

    def record(self, frame, row, column):
        """A `Recording` of a pixel around a frame of the last block, with the frames up to now.

        Args:
            frame: index in the sequence, 0-based.
            row, column: of the pixel in the scores.
        """
        recording = Recording(frame, row, column, self.reach)
        for block in self.passed:
            recording.add(block)
        return recording


@dataclass
class Recording:
    """One pixel over time, from `reach` frames before a frame to as many after it.

    Args:
        frame: index of that frame in the sequence, 0-based.
        row, column: of the pixel in the scores.
        reach: frames.
    """

    frame: int
    row: int
    column: int
    reach: int

    def __post_init__(self):
        self.start = None  # index of the first frame
        self.parts = []

    @property
    def place(self):
        return self.frame, self.row, self.column

    def add(self, block):
        """Takes what a block has to add; blocks come in order."""
        first = max(self.frame - self.reach - block.start, 0)
        last = min(self.frame + self.reach + 1 - block.start, len(block.scores))
        if first >= last:
            return
        if self.start is None:
            self.start = block.start + first
        taken = slice(first, last)
        # Frames that were resized are larger or smaller than the scores: the pixel at that place.
        (height, width), (tall, wide) = block.scores.shape[1:], block.frames.shape[1:]
        levels = block.frames[taken, self.row * tall // height, self.column * wide // width]
        covered = np.zeros(last - first, dtype=bool)
        if block.centroids is not None:
            covered = block.centroids[taken, self.row, self.column] > 0
        scores = block.scores[taken, self.row, self.column]
        self.parts.append((list(block.numbers)[taken], levels.copy(), scores.copy(), covered))

    def profile(self):
        """(numbers, grey levels, scores, whether a target covers the pixel), (n,) each."""
        return tuple(np.concatenate(column) for column in zip(*self.parts, strict=True))
