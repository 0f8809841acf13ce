"""The attribution of targets of a sequence: the clip around each, its integral, interventions."""

from dataclasses import dataclass

import numpy as np

from utils.attribution.integrated_gradients import integrate
from utils.attribution.intervention import Intervention, intervene
from utils.attribution.maps import Shares, share_influence
from utils.attribution.memory import check_memory
from utils.attribution.paths import path_start
from utils.attribution.quadrature import Integral
from utils.attribution.scores import Passes, TargetScores
from utils.attribution.targets import ScoredTarget
from utils.scan import normalised, window_starts


@dataclass(frozen=True)
class AttributedClip:
    """The frames of a sequence that are fed at once.

    Attributes:
        first: index in the sequence of the clip's first frame; negative where frames that the
            sequence does not have come before it.
        frames: (T, H, W) grey levels; zero where the clip is padded.
        clip: (T, H, W) float32, normalised; zero where it is padded.
        real: slice of the clip's frames that the sequence has. Those before it stand for what came
            before the sequence, those behind it pad the clip.
        numbers: (T,) numbers of the frames, as if there were some before and behind the sequence.
    """

    first: int
    frames: np.ndarray
    clip: np.ndarray
    real: slice
    numbers: np.ndarray


@dataclass(frozen=True)
class Attribution:
    """What the score of one target is due to.

    Attributes:
        sequence: its name.
        number: of the attributed frame.
        target: `ScoredTarget`; frame and pixels are counted in the excerpt below.
        numbers, real: (T,) numbers of the frames, and which the sequence has; see `AttributedClip`.
        frames: (T, h, w) grey levels of the excerpt.
        top, left: the excerpt's first row and column in the frames.
        size: (H, W) of the frames; outside of the excerpt every attribution is 0.
        integral: `utils.attribution.quadrature.Integral`, (T, h, w).
        shares: `utils.attribution.maps.Shares`.
        intervention: `utils.attribution.intervention.Intervention`; None if there was none.
    """

    sequence: str
    number: int
    target: ScoredTarget
    numbers: np.ndarray
    real: slice
    frames: np.ndarray
    top: int
    left: int
    size: tuple
    integral: Integral
    shares: Shares
    intervention: Intervention | None

    def whole(self):
        """The attribution in the whole frames, (T, H, W) float32."""
        height, width = self.integral.attribution.shape[1:]
        whole = np.zeros((len(self.numbers), *self.size), np.float32)
        rows = slice(self.top, self.top + height)
        whole[:, rows, self.left : self.left + width] = self.integral.attribution
        return whole


def cut_clip(sequence, frame, detector):
    """The `AttributedClip` in which a frame is attributed.

    Of a detector that predicts all frames it is the one of the test's windows that has the frame
    nearest to its middle. One that predicts the last frame, or that is recurrent, gets the T frames
    that end with it, whose beginning stands in for all that came before.
    """
    seqlen, length = detector.seqlen, len(sequence)
    if detector.predicts == "all" and not detector.recurrent:
        starts = window_starts(length, seqlen)
        first = min(starts, key=lambda start: abs(start + (seqlen - 1) / 2 - frame))
    else:
        first = frame - seqlen + 1
        if detector.recurrent:  # nothing comes before its first frame
            first = max(min(first, length - seqlen), 0)
    low, high = max(first, 0), min(first + seqlen, length)
    frames, numbers = sequence.read(low, high).frames, np.array(sequence.numbers[low:high])
    missing, padded = low - first, first + seqlen - high
    earlier = frames[:1] if sequence.earlier is None else sequence.earlier[-seqlen:]
    before = earlier[np.maximum(np.arange(-missing, 0) + len(earlier), 0)]
    behind = np.zeros((padded, *frames.shape[1:]), frames.dtype)
    frames = np.concatenate([before, frames, behind])
    clip = normalised(frames, *sequence.normalisation)
    clip[seqlen - padded :] = 0
    ahead, follow = np.arange(-missing, 0), np.arange(1, padded + 1)
    numbers = np.concatenate([numbers[0] + ahead, numbers, numbers[-1] + follow])
    return AttributedClip(first, frames, clip, slice(missing, seqlen - padded), numbers)


class Explainer:
    """Attributes targets of sequences to the grey levels around them.

    Args:
        detector: any that can be differentiated, in evaluation mode.
        path: of `utils.attribution.paths.PATHS`.
        quadrature: of `utils.attribution.quadrature`.
        interventions: whether they are made.

    Attributes:
        passes: `utils.attribution.scores.Passes` so far, those of interventions not counted.
    """

    def __init__(self, detector, path, quadrature, interventions=True):
        self.detector, self.path, self.quadrature = detector, path, quadrature
        self.interventions, self.passes = interventions, Passes()

    def explain(self, sequence, targets):
        """Yields the `Attribution` of each target; frames and pixels count in the sequence.

        Targets that lie in the same window and need the same part of it share their passes.

        Raises:
            ValueError: as `utils.attribution.scores.TargetScores`, or memory does not suffice.
        """
        windows, groups = {}, {}
        for target in targets:
            window = cut_clip(sequence, target.frame, self.detector)
            window = windows.setdefault(window.first, window)
            size, local = window.clip.shape[1:], target.moved(window.first)
            excerpt = self.detector.excerpt(size, local.box())
            if excerpt is None:
                excerpt = (0, 0, *size, self.detector)
            groups.setdefault((window.first, excerpt[:4]), (window, excerpt, []))[2].append(local)
        for window, excerpt, group in groups.values():
            yield from self._explain(sequence, window, excerpt, group)

    def _explain(self, sequence, window, excerpt, targets):
        """Attributes targets of one window within the same part of it."""
        top, left, bottom, right, network = excerpt
        check_memory(self.detector, (bottom - top, right - left), network)
        moving = slice(0, window.real.stop)
        start = path_start(self.path, window.clip, sequence.normalisation, moving)
        frames, clip, start = (
            np.ascontiguousarray(each[:, top:bottom, left:right])
            for each in (window.frames, window.clip, start)
        )
        targets = [target.moved(0, top, left) for target in targets]
        scores = TargetScores(self.detector, targets, network)
        integrals = integrate(scores, clip, start, self.quadrature)
        self.passes = self.passes + scores.passes
        for k, (target, integral) in enumerate(zip(targets, integrals, strict=True)):
            made = None
            if self.interventions:
                made = intervene(scores, clip, start, integral.attribution, k)
            yield Attribution(
                sequence=sequence.name,
                number=int(window.numbers[target.frame]),
                target=target,
                numbers=window.numbers,
                real=window.real,
                frames=frames,
                top=top,
                left=left,
                size=window.clip.shape[1:],
                integral=integral,
                shares=share_influence(integral.attribution, target),
                intervention=made,
            )
