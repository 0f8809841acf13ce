"""Target boxes of a sequence: what labels say, checked; what masks show; what moves how fast."""

import math
from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage

_CONNECTED = np.ones((3, 3), int)
LAG = 15  # frames over which speed is measured: boxes jitter by a fraction of a pixel
LONGEST_MOVE = 10.0  # pixels that a target may move from one labelled frame to the next
WANTED_SPEED = 0.5  # pixels a frame
FEWEST_FRAMES = 40  # that a stride chosen here leaves: the frames of a published clip


@dataclass(frozen=True)
class Box:
    """A target in one frame.

    Positions are those of edges, in pixels from 0: pixel (r, c) covers [r, r + 1) x [c, c + 1).
    That of a point may reach over the frame's border: its centre is the point.

    Attributes:
        frame: index of the frame in its sequence, from 0.
        top, left, height, width: of the box.
        track: which target it is, the same in all frames; None: not known.
        score: 1 for a label.
    """

    frame: int
    top: float
    left: float
    height: float
    width: float
    track: int | None = None
    score: float = 1.0

    @property
    def centre(self):
        """(row, column), where pixel (0, 0) has its centre at (0, 0)."""
        return self.top + self.height / 2 - 0.5, self.left + self.width / 2 - 0.5


@dataclass(frozen=True)
class SequenceShape:
    """What labels can refer to.

    Attributes:
        name: of the sequence.
        count: its frames.
        size: (height, width), or None where it is not known.
        numbers: of the frames, ascending.
        file_names: of the frames, or None where they have no files of their own.
    """

    name: str
    count: int
    size: tuple[int, int] | None
    numbers: tuple[int, ...]
    file_names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, sequence):
        """That of a `data.sequences.TestSequence`."""
        size = sequence.read(0, 1).frames.shape[1:]
        names = sequence.file_names
        return cls(sequence.name, len(sequence), size, tuple(sequence.numbers), names)

    def stem(self, index):
        """What the files of a frame are called, without suffix."""
        if self.file_names is not None:
            return self.file_names[index].rsplit(".", 1)[0]
        return f"{self.numbers[index]:05d}"


@dataclass
class Problems:
    """Labels that make no sense: refused, or left out and remembered.

    Attributes:
        skip: leave them out.
        found: a line for each that was left out.
        doubts: a line for each that can be read in another way, too.
    """

    skip: bool = False
    found: list = field(default_factory=list)
    doubts: list = field(default_factory=list)

    def doubt(self, line):
        """Remembers what can be read in another way."""
        self.doubts.append(line)

    def report(self, where, message):
        """Raises:
        ValueError: unless they are to be left out.
        """
        if not self.skip:
            raise ValueError(f"{where}: {message}; --skip_bad leaves such labels out")
        self.found.append(f"{where}: {message}")


def accept(box, where, shape, problems, cut=True):
    """The box, cut at the frame's border; None if it was reported as making no sense.

    Args:
        box: a `Box`.
        where: the place of the label, for messages.
        shape: `SequenceShape`.
        problems: `Problems`.
        cut: False: it stays as it is, as that of a point must, to keep its centre.
    """
    values = box.top, box.left, box.height, box.width
    height, width = shape.size or (math.inf, math.inf)
    right, bottom = box.left + box.width, box.top + box.height
    if not all(map(math.isfinite, values)):
        problems.report(where, f"a position or size is not a number: {values}")
    elif box.height <= 0 or box.width <= 0:
        problems.report(
            where, f"a box of {box.width:g}x{box.height:g} pixels; expected a width and a height"
        )
    elif right <= 0 or bottom <= 0 or box.left >= width or box.top >= height:
        problems.report(
            where,
            f"columns {box.left:g} to {right:g}, rows {box.top:g} to {bottom:g} lie outside the "
            f"frame of {width}x{height}",
        )
    elif not cut or (box.top >= 0 and box.left >= 0 and bottom <= height and right <= width):
        return box
    else:
        top, left = max(box.top, 0), max(box.left, 0)
        return replace(
            box,
            top=top,
            left=left,
            height=min(bottom, height) - top,
            width=min(right, width) - left,
        )
    return None


def boxes_of_masks(masks, first):
    """The boxes of the 8-connected components of masks (n, H, W); `first` is their first frame."""
    boxes = []
    for index, mask in enumerate(masks, first):
        labels, _ = ndimage.label(mask, _CONNECTED)
        for rows, columns in ndimage.find_objects(labels):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            boxes.append(Box(index, rows.start, columns.start, height, width))
    return boxes


def link(boxes):
    """The boxes, with tracks where they have none.

    From one labelled frame to the next, boxes without a track that are each other's nearest, at
    most `LONGEST_MOVE` pixels apart, are one target. Tracks that were given stay.
    """
    linked = [box for box in boxes if box.track is not None]
    frames = defaultdict(list)
    for box in boxes:
        if box.track is None:
            frames[box.frame].append(box)
    before, tracks = [], max((box.track for box in linked), default=0)
    for frame in sorted(frames):
        now = frames[frame]
        chosen = _mutual(before, now) if before and before[0].frame == frame - 1 else {}
        current = []
        for index, box in enumerate(now):
            if index in chosen:
                track = before[chosen[index]].track
            else:
                tracks += 1
                track = tracks
            current.append(replace(box, track=track))
        linked += current
        before = current
    return sorted(linked, key=lambda box: box.frame)


def _mutual(before, now):
    """{index in `now`: index in `before`} of the pairs that are each other's nearest."""
    a, b = (np.array([box.centre for box in boxes]) for boxes in (before, now))
    distances = np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1))
    back, forth = distances.argmin(axis=0), distances.argmin(axis=1)
    return {
        index: int(other)
        for index, other in enumerate(back)
        if forth[other] == index and distances[other, index] <= LONGEST_MOVE
    }


def median_speed(boxes):
    """Median speed of the targets, in pixels a frame, over all tracks and frames.

    Measured over `LAG` frames, or as many as a track has. None where no target is seen twice.
    """
    tracks = defaultdict(dict)
    for box in link(boxes):
        tracks[box.track][box.frame] = box.centre
    speeds = []
    for places in tracks.values():
        lag = min(LAG, max(places) - min(places))
        speeds += [
            math.dist(place, places[frame + lag]) / lag
            for frame, place in places.items()
            if lag and frame + lag in places
        ]
    return float(np.median(speeds)) if speeds else None


def choose_stride(boxes, count):
    """Every how manyth frame to keep, so that the median target moves about `WANTED_SPEED`.

    At least `FEWEST_FRAMES` of the `count` frames are left where there are as many.
    """
    speed = median_speed(boxes)
    if speed is None:
        return 1
    most = max(count // FEWEST_FRAMES, 1)
    wanted = most if speed == 0 else round(WANTED_SPEED / speed)
    return min(max(wanted, 1), most)
