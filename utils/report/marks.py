"""What a threshold and a protocol make of some frames: targets found and missed, false alarms."""

from dataclasses import dataclass

import numpy as np

FOUND, MISSED, DETECTION, ALARM = "target, found", "target, missed", "detection", "false alarm"


def legible(name):
    """A name as pictures show it: letters that their fonts lack are written as escapes."""
    return name.encode("latin-1", "backslashreplace").decode("latin-1")


@dataclass(frozen=True)
class Mark:
    """Something to draw in a frame.

    Attributes:
        kind: `FOUND`, `MISSED`, `DETECTION` or `ALARM`.
        row, column: centre, pixels.
        radius: half its extent, pixels.
    """

    kind: str
    row: float
    column: float
    radius: float


@dataclass(frozen=True)
class MarkedFrames:
    """The marks of a block and their numbers, frame by frame.

    Attributes:
        marks: a list of `Mark` for each frame.
        targets: (n,) targets.
        missed: (n,) targets not detected.
        alarm_pixels: (n,) false-alarm pixels.
        detections: (n,) connected detections, false alarms included.
    """

    marks: list
    targets: np.ndarray
    missed: np.ndarray
    alarm_pixels: np.ndarray
    detections: np.ndarray

    def caption(self, index):
        """What became of the targets of one frame, in words."""
        targets = self.targets[index]
        found = f"{targets - self.missed[index]} of {targets} targets found"
        return f"{found if targets else 'no target'}, {self.alarm_pixels[index]} false-alarm pixels"


def mark_frames(block, threshold, protocol):
    """Marks the targets, detections and false alarms of a block; looks for them once.

    A detection is a false alarm if any of its pixels is one by the protocol. Where nothing is known
    of the targets there are detections only.

    Args:
        block: `utils.evaluation.ScoredBlock`.
        threshold: a pixel is positive if its score is at least this.
        protocol: `utils.protocols.Protocol`.

    Returns:
        `MarkedFrames`.
    """

    def mark():
        return _mark_frames(block.marked_at(threshold), threshold, protocol)

    return block.remember(("marks", threshold, protocol.name), mark)


def _mark_frames(block, threshold, protocol):
    frames = len(block.scores)
    marks = [[] for _ in range(frames)]
    components = block.components(threshold)
    kinds, alarm_pixels = [DETECTION] * components.count, np.zeros(frames, dtype=int)
    if block.centroids is not None:
        alarms = protocol.alarms(block, threshold)
        alarm_pixels = np.count_nonzero(alarms, axis=(1, 2))
        outside = np.zeros(components.count, dtype=bool)
        np.logical_or.at(outside, components.owner, alarms[tuple(components.pixels.T)])
        kinds = [ALARM if alarm else DETECTION for alarm in outside]
    detections = _add_marks(marks, components, kinds)
    targets = missed = np.zeros(frames, dtype=int)
    if block.centroids is not None:  # last, so that nothing is drawn over the targets
        found = protocol.found(block, threshold)
        kinds = [FOUND if hit else MISSED for hit in found]
        targets = _add_marks(marks, block.targets(), kinds)
        missed = np.array([sum(mark.kind == MISSED for mark in of_frame) for of_frame in marks])
    return MarkedFrames(marks, targets, missed, alarm_pixels, detections)


def _add_marks(marks, components, kinds):
    """Adds a mark of its kind for each component; returns how many there are in each frame."""
    frames, rows, columns = components.pixels.T
    owner, count = components.owner, components.count
    frame = np.zeros(count, dtype=int)
    frame[owner] = frames
    ends = []
    for positions in (rows, columns):
        first, last = np.full(count, np.iinfo(int).max), np.full(count, -1)
        np.minimum.at(first, owner, positions)
        np.maximum.at(last, owner, positions)
        ends.append((first, last))
    (top, bottom), (left, right) = ends
    radius = np.maximum(bottom - top, right - left) / 2 + 0.5
    places = (frame, (top + bottom) / 2, (left + right) / 2, radius)
    for kind, index, *place in zip(kinds, *(each.tolist() for each in places), strict=True):
        marks[index].append(Mark(kind, *place))
    return np.bincount(frame, minlength=len(marks))
