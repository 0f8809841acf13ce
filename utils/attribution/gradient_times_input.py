"""What a score rests on: gradient times input of one logit, frame by frame.

For the logit z of one target pixel and the normalised clip x, the attribution of x_i is
x_i dz/dx_i: to first order, how much of z is due to that grey level. Summed over the pixels of a
frame it says how much that frame counts.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from utils.metrics import find_targets
from utils.report.figures import draw_attribution
from utils.run_dir import make_folder

PATCH = 64  # side of what is attributed around the pixel: bounds the memory of the backward pass


@dataclass(frozen=True)
class Attribution:
    """The attribution of one logit.

    Attributes:
        sequence, frame, row, column: which pixel; `frame` is a number as in the score maps.
        numbers: (n,) numbers of the frames of the clip.
        levels: (n,) grey levels of the pixel.
        scores: (n,) scores of the pixel.
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


def gradient_times_input(model, clip, frame, row, column):
    """Attribution (T, H, W) float32 of the logit of one pixel of a clip (1, 1, T, H, W)."""
    with torch.inference_mode(False), torch.enable_grad():
        clip = clip.clone().requires_grad_()
        logit = model(clip)[0, frame, row, column]
        (gradient,) = torch.autograd.grad(logit, clip)
    return (gradient * clip.detach())[0, 0].float().cpu().numpy()


def choose_pixel(sequence, scores, threshold):
    """(frame, row, column) of the best scored target pixel; where there are no targets, of the
    highest score if it reaches the threshold; else None."""
    if sequence.centroids is not None:
        pixels = find_targets(sequence.centroids).pixels
        if len(pixels):
            return tuple(pixels[scores[tuple(pixels.T)].argmax()].tolist())
    peak = np.unravel_index(scores.argmax(), scores.shape)
    return tuple(int(place) for place in peak) if scores[peak] >= threshold else None


@dataclass
class Attributions:
    """Writes `<sequence>.png` and `<sequence>.npz` for each sequence; called with each in turn.

    The npz holds the attributes of `Attribution`.

    Args:
        model: maps clips to logits and can be differentiated, in evaluation mode.
        sequences: gives the clips of a sequence.
        folder: where to; made if missing.
        device: where the model is.
        threshold: a pixel is a detection if its score is at least this.
        first_frame: number of the first frame.
    """

    model: object
    sequences: object
    folder: Path
    device: object
    threshold: float
    first_frame: int = 1

    def __post_init__(self):
        make_folder(self.folder)

    def __call__(self, sequence, scores):
        pixel = choose_pixel(sequence, scores, self.threshold)
        if pixel is None or sequence.frames.shape != scores.shape:
            return
        result = self.attribute(sequence, scores, *pixel)
        np.savez_compressed(self.folder / f"{sequence.name}.npz", **vars(result))
        draw_attribution(self.folder / f"{sequence.name}.png", result)

    def attribute(self, sequence, scores, frame, row, column):
        """The `Attribution` of one pixel, in the window that has `frame` nearest its middle."""
        middle = frame - self.sequences.seqlen / 2
        start, clip = min(self.sequences.clips(sequence), key=lambda item: abs(item[0] - middle))
        frames, height, width = scores.shape
        top, left = _patch_start(row, height), _patch_start(column, width)
        patch = clip[None, ..., top : top + PATCH, left : left + PATCH].to(self.device)
        maps = gradient_times_input(self.model, patch, frame - start, row - top, column - left)
        real = slice(start, min(start + self.sequences.seqlen, frames))
        maps = maps[: real.stop - real.start]
        return Attribution(
            sequence.name,
            self.first_frame + frame,
            row,
            column,
            self.first_frame + np.arange(real.start, real.stop),
            sequence.frames[real, row, column],
            scores[real, row, column],
            maps.sum(axis=(1, 2)),
            maps[:, row - top, column - left],
            maps,
            top,
            left,
        )


def _patch_start(position, size):
    """First index of a patch that has `position` near its middle and lies inside if it fits.

    A multiple of 4, so that pooling falls on the same pixels as in the whole frame.
    """
    start = min(position - PATCH // 2, size - PATCH)
    return max(start, 0) // 4 * 4
