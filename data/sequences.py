"""Test sequences: whole, in order, each frame decoded once."""

import copy
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from data.clips import normalise
from data.frames import (
    SequenceFiles,
    find_sequences,
    prepare,
    read_mask,
    read_window,
    resize,
    stack,
)
from utils.windows import cut, window_starts


@dataclass(frozen=True)
class LabelledSequence:
    """One sequence in memory.

    Attributes:
        name: of the sequence.
        frames: (N, H, W) uint8, uint16 or float32, as fed to the network.
        masks: (N, H', W') uint8 in {0, 1}; the size differs where frames were resized. None where
            nothing is known of the targets.
        centroids: (N, H', W') uint8 in {0, 1}: each 8-connected component is a target; or None.
    """

    name: str
    frames: np.ndarray
    masks: np.ndarray | None
    centroids: np.ndarray | None


def open_test_list(spec, root, seqlen, normalisation=None):
    """The sequences of a data set's test list; see `data.frames` for what is raised.

    Args:
        spec: the data set's row.
        root: its folder.
        seqlen: T, frames of a window.
        normalisation: (mean, std) in place of the data set's, or None.
    """
    prepare(spec, root)
    files = find_sequences(spec, spec.test, root)
    mean, std = normalisation or (spec.mean, spec.std)
    return LabelledSequences(files, mean, std, seqlen, spec.test_size)


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
        self.reading_seconds = 0.0  # so far, in the thread that reads

    def __len__(self):
        return len(self.sequences)

    @property
    def names(self):
        return [files.name for files in self.sequences]

    def share(self, take):
        """The same for some of the sequences, those that `take` leaves of their list."""
        share = copy.copy(self)
        share.sequences = take(self.sequences)
        return share

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

    def _read_timed(self, files):
        start = time.perf_counter()
        sequence = self.read(files)
        self.reading_seconds += time.perf_counter() - start
        return sequence

    def __iter__(self):
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = None
            for files in self.sequences:
                following = reader.submit(self._read_timed, files)
                if ahead is not None:
                    yield ahead.result()
                ahead = following
            if ahead is not None:
                yield ahead.result()

    def normalisation(self, sequence):
        """(mean, std) that the frames of `sequence` are normalised with."""
        return self.mean, self.std

    def clips(self, sequence):
        """Yields (start, clip) for each window: clip (1, T, H, W) float32, normalised.

        A sequence shorter than T is padded with zeros after normalisation, at the end.
        """
        for start in window_starts(len(sequence.frames), self.seqlen):
            mean, std = self.normalisation(sequence)
            clip = normalise(cut(sequence.frames, start, self.seqlen), mean, std)
            missing = self.seqlen - len(clip)
            if missing:
                clip = np.pad(clip, ((0, missing), (0, 0), (0, 0)))
            yield start, torch.from_numpy(clip)[None]
