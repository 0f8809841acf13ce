"""What a report shows of the worst sequences, collected while they pass by."""

from dataclasses import dataclass, field

import numpy as np

from utils.metrics import best_scores, find_targets
from utils.report.overlay import grey_limits, judge, match_size

WORST = 4  # sequences kept
FRAMES = 3  # frames kept of each


@dataclass(frozen=True)
class Profile:
    """One pixel over time.

    Attributes:
        sequence, row, column: which pixel.
        verdict: what became of the target in it: "missed in frame 7" or "found in frame 7".
        levels: (N,) its grey levels.
        scores: (N,) its scores.
        on_target: (N,) true in frames where a target covers the pixel.
        threshold: that a score must reach.
        first_frame: number of the first frame.
    """

    sequence: str
    row: int
    column: int
    verdict: str
    levels: np.ndarray
    scores: np.ndarray
    on_target: np.ndarray
    threshold: float
    first_frame: int


@dataclass(frozen=True)
class Strip:
    """A few frames of one sequence with their marks.

    Attributes:
        sequence: its name.
        numbers: of the frames.
        frames: (n, H, W) grey levels.
        marks: a list of `utils.report.overlay.Mark` for each.
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


@dataclass
class Highlights:
    """Keeps the worst sequences: lowest Pd first, then highest Fa. Called with each in turn.

    Args:
        threshold: a pixel is positive if its score is at least this.
        hit, guard: the protocol.
        first_frame: number of the first frame.

    Attributes:
        kept: list of (rank, `Strip`), the worst first.
    """

    threshold: float
    hit: int
    guard: int
    first_frame: int = 1
    kept: list = field(default_factory=list)

    def __call__(self, sequence, scores):
        if sequence.masks is None:
            return
        verdict = judge(scores, sequence.centroids, self.threshold, self.hit, self.guard)
        targets = verdict.targets.sum()
        pd = 1 - verdict.missed.sum() / targets if targets else 1.0
        rank = (pd, -verdict.alarm_pixels.sum() / max(scores.size, 1))
        if len(self.kept) == WORST and rank >= self.kept[-1][0]:
            return
        self.merge([self.kept, [(rank, self._strip(sequence, scores, verdict))]])

    def merge(self, parts):
        """Keeps the worst of what several have kept."""
        everything = [kept for part in parts for kept in part]
        self.kept = sorted(everything, key=lambda kept: kept[0])[:WORST]

    @property
    def strips(self):
        """The worst sequences, the worst first."""
        return [strip for _, strip in self.kept]

    def _strip(self, sequence, scores, verdict):
        chosen = choose_frames(verdict)
        frames = match_size(sequence.frames[chosen], scores.shape[1:])
        return Strip(
            sequence.name,
            [self.first_frame + index for index in chosen],
            frames,
            [verdict.marks[index] for index in chosen],
            [_caption(verdict, index) for index in chosen],
            grey_limits(frames),
            self._profiles(sequence, scores),
        )

    def _profiles(self, sequence, scores):
        """Profiles of the least and of the most confidently scored target."""
        targets = find_targets(sequence.centroids)
        if targets.count == 0:
            return []
        best = best_scores(scores, targets, self.hit)
        order = np.argsort(best, kind="stable")
        reached = best >= scores.dtype.type(self.threshold)
        chosen = [order[0], order[-1]] if reached[order[0]] != reached[order[-1]] else [order[0]]
        frames = match_size(sequence.frames, scores.shape[1:])
        profiles = []
        for target in chosen:
            pixels = targets.pixels[targets.owner == target]
            frame, row, column = pixels[scores[tuple(pixels.T)].argmax()].tolist()
            verdict = "found" if reached[target] else "missed"
            profiles.append(
                Profile(
                    sequence.name,
                    row,
                    column,
                    f"target {verdict} in frame {self.first_frame + frame}",
                    frames[:, row, column].copy(),
                    scores[:, row, column].copy(),
                    sequence.centroids[:, row, column] > 0,
                    self.threshold,
                    self.first_frame,
                )
            )
        return profiles


def choose_frames(verdict, count=FRAMES):
    """Indices of the frames that show most of what went wrong, spread over the sequence."""
    frames = len(verdict.targets)
    trouble = verdict.missed * 1e9 + verdict.alarm_pixels
    thirds = np.array_split(np.arange(frames), min(count, frames))
    return [int(third[trouble[third].argmax()]) for third in thirds]


def _caption(verdict, index):
    targets, missed = verdict.targets[index], verdict.missed[index]
    found = f"{targets - missed} of {targets} targets found" if targets else "no target"
    return f"{found}, {verdict.alarm_pixels[index]} false-alarm pixels"
