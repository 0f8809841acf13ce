"""What an attribution says of one logit."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Attribution:
    """The attribution of one logit to the pixels of its clip.

    Attributes:
        sequence, frame, row, column: which pixel; `frame` is a number as in the score maps.
        numbers: (n,) numbers of the frames of the clip.
        levels: (n,) grey levels of the pixel.
        scores: (n,) scores of the pixel; NaN in frames too long ago to be remembered.
        frame_attribution: (n,) attribution of each frame: the sum over its pixels.
        pixel_attribution: (n,) attribution of the pixel itself in each frame.
        maps: (n, h, w) attribution of the patch around the pixel.
        top, left: the patch's first row and column.
    """

    sequence: str
    frame: int
    row: int
    column: int
    numbers: np.ndarray
    levels: np.ndarray
    scores: np.ndarray
    frame_attribution: np.ndarray
    pixel_attribution: np.ndarray
    maps: np.ndarray
    top: int
    left: int
