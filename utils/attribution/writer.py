"""Writes, for each sequence, what the logit of its best scored target pixel rests on."""

import numpy as np
import torch

from utils.attribution.gradient_times_input import gradient_times_input, is_differentiable
from utils.attribution.maps import Attribution
from utils.files import write_whole
from utils.report.figures import draw_attribution
from utils.report.profiles import RecentFrames
from utils.report.writers import Writer
from utils.run_dir import make_folder
from utils.scan import normalised

ATTRIBUTED_SIDE = (
    64  # side of what is attributed around the pixel: bounds the memory of the backward pass
)
STRIDE = 4  # patches start at its multiples, so that pooling falls on the pixels of the whole frame


class Attributions(Writer):
    """Writes `<sequence>.png` and `<sequence>.npz` for each sequence with a target or detection.

    The pixel is the best scored one of all targets; where there are no targets, that of the highest
    score if it reaches the threshold. The npz holds the attributes of
    `utils.attribution.maps.Attribution`. Sequences whose frames are resized are left out.

    Args:
        folder: where to; made if missing.
        detector: predicts all frames of a clip and can be differentiated; in evaluation mode.
        device: where it is.
        threshold: a pixel is a detection if its score is at least this.

    Raises:
        ValueError: the detector predicts the last frame of a clip only, or has no gradient.
    """

    def __init__(self, folder, detector, device, threshold):
        if detector.predicts != "all":
            raise ValueError(
                f"--attribution: {type(detector).__name__} predicts the {detector.predicts} frame "
                "of a clip; expected a detector that predicts all frames"
            )
        if not is_differentiable(detector, device):
            raise ValueError(
                f"--attribution: {type(detector).__name__} has no gradient; expected a network"
            )
        self.folder = make_folder(folder)
        self.detector, self.device, self.threshold = detector, device, threshold
        self._forget()

    def add(self, block):
        if block.frames.shape != block.scores.shape:
            return
        for _, recording in (self.target, self.peak):
            if recording is not None:
                recording.add(block)
        self.recent.add(block)
        if block.centroids is not None and block.targets().count:
            pixels = block.targets().pixels
            self.target = self._better(self.target, block, pixels)
        peak = np.unravel_index(block.scores.argmax(), block.scores.shape)
        self.peak = self._better(self.peak, block, np.array([peak]))

    def end(self, sequence):
        score, recording = self.peak if self.target[1] is None else self.target
        shown = self.target[1] is not None or score >= self.threshold
        self._forget()
        if recording is None or not shown:
            return
        attribution = attribute(self.detector, sequence, recording, self.device)
        path = self.folder / f"{sequence.name}.npz"
        write_whole(path, lambda file: np.savez_compressed(file, **vars(attribution)))
        draw_attribution(self.folder / f"{sequence.name}.png", attribution)

    def close(self):
        return [self.folder]

    def _forget(self):
        self.recent = RecentFrames(reach=self.detector.seqlen)
        # (score, recording): of the best scored target pixel, and of the highest score of all.
        self.target = self.peak = (-np.inf, None)

    def _better(self, best, block, pixels):
        """(score, recording) of the best of these pixels (n, 3), if it is better than `best`."""
        scores = block.scores[tuple(pixels.T)]
        if scores.max() <= best[0]:
            return best
        frame, row, column = pixels[scores.argmax()].tolist()
        return scores.max(), self.recent.record(block.start + frame, row, column)


def attribute(detector, sequence, recording, device):
    """The `Attribution` of a pixel of a sequence, in the clip that has its frame in the middle.

    Near the ends of the sequence the frame is nearer to those of the clip.

    Args:
        detector, device: as of `Attributions`.
        sequence: gives its frames by `read(start, stop)`.
        recording: `utils.report.profiles.Recording` of the pixel.
    """
    seqlen, (frame, row, column) = detector.seqlen, recording.place
    start = max(min(frame - seqlen // 2, len(sequence) - seqlen), 0)
    stop = min(start + seqlen, len(sequence))
    frames = sequence.read(start, stop).frames
    top, left = (_patch_start(*at) for at in zip((row, column), frames.shape[1:], strict=True))
    patch = frames[:, top : top + ATTRIBUTED_SIDE, left : left + ATTRIBUTED_SIDE]
    clip = np.zeros((seqlen, *patch.shape[1:]), np.float32)  # zeros after the last frame
    clip[: stop - start] = normalised(patch, *sequence.normalisation)
    clip = torch.from_numpy(clip)[None, None].to(device)
    maps = gradient_times_input(detector, clip, frame - start, row - top, column - left)
    maps = maps[: stop - start]
    return Attribution(
        sequence.name,
        sequence.numbers[frame],
        row,
        column,
        np.array(sequence.numbers[start:stop]),
        frames[:, row, column],
        recording.scores_between(start, stop),
        maps.sum(axis=(1, 2)),
        maps[:, row - top, column - left],
        maps,
        top,
        left,
    )


def _patch_start(position, size):
    """First index of a patch that has `position` near its middle and lies inside if it fits."""
    start = max(min(position - ATTRIBUTED_SIDE // 2, size - ATTRIBUTED_SIDE), 0)
    return -(-start // STRIDE) * STRIDE
