"""What a report shows of the worst sequences, collected while they pass by in blocks."""

from dataclasses import dataclass

import numpy as np

from utils.report.marks import mark_frames
from utils.report.overlay import frames_at_score_size, grey_limits
from utils.report.profiles import RecentFrames, Recording
from utils.report.writers import Writer

WORST = 4  # sequences kept
FRAMES = 3  # frames kept of each: the worst of each third of the sequence


@dataclass(frozen=True)
class Profile:
    """One pixel over time.

    Attributes:
        sequence, row, column: which pixel.
        verdict: what became of the target in it: "missed in frame 7" or "found in frame 7".
        numbers: (n,) of the frames.
        levels: (n,) its grey levels.
        scores: (n,) its scores.
        on_target: (n,) true in frames where a target covers the pixel.
        threshold: that a score must reach.
    """

    sequence: str
    row: int
    column: int
    verdict: str
    numbers: np.ndarray
    levels: np.ndarray
    scores: np.ndarray
    on_target: np.ndarray
    threshold: float


@dataclass(frozen=True)
class Strip:
    """A few frames of one sequence with their marks.

    Attributes:
        sequence: its name.
        numbers: of the frames.
        frames: (n, H, W) grey levels.
        marks: a list of `utils.report.marks.Mark` for each.
        captions: for each, what it shows.
        limits: the grey levels that are drawn black and white.
        profiles: list of `Profile`: of a missed and of a found target, where there are such.
    """

    sequence: str
    numbers: list
    frames: np.ndarray
    marks: list
    captions: list
    limits: tuple
    profiles: list


class Highlights(Writer):
    """Keeps the worst labelled sequences: lowest Pd first, then highest Fa.

    Args:
        threshold: a pixel is positive if its score is at least this.
        protocol: `utils.protocols.Protocol` by which targets are found and alarms are false.

    Attributes:
        kept: list of (rank, place in the list of sequences, `Strip`), the worst first.
    """

    def __init__(self, threshold, protocol):
        self.threshold, self.protocol = threshold, protocol
        self.kept = []
        self.current, self.ended = None, 0

    def add(self, block):
        if block.centroids is None:
            return
        if self.current is None:
            self.current = Passing(block.sequence, self.threshold, self.protocol)
        self.current.add(block)

    def end(self, sequence):
        current, self.current = self.current, None
        if current is not None:
            rank = current.rank()
            if len(self.kept) < WORST or rank < self.kept[-1][0]:
                self._keep([*self.kept, (rank, self.ended, current.strip())])
        self.ended += 1

    def share(self, group):
        # Of sequences that are equally bad the first stays, as if one process had seen them all.
        placed = [
            (rank, ended * group.size + group.rank, strip) for rank, ended, strip in self.kept
        ]
        self._keep(group.gather(placed))

    @property
    def strips(self):
        """The worst sequences, the worst first."""
        return [strip for _, _, strip in self.kept]

    def _keep(self, candidates):
        self.kept = sorted(candidates, key=lambda kept: kept[:2])[:WORST]


@dataclass(frozen=True)
class ShownFrame:
    """A frame that may be shown, and how bad it is."""

    trouble: float
    number: int
    frame: np.ndarray
    marks: list
    caption: str


@dataclass(frozen=True)
class ShownTarget:
    """A target whose profile may be shown: `key` is (found, best score of its pixels)."""

    key: tuple
    number: int
    recording: Recording


class Passing:
    """One sequence as it passes: its counts, its worst frames, the profiles of two targets.

    Args:
        sequence: as its blocks name it.
        threshold, protocol: as of `Highlights`.
    """

    def __init__(self, sequence, threshold, protocol):
        self.sequence, self.threshold, self.protocol = sequence, threshold, protocol
        self.targets = self.missed = self.alarm_pixels = self.pixels = 0
        thirds = np.array_split(np.arange(len(sequence)), min(FRAMES, len(sequence)))
        self.ends = [third[-1] for third in thirds]
        self.worst = [None] * len(thirds)
        self.recent = RecentFrames()
        self.least = self.most = None  # the least and the most confidently scored target

    def add(self, block):
        """Takes the next block of the sequence, a `utils.evaluation.ScoredBlock`."""
        marked = mark_frames(block, self.threshold, self.protocol)
        self.targets += int(marked.targets.sum())
        self.missed += int(marked.missed.sum())
        self.alarm_pixels += int(marked.alarm_pixels.sum())
        self.pixels += block.scores.size
        self._add_frames(block, marked)
        self._add_targets(block)

    def rank(self):
        """(Pd, -Fa): the least is the worst."""
        pd = 1 - self.missed / self.targets if self.targets else 1.0
        return pd, -self.alarm_pixels / max(self.pixels, 1)

    def strip(self):
        """The `Strip` of the sequence, once it has passed."""
        shown = [frame for frame in self.worst if frame is not None]
        frames = np.stack([frame.frame for frame in shown])
        return Strip(
            self.sequence.name,
            [frame.number for frame in shown],
            frames,
            [frame.marks for frame in shown],
            [frame.caption for frame in shown],
            grey_limits(frames),
            self._profiles(),
        )

    def _add_frames(self, block, marked):
        trouble = marked.missed * 1e9 + marked.alarm_pixels
        thirds = np.searchsorted(self.ends, np.arange(block.start, block.stop))
        numbers = list(block.numbers)
        for third in np.unique(thirds):
            inside = np.flatnonzero(thirds == third)
            index = int(inside[trouble[inside].argmax()])
            if self.worst[third] is None or trouble[index] > self.worst[third].trouble:
                (frame,) = frames_at_score_size(block, [index])
                self.worst[third] = ShownFrame(
                    trouble[index],
                    int(numbers[index]),
                    frame,
                    marked.marks[index],
                    marked.caption(index),
                )

    def _add_targets(self, block):
        for target in (self.least, self.most):
            if target is not None:
                target.recording.add(block)
        self.recent.add(block)
        targets = block.targets()
        if targets.count == 0:
            return
        found = self.protocol.found(block.marked_at(self.threshold), self.threshold)
        best = np.full(targets.count, -np.inf)
        np.maximum.at(best, targets.owner, block.scores[tuple(targets.pixels.T)])
        keys = list(zip(found.tolist(), best.tolist(), strict=True))
        least = min(range(len(keys)), key=keys.__getitem__)
        most = max(range(len(keys)), key=keys.__getitem__)
        if self.least is None or keys[least] < self.least.key:
            self.least = self._follow(block, targets, least, keys[least])
        if self.most is None or keys[most] > self.most.key:
            self.most = self._follow(block, targets, most, keys[most])

    def _follow(self, block, targets, target, key):
        """Starts the profile of the best scored pixel of a target."""
        pixels = targets.pixels[targets.owner == target]
        frame, row, column = pixels[block.scores[tuple(pixels.T)].argmax()].tolist()
        recording = self.recent.record(block.start + frame, row, column)
        return ShownTarget(key, int(list(block.numbers)[frame]), recording)

    def _profiles(self):
        """Profiles of the least and, if it fared otherwise, of the most confident target."""
        shown = [target for target in (self.least, self.most) if target is not None]
        if len(shown) == 2 and self.least.key[0] == self.most.key[0]:
            shown = [self.least]
        profiles = []
        for target in shown:
            recording = target.recording
            verdict = f"target {'found' if target.key[0] else 'missed'} in frame {target.number}"
            profiles.append(
                Profile(
                    self.sequence.name,
                    recording.row,
                    recording.column,
                    verdict,
                    *recording.profile(),
                    self.threshold,
                )
            )
        return profiles
