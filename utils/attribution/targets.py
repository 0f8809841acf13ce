"""What is attributed: the score of the pixels of a target, a false alarm or any other place."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Target:
    """Some pixels of one frame, whose scores are attributed together.

    Attributes:
        frame: index of the frame.
        pixels: (m, 2) integer (row, column), m at least 1.
        kind: "target", "false alarm", "detection" (where nothing is known of targets) or "pixel".
        score: the highest of its pixels; None if it is not known.
    """

    frame: int
    pixels: np.ndarray
    kind: str = "target"
    score: float | None = None

    def moved(self, frame, row=0, column=0):
        """The same, counted from another first frame, row and column."""
        pixels = self.pixels - np.array([row, column])
        return Target(self.frame - frame, pixels, self.kind, self.score)

    def box(self):
        """(top, left, bottom, right), half open."""
        (top, left), (bottom, right) = self.pixels.min(axis=0), self.pixels.max(axis=0) + 1
        return int(top), int(left), int(bottom), int(right)
