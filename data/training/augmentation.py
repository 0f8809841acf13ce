"""Training clips as other cameras would have seen them: changes at random, all off by default."""

import math
from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage

from data.training.clutter import add_waves, paste_mover


@dataclass(frozen=True)
class Change:
    """What is done to one clip of n frames.

    Attributes:
        offsets: (n, 2) float64, rows and columns that each frame's view is moved by; None: none.
        gain: grey levels' distances from the data set's mean are multiplied by it.
        level: added to all grey levels, in units of the data set's standard deviation.
        mirrored: grey levels are mirrored about the clip's mean: what was bright is dark.
        noise: standard deviation of noise that every pixel has anew in every frame, in units of
            the data set's.
        pattern: of noise that every pixel keeps through all frames, likewise.
        seed: of both noises.
        mover: seed of an object that moves through the clip if that shows no target, or None: see
            `data.training.clutter`, for the next one, too.
        waves: seed of waves that are added to the clip, or None.
    """

    offsets: np.ndarray | None
    gain: float
    level: float
    mirrored: bool
    noise: float
    pattern: float
    seed: int
    mover: int | None = None
    waves: int | None = None

    def apply(self, clip, has_target=True):
        """Changes the grey levels of a normalised clip (n, H, W) float32 in place, padding apart.

        What moves through it and waves first; then mirrored, multiplied, moved in level, noise.
        """
        if not clip.size:
            return
        if self.mover is not None and not has_target:
            paste_mover(clip, self.mover)
        if self.waves is not None:
            add_waves(clip, self.waves)
        if self.mirrored:
            np.subtract(2 * clip.mean(dtype=np.float64).astype(np.float32), clip, out=clip)
        if self.gain != 1:
            clip *= np.float32(self.gain)
        if self.level:
            clip += np.float32(self.level)
        rng = np.random.Generator(np.random.PCG64(self.seed))
        for level, shape in ((self.noise, clip.shape), (self.pattern, clip.shape[1:])):
            if level:
                clip += np.float32(level) * rng.standard_normal(shape, np.float32)


@dataclass(frozen=True)
class Augmentation:
    """How clips are changed at random. At its default each value changes nothing.

    Attributes:
        contrast: c. The distances of grey levels from the data set's mean are multiplied by a
            factor whose logarithm is uniform between -log(1 + c) and log(1 + c).
        level: a clip's `Change.level` is uniform between -level and level.
        dark: share of the clips that are mirrored about their own mean level.
        stride: s. A clip is every k-th frame, k uniform in 1 ... s, and at most N // T in a
            sequence of N frames, so that it has clips of T frames at that stride, too.
        jitter: pixels. Each frame is moved on its own, by a normal draw of this standard deviation
            along each axis.
        drift: pixels a frame of the clip. The view moves at a steady speed, uniform between
            -drift and drift along each axis.
        noise: a clip's `Change.noise` is uniform between 0 and this.
        pattern: likewise.
        grow: pixels. Each target's mask grows by this many along rows and columns. Boxes that
            people draw are a few pixels off: a network that marks more than the target's own
            pixels meets their centres, and few of them count as false alarms.
        still: share of the clips that jitter and drift leave alone. Where every clip moves, a
            network learns to pass over targets that hardly do.
        movers: share of the clips without target through which something larger moves that is
            none, and
        waves: share of the clips to which waves are added: see `data.training.clutter`.
    """

    contrast: float = 0.0
    level: float = 0.0
    dark: float = 0.0
    stride: int = 1
    jitter: float = 0.0
    drift: float = 0.0
    noise: float = 0.0
    pattern: float = 0.0
    grow: int = 0
    still: float = 0.0
    movers: float = 0.0
    waves: float = 0.0

    def draw_stride(self, start, stop, frames, seqlen, rng):
        """(start, stop, k) of a window of a sequence of `frames` frames, stretched to stride k.

        It keeps its number of frames and its last one, unless it would begin before the sequence.
        """
        if self.stride == 1:
            return start, stop, 1
        step = int(rng.integers(1, max(min(self.stride, frames // seqlen), 1) + 1))
        reach = (stop - start - 1) * step + 1
        stop = max(stop, reach)
        return stop - reach, stop, step

    def draw(self, frames, placing, rng):
        """The `Change` of a clip of so many frames; the view of frame `placing` does not drift."""
        gain = math.exp(rng.uniform(-1, 1) * math.log1p(self.contrast))
        mirrored = bool(rng.random() < self.dark)
        noise, pattern = (rng.random(2) * (self.noise, self.pattern)).tolist()
        offsets = None
        moves = not self.still or rng.random() >= self.still
        if (self.jitter or self.drift) and moves:
            times = np.arange(frames)[:, None] - placing
            offsets = times * rng.uniform(-self.drift, self.drift, 2)
            offsets = offsets + self.jitter * rng.standard_normal((frames, 2))
        seed = int(rng.integers(2**63))
        level = self.level * rng.uniform(-1, 1) if self.level else 0.0
        clutter = [
            int(rng.integers(2**63)) if share and rng.random() < share else None
            for share in (self.movers, self.waves)
        ]
        return Change(offsets, gain, level, mirrored, noise, pattern, seed, *clutter)


CHANGES = {field.name: field for field in fields(Augmentation)}
CHANGES_HELP = (
    "contrast=C (by a factor of up to 1 + C either way), dark=P (this share is made negative), "
    "stride=K (every k-th frame, k up to K), jitter=J and drift=D (the view shakes by J pixels, "
    "moves by up to D a frame; still=P: not in this share of the clips), level=S, noise=S and "
    "pattern=S (up to S of the data's standard deviations), grow=G (masks grow by G pixels), "
    "movers=P (through this share of the clips without target something larger moves), waves=P "
    "(this share of the clips has waves)"
)
AT_MOST = {"dark": 1.0, "still": 1.0, "movers": 1.0, "waves": 1.0}  # shares
MOST_OF_OTHERS = 1000  # of the others: beyond, clips are no numbers any more


def parse_augmentation(text):
    """The `Augmentation` of a text such as "dark=0.5,stride=4,drift=0.5"; None for None.

    Raises:
        ValueError: a name or a value that it does not know, or one given twice.
    """
    if text is None:
        return None
    given = {}
    for word in text.split(","):
        name, _, number = word.strip().partition("=")
        if name not in CHANGES:
            raise ValueError(
                f"--augment {word.strip()}: no such change; expected NAME=VALUE, with commas "
                f"between several, NAME one of {', '.join(CHANGES)}"
            )
        if name in given:
            raise ValueError(f"--augment {text}: {name} is given twice; expected it once")
        kind = CHANGES[name].type
        least, most = CHANGES[name].default if kind is int else 0, AT_MOST.get(name, MOST_OF_OTHERS)
        try:
            given[name] = kind(number)
            known = least <= given[name] <= most
        except ValueError:
            known = False
        if not known:
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"--augment {name}={number}: expected {what} from {least} to {most:g}")
    return Augmentation(**given)


def move_view(frames, rows, columns, offsets):
    """Frames as a camera saw them that moved: (n, h, w) float32.

    Frame t is read at (row + offsets[t, 0], column + offsets[t, 1]) for the rows and columns of
    the crop, between pixels bilinearly. At the image's border the view stops: nothing is made up.

    Args:
        frames: (n, H, W) of any real type.
        rows, columns: slices; h and w are what of them lies in the image.
        offsets: (n, 2).
    """
    moved = None
    for index, frame in enumerate(frames):
        (top, down), (left, right) = (
            _view(which.indices(side), offset, side)
            for which, offset, side in zip(
                (rows, columns), offsets[index], frame.shape, strict=True
            )
        )
        view = frame[np.ix_(top, left)].astype(np.float32)
        view = view[:-1] + down * (view[1:] - view[:-1])
        view = view[:, :-1] + right * (view[:, 1:] - view[:, :-1])
        moved = np.empty((len(frames), *view.shape), np.float32) if moved is None else moved
        moved[index] = view
    return moved


def move_masks(masks, rows, columns, offsets):
    """Masks (n, H, W) moved as `move_view` moves frames, to the nearest pixel: (n, h, w)."""
    views = []
    for mask, offset in zip(masks, offsets, strict=True):
        lines = []
        for which, moved, side in zip((rows, columns), offset, mask.shape, strict=True):
            at, share = _view(which.indices(side), moved, side)
            lines.append(at[:-1] + (share >= 0.5))
        views.append(mask[np.ix_(*lines)])
    return np.stack(views)


def grow_masks(masks, by):
    """Masks (n, h, w) in {0, 1} grown by `by` pixels along rows and columns.

    A target outside of the crop does not grow into it.
    """
    return ndimage.maximum_filter(masks, (1, 2 * by + 1, 2 * by + 1), mode="constant")


def _view(bounds, offset, side):
    """Where a view along one axis lies: its first pixels and one more, and the share between."""
    start, stop, _ = bounds
    place = min(max(start + offset, 0.0), float(side - (stop - start)))
    whole = math.floor(place)
    pixels = np.arange(whole, whole + stop - start + 1)
    return np.minimum(pixels, side - 1), np.float32(place - whole)
