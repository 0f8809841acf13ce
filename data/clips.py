"""Training clips: sampled windows, padded in time and cropped around a target."""

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from scipy import ndimage
from torch.utils.data import Dataset

from data.cache.build import Frames
from data.frames import any_in_row
from data.training.augmentation import (
    Augmentation,
    Change,
    grow_masks,
    move_masks,
    move_view,
)

HARDEST = 9  # pixels of a crop that tell how hard it is
CHECKED = 8  # sequences whose grey levels are looked at before a training
NEIGHBOURS = np.ones((3, 3), dtype=int)


@dataclass(frozen=True)
class CropRule:
    """How crops are placed.

    Attributes:
        share: of the crops that are placed at a random target, where there is one; the others lie
            anywhere.
        moved: whether these are moved by up to +-int(P / 6) along each axis for a crop of side P.
    """

    share: float
    moved: bool


CROPS = {"near": CropRule(0.75, moved=True), "centred": CropRule(0.5, moved=False)}


@dataclass(frozen=True)
class CandidateWindow:
    """Frames [start, stop) of the sequence at index `sequence` of a list."""

    sequence: int
    start: int
    stop: int

    def __len__(self):
        return self.stop - self.start


def candidate_windows(lengths, seqlen):
    """All windows that training clips are drawn from.

    For a sequence of N frames the windows [max(0, i - T), i) for i = int(0.1 T) ... N - 1: some
    are shorter than T, and the last frame is never used. 96 for 100 frames at T = 40.
    """
    return [
        CandidateWindow(index, max(0, stop - seqlen), stop)
        for index, frames in enumerate(lengths)
        for stop in range(max(int(0.1 * seqlen), 1), frames)
    ]


@dataclass(frozen=True)
class ClipOptions:
    """How training clips are cut.

    Attributes:
        seqlen: T, frames of a clip.
        patch_size: P, side of the square crop in pixels.
        sample_rate: clips of an epoch as a share of the candidate windows.
        seed: of the draws.
        flips: also mirror clips at random, up-down and left-right.
        turns: also play clips backwards and swap their rows and columns at random.
        crops: how crops are placed, a key of `CROPS`.
        mark_padding: items have a third part: 1 where the clip is real, 0 where it is padding.
        predicts: "all" frames of a clip, or the "last" alone: then a short window is padded at the
            start, and the mask of the frame that is last then places the crop.
        augmentation: how clips are changed at random; None: not at all.
        hard_crops: K, for a crop without target the hardest of so many random places without any
            is taken; 1: the first.
    """

    seqlen: int
    patch_size: int
    sample_rate: float
    seed: int
    flips: bool = False
    mark_padding: bool = False
    predicts: str = "all"
    turns: bool = False
    crops: str = "near"
    augmentation: Augmentation | None = None
    hard_crops: int = 1


@dataclass(frozen=True)
class Crop:
    """Where a training clip is cut from: frames [start, stop) of a sequence, rows and columns.

    Of the frames every `step`-th is taken; a `backwards` window is read from its last frame to its
    first. `pad_end` says at which end a short window is padded; then the flips mirror the clip, and
    at last it is `transposed`. `change` is what is done to its view and grey levels, or None.
    """

    sequence: int
    start: int
    stop: int
    rows: slice
    columns: slice
    pad_end: bool
    flip_rows: bool = False
    flip_columns: bool = False
    backwards: bool = False
    transposed: bool = False
    step: int = 1
    change: Change | None = None


class TrainClips(Dataset):
    """One epoch of training clips; call `set_epoch` before each.

    Item i is drawn by a generator seeded with (seed, epoch, i): it is the same whatever process
    asks for it and in whatever order. Its window is drawn with probability proportional to its
    length, independently of i; the parity of i decides at which end a short window is padded (with
    zeros after normalisation: at the end for odd i, at the start for even i).

    Args:
        sequences: list of `data.lists.SequenceFiles`.
        mean, std: normalisation of the grey levels.
        options: `ClipOptions`; `seqlen`, `patch_size` and `mark_padding` of them are attributes.
        size: (height, width) that frames and masks are resized to first, or None.
        frames: `data.cache.build.Frames` of the sequences at that size; None: decodes every clip's.

    Items: clip (1, T, P, P) float32, normalised; mask (T, P, P) uint8 in {0, 1}.

    Raises:
        ValueError: the sequences are too short, or the rate too small, for a single clip.
    """

    def __init__(self, sequences, mean, std, options, size=None, frames=None):
        self.sequences, self.options = sequences, options
        self.frames = Frames(sequences, size, "none", []) if frames is None else frames
        self.mean, self.std = mean, std
        self.seqlen, self.patch_size = options.seqlen, options.patch_size
        self.mark_padding = options.mark_padding
        self.epoch = 0
        self.windows = candidate_windows([len(files) for files in sequences], self.seqlen)
        self.clips = int(len(self.windows) * options.sample_rate)
        if self.clips < 1:
            raise ValueError(
                f"{len(self.windows)} candidate windows of {self.seqlen} frames at --sample_rate "
                f"{options.sample_rate} make no clip; expected longer sequences or a larger rate"
            )
        self._centres = {}  # of the frames that placed a crop so far
        self._cumulative = list(accumulate(len(window) for window in self.windows))

    def __len__(self):
        return self.clips

    def set_epoch(self, epoch):
        """Chooses the epoch (0-based) whose clips the items are.

        Raises:
            OSError: kept frames were cut or removed by others.
        """
        self.frames.check()
        self.epoch = epoch

    def check_levels(self):
        """Remarks on grey levels that lie far from the mean and std in use."""
        for index in range(0, len(self.sequences), max(len(self.sequences) // CHECKED, 1)):
            files = self.sequences[index]
            frames, _ = self.frames.read(index, 0, 1)
            files.remarks.check_levels(frames, self.mean, self.std, files.images[0])

    def check(self):
        """Looks at the set as a whole, once before a training.

        Raises:
            ValueError: no mask has a target.
        """
        self.check_levels()
        if not self.frames.any_target():
            raise ValueError(
                f"{self.sequences[0].masks[0].parent}: no target in any mask of the "
                f"{len(self.sequences)} training sequences; expected pixels above 0"
            )

    def __getitem__(self, index):
        crop = self.draw(index)
        frames, masks, found = self._cut(crop)
        if crop.backwards:
            frames, masks, found = frames[::-1], masks[::-1], found[::-1]
        place = self._place(frames.shape, crop.pad_end)
        clip = self._blank(frames.shape, place, np.float32)
        normalise_into(frames, self.mean, self.std, out=clip[place])
        # Only the few rows that hold targets are read and copied.
        moments, rows = np.divmod(np.flatnonzero(found), frames.shape[1])
        mask = np.zeros(clip.shape, np.uint8)
        mask[place][moments, rows] = masks[moments, rows]
        if crop.change is not None:
            crop.change.apply(clip[place], has_target=bool(mask.any()))
        if self.options.augmentation is not None and self.options.augmentation.grow:
            mask[place] = grow_masks(mask[place], self.options.augmentation.grow)
        parts = [clip, mask]
        if self.mark_padding:
            real = np.zeros(clip.shape, np.uint8)
            real[place] = 1
            parts.append(real)
        flips = [axis for axis, flip in ((-2, crop.flip_rows), (-1, crop.flip_columns)) if flip]
        if flips or crop.transposed:
            parts = [np.flip(part, flips) for part in parts]
            axes = (0, 2, 1) if crop.transposed else (0, 1, 2)
            parts = [np.ascontiguousarray(part.transpose(axes)) for part in parts]
        parts[0] = parts[0][None]
        return tuple(map(torch.from_numpy, parts))

    def _cut(self, crop):
        """Frames, masks (n, h, w) of a crop, and which rows of the masks hold a target (n, h)."""
        window = crop.sequence, crop.start, crop.stop
        frames, masks = (array[:: crop.step] for array in self.frames.read(*window))
        if crop.change is not None and crop.change.offsets is not None:
            view = crop.rows, crop.columns, crop.change.offsets
            masks = move_masks(masks, *view)
            return move_view(frames, *view), masks, any_in_row(masks)
        found = self.frames.target_rows(*window)[:: crop.step, crop.rows]
        return frames[:, crop.rows, crop.columns], masks[:, crop.rows, crop.columns], found

    def _blank(self, shape, place, dtype):
        """(T, P, P), zero where frames of `shape` at `place` leave it, and not yet set there."""
        whole = self.seqlen, self.patch_size, self.patch_size
        if shape[1:] != whole[1:]:
            return np.zeros(whole, dtype)
        blank = np.empty(whole, dtype)
        blank[: place[0].start] = blank[place[0].stop :] = 0
        return blank

    def _place(self, shape, pad_end):
        """Where frames of `shape` go in (T, P, P): zeros at one end, at the bottom, at the right.

        For clips whose end is padded the frames start at 0.
        """
        first = 0 if pad_end else self.seqlen - shape[0]
        return slice(first, first + shape[0]), slice(shape[1]), slice(shape[2])

    def draw(self, index):
        """Where item `index` of this epoch is cut from: a `Crop`."""
        rng = np.random.Generator(np.random.PCG64((self.options.seed, self.epoch, index)))
        window, change, step = self.draw_window(rng), None, 1
        start, stop, count = window.start, window.stop, len(window)
        augmentation = self.options.augmentation
        if augmentation is not None:
            length = len(self.sequences[window.sequence])
            start, stop, step = augmentation.draw_stride(start, stop, length, self.seqlen, rng)
        turns = None
        if self.options.predicts == "last":
            turns = self._draw_turns(rng)  # backwards, the first frame becomes the last
            pad_end, placing = False, 0 if turns[0] else count - 1
        else:
            pad_end = index % 2 == 1
            placing = middle_frame(count, self.seqlen, pad_end)
        size, targets = self._targets(window.sequence, start, stop, start + placing * step)
        top, left = draw_crop(size, targets, self.patch_size, rng, CROPS[self.options.crops])
        if self.options.hard_crops > 1:
            moments = window.sequence, start, stop, step
            top, left = self._hardest(moments, size, (top, left), rng)
        flips = rng.random(2) < 0.5 if self.options.flips else (False, False)
        turns = self._draw_turns(rng) if turns is None else turns
        if augmentation is not None:
            change = augmentation.draw(count, placing, rng)
        return Crop(
            window.sequence,
            start,
            stop,
            slice(top, top + self.patch_size),
            slice(left, left + self.patch_size),
            pad_end,
            *(bool(drawn) for drawn in (*flips, *turns)),
            step=step,
            change=change,
        )

    def _draw_turns(self, rng):
        """Whether a clip is played backwards, and whether it is transposed."""
        return rng.random(2) < 0.5 if self.options.turns else (False, False)

    def _hardest(self, moments, size, corner, rng):
        """The corner if its crop shows a target in any frame, else the hardest of several.

        Those are it and random others whose crops show none either; see `hardness`.
        """
        sequence, start, stop, step = moments
        frames, masks = (array[::step] for array in self.frames.read(sequence, start, stop))
        side = self.patch_size

        def view(array, place):
            top, left = place
            return array[..., top : top + side, left : left + side]

        if view(masks, corner).any():
            return corner
        count, moving = self.options.hard_crops - 1, bool(rng.random() < 0.5)
        others = [draw_crop(size, [], side, rng) for _ in range(count)]
        empty = [place for place in others if not view(masks, place).any()]
        return max([corner, *empty], key=lambda place: hardness(view(frames, place), moving))

    def _targets(self, sequence, start, stop, frame):
        """(size of the mask of a frame of [start, stop), centres of its targets)."""
        key = sequence, frame
        if key not in self._centres:
            _, masks = self.frames.read(sequence, start, stop)
            mask = masks[frame - start]
            self._centres[key] = mask.shape, centres(mask)
        return self._centres[key]

    def draw_window(self, rng):
        """A candidate window, with probability proportional to its length."""
        return self.windows[bisect_right(self._cumulative, rng.integers(self._cumulative[-1]))]


def middle_frame(frames, seqlen, pad_end):
    """Index, in a window of `frames` frames, of the frame whose mask places the crop.

    In the padded clip it is t // 2 where the padding is at the end and T - ceil(t / 2) where it is
    at the start.
    """
    if pad_end:
        return frames // 2
    return seqlen - math.ceil(frames / 2) - (seqlen - frames)


def hardness(frames, moving):
    """How much the nine pixels of a crop's frames (n, h, w) that stand out most do so.

    That is the root of a pixel's mean squared distance over the frames from its own mean, where
    `moving` (what moves or flickers stands out), else from the crop's median (what is hot or cold).
    """
    frames = frames.astype(np.float32)
    usual = frames.mean(axis=0) if moving else np.median(frames[:: max(len(frames) // 4, 1)])
    spread = np.square(frames - usual).mean(axis=0).ravel()
    most = np.partition(spread, -min(HARDEST, spread.size))[-HARDEST:]
    return float(np.sqrt(most.mean()))


def normalise_into(frames, mean, std, out=None):
    """(x - mean) / std in float32, into `out` if given; any real pixel type in."""
    out = np.empty(frames.shape, np.float32) if out is None else out
    np.subtract(frames, np.float32(mean), out=out, dtype=np.float32, casting="unsafe")
    out /= np.float32(std)
    return out


def centres(mask):
    """Centroids (row, column) of the 8-connected components of a mask (H, W)."""
    found = np.flatnonzero(mask.any(axis=1))
    if len(found) == 0:
        return []
    # Labelled in the rows that hold components: the same labels, sooner.
    top = found[0]
    labels, _ = ndimage.label(mask[top : found[-1] + 1], NEIGHBOURS)
    rows, columns = np.nonzero(labels)
    numbers = labels[rows, columns]
    sums = (np.bincount(numbers, weights=at)[1:] for at in (rows + top, columns))
    sizes = np.bincount(numbers)[1:]
    return list(zip(*((at / sizes).tolist() for at in sums), strict=True))


def draw_crop(size, targets, patch_size, rng, rule=CROPS["near"]):
    """Top left corner of a crop of `patch_size` squared from an image of `size`.

    With the rule's probability, 0.75 for DeepPro, if there are targets (a list of centroids), the
    crop is centred on a random one, moved as the rule says and clipped into the image; else it is
    uniform. Where the image is smaller than the crop the corner is at 0.
    """
    limits = [max(side - patch_size, 0) for side in size]
    if rng.random() < rule.share and targets:
        centre = targets[rng.integers(1, len(targets) + 1) - 1]
        reach = int(patch_size / 6) if rule.moved else 0
        moves = rng.integers(-reach, reach + 1, size=2).tolist()
        corner = [round(c) + m - patch_size // 2 for c, m in zip(centre, moves, strict=True)]
        return tuple(min(max(c, 0), limit) for c, limit in zip(corner, limits, strict=True))
    return tuple(int(rng.integers(limit + 1)) for limit in limits)
