"""Test sequences: whole, in order, each frame decoded once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from data.clips import normalise
from data.frames import SequenceFiles, read_mask, read_window, resize, stack
from utils.windows import cut, window_starts


@dataclass(frozen=True)
class LabelledSequence:
    """One sequence in memory.

    Attributes:
        name: of the sequence.
        frames: (N, H, W) uint8, uint16 or float32, as fed to the network.
        masks: (N, H', W') uint8 in {0, 1}; the size differs where frames were resized.
        centroids: (N, H', W') uint8 in {0, 1}: each 8-connected component is a target.
    """

    name: str
    frames: np.ndarray
    masks: np.ndarray
    centroids: np.ndarray


class LabelledSequences:
    """The sequences of a test list, in order; the next one is read while one is in use.

    Args:
        sequences: list of `data.frames.SequenceFiles`.
        mean, std: normalisation of the grey levels.
        seqlen: T, frames of a window.
        size: (height, width) that frames, not masks, are resized to, or None.
    """

    def __init__(self, sequences: list[SequenceFiles], mean, std, seqlen, size=None):
        self.sequences = sequences
        self.mean, self.std = mean, std
        self.seqlen = seqlen
        self.size = size

    def __len__(self):
        return len(self.sequences)

    @property
    def names(self):
        return [files.name for files in self.sequences]

    def share(self, take):
        """The same for some of the sequences, those that `take` leaves of their list."""
        return LabelledSequences(take(self.sequences), self.mean, self.std, self.seqlen, self.size)

    def windows(self):
        """Number of windows of all sequences together."""
        return sum(len(window_starts(len(files), self.seqlen)) for files in self.sequences)

    def read(self, files):
        """Reads one sequence; see `data.frames` for what is raised."""
        frames, masks = read_window(files, 0, len(files))
        centroids = masks
        if files.centroids is not None:
            paths = files.centroids
            centroids = stack([read_mask(path) for path in paths], paths)
            if centroids.shape != masks.shape:
                raise ValueError(
                    f"{files.name}: centroid masks of {centroids.shape[1:]} pixels, but masks of "
                    f"{masks.shape[1:]}; expected one size"
                )
        if self.size is not None:
            frames = np.stack([resize(frame, self.size) for frame in frames])
        return LabelledSequence(files.name, frames, masks, centroids)

    def __iter__(self):
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = None
            for files in self.sequences:
                following = reader.submit(self.read, files)
                if ahead is not None:
                    yield ahead.result()
                ahead = following
            if ahead is not None:
                yield ahead.result()

    def clips(self, sequence):
        """Yields (start, clip) for each window: clip (1, T, H, W) float32, normalised.

        A sequence shorter than T is padded with zeros after normalisation, at the end.
        """
        for start in window_starts(len(sequence.frames), self.seqlen):
            clip = normalise(cut(sequence.frames, start, self.seqlen), self.mean, self.std)
            missing = self.seqlen - len(clip)
            if missing:
                clip = np.pad(clip, ((0, missing), (0, 0), (0, 0)))
            yield start, torch.from_numpy(clip)[None]
