"""What is attributed: the score of the pixels of a target, a false alarm or any other place."""

from dataclasses import dataclass

import numpy as np

from utils.metrics import find_targets


@dataclass(frozen=True)
class ScoredTarget:
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
        return ScoredTarget(self.frame - frame, pixels, self.kind, self.score)

    def scaled(self, size, other):
        """The same in frames of (height, width) `other` instead of `size`."""
        if tuple(size) == tuple(other):
            return self
        pixels = np.unique(self.pixels * np.array(other) // np.array(size), axis=0)
        return ScoredTarget(self.frame, pixels, self.kind, self.score)

    def box(self):
        """(top, left, bottom, right), half open."""
        (top, left), (bottom, right) = self.pixels.min(axis=0), self.pixels.max(axis=0) + 1
        return int(top), int(left), int(bottom), int(right)


def components_of(found, kind, scores):
    """`ScoredTarget` for each of the `utils.metrics.Targets` of a block of frames, counted in it.

    Args:
        found: the components.
        kind: what they are.
        scores: (n, H, W) of the block.
    """
    order = np.argsort(found.owner, kind="stable")
    ends = np.cumsum(np.bincount(found.owner, minlength=found.count))[:-1]
    targets = []
    for pixels in np.split(found.pixels[order], ends) if found.count else []:
        peak = float(scores[tuple(pixels.T)].max())
        targets.append(ScoredTarget(int(pixels[0, 0]), pixels[:, 1:], kind, peak))
    return targets


def find_candidates(block, what, threshold, protocol=None):
    """The targets of a `utils.evaluation.ScoredBlock` that may be attributed, frames counted in it.

    Args:
        block: with frames, scores and, where known, masks.
        what: "targets": the components of the masks, where there are none, the detections;
            "alarms": detections of which the protocol calls every pixel a false alarm; or (frame
            number, row, column) of one pixel.
        threshold: of detections.
        protocol: `utils.protocols.Protocol`, for alarms.

    Raises:
        ValueError: the pixel is not in the frame.
    """
    if what == "targets" and block.masks is not None:
        return components_of(find_targets(block.masks), "target", block.scores)
    if what == "targets":
        return components_of(block.components(threshold), "detection", block.scores)
    if what == "alarms":
        marked = block.marked_at(threshold)
        found = components_of(marked.components(threshold), "false alarm", block.scores)
        if block.centroids is None:
            return found
        alarms = protocol.alarms(marked, threshold)
        return [t for t in found if alarms[t.frame, t.pixels[:, 0], t.pixels[:, 1]].all()]
    number, row, column = what
    if number not in block.numbers:
        return []
    height, width = block.scores.shape[1:]
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(
            f"row {row}, column {column}: expected a pixel of frames of {height}x{width}, counted "
            "from 0"
        )
    frame = list(block.numbers).index(number)
    score = float(block.scores[frame, row, column])
    return [ScoredTarget(frame, np.array([[row, column]]), "pixel", score)]


class Choice:
    """Which targets of a sequence are attributed: a few, spread over its length.

    The sequence is cut into equal parts. From each comes the frame nearest to its middle in which a
    target is detected; where none is, the frame with the best scored target. Of that frame come the
    best scored targets.

    Args:
        frames: parts, so the most frames of a sequence.
        targets: most targets of a frame.
        threshold: a target is detected if one of its pixels has at least this score.
    """

    def __init__(self, frames, targets, threshold):
        self.frames, self.targets, self.threshold = frames, targets, threshold
        self.best = {}

    def add(self, start, length, candidates):
        """Takes the candidates of a block that begins at frame `start` of `length`."""
        for target in sorted(candidates, key=lambda target: -target.score):
            frame = start + target.frame
            part = frame * self.frames // length
            middle = (part + 0.5) * length / self.frames - 0.5
            detected = target.score >= self.threshold
            rank = (detected, -abs(frame - middle) if detected else target.score)
            target = target.moved(-start)
            before = self.best.get(part)
            if before is None or rank > before[0]:
                self.best[part] = (rank, [target])
            elif before[1][0].frame == frame and len(before[1]) < self.targets:
                before[1].append(target)

    def chosen(self):
        """List of `ScoredTarget`, frames counted in the sequence, in order."""
        return [target for part in sorted(self.best) for target in self.best[part][1]]
