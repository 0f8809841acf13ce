"""The score that is attributed: a target's, as a function of the clip."""

import math
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from utils.scan import padded_size, run_clip

BATCH_VOXELS = 1 << 17  # of the clips that are run at once


@dataclass
class Passes:
    """Clips that went through the network: `forward` alone, and with a way `backward`.

    One forward pass may serve several targets; each has a way backward of its own.
    """

    forward: int = 0
    backward: int = 0

    def __add__(self, other):
        return Passes(self.forward + other.forward, self.backward + other.backward)


class TargetScores:
    """C_k(x) = sum over the pixels of target k of sigmoid(logit), in the target's frame.

    Args:
        detector: makes the promises; in evaluation mode.
        targets: list of `utils.attribution.targets.ScoredTarget`, frames and pixels counted in the
            clips.
        network: what is run on the clips; the detector itself if None.

    Attributes:
        passes: `Passes` so far.

    Raises:
        ValueError: there is no target, or the detector predicts no such frame.
    """

    def __init__(self, detector, targets, network=None):
        if not targets:
            raise ValueError("no target to attribute: expected pixels of at least one")
        self.detector, self.targets, self.network = detector, list(targets), network or detector
        last = detector.predicts == "last" and not detector.recurrent
        for target in targets:
            if last and target.frame != detector.seqlen - 1:
                raise ValueError(
                    f"frame {target.frame} of a clip of {detector.seqlen}: "
                    f"{type(detector).__name__} predicts the last one only"
                )
        self.passes = Passes()

    def of(self, clips):
        """(B, K) float64 scores of clips (B, 1, T, H, W); gradients pass.

        Raises:
            ValueError: the clip is not of the network's length, a target is not in it, or a score
                is not finite.
        """
        seqlen, (height, width) = self.detector.seqlen, clips.shape[-2:]
        if clips.shape[2] != seqlen:
            raise ValueError(
                f"clip of {clips.shape[2]} frames: expected {seqlen}, the length that "
                f"{type(self.detector).__name__} was made for"
            )
        logits = run_clip(self._network(), clips, self.detector)
        first, scores = seqlen - logits.shape[1], []
        for target in self.targets:
            row, column = target.pixels.max(axis=0)
            if row >= height or column >= width or not 0 <= target.frame < seqlen:
                raise ValueError(
                    f"row {row}, column {column} of frame {target.frame}: expected a place in "
                    f"{seqlen} frames of {height}x{width}"
                )
            rows, columns = torch.from_numpy(target.pixels.T.copy())
            found = logits[:, target.frame - first, rows, columns]
            wide = found.to(torch.promote_types(found.dtype, torch.float32))
            scores.append(torch.sigmoid(wide).double().sum(dim=1))
        scores = torch.stack(scores, dim=1)
        if not torch.isfinite(scores).all():
            raise ValueError("a score is NaN: the network's weights or input are not finite")
        return scores

    def _network(self):
        """What `run_clip` calls: a recurrent network keeps one frame's graph at a time."""
        if not (self.detector.recurrent and torch.is_grad_enabled()):
            return self.network
        return lambda frame, state: checkpoint(self.network, frame, state, use_reentrant=False)

    def measure(self, clips):
        """(n, K) scores of clips, an iterable of (1, T, H, W) tensors; without gradients."""
        found = []
        with torch.no_grad():
            for batch in self._batches(clips):
                self.passes.forward += len(batch)
                found.append(self.of(torch.stack(batch)).cpu().numpy())
        return np.concatenate(found)

    def differentiate(self, clips, wanted):
        """Gradients of the scores, a batch of clips at a time.

        Args:
            clips: iterable of (1, T, H, W) tensors.
            wanted: numbers of the targets, of which at least one.

        Yields:
            (clip number, target number, gradient (T, H, W)).

        Raises:
            ValueError: the network cannot be differentiated, or a gradient is not finite.
        """
        done = 0
        for batch in self._batches(clips):
            for k, gradients in self._gradients(torch.stack(batch), wanted).items():
                for i, gradient in enumerate(gradients, done):
                    yield i, k, gradient
            done += len(batch)

    def _batches(self, clips):
        """Lists of clips of at most `BATCH_VOXELS` together, as they are padded; at least one."""
        batch = []
        for clip in clips:
            batch.append(clip)
            size = clip.shape[1] * math.prod(padded_size(self.detector, *clip.shape[2:]))
            if (len(batch) + 1) * size > BATCH_VOXELS:
                yield batch
                batch = []
        if batch:
            yield batch

    def _gradients(self, clips, wanted):
        """{target number: gradients (B, T, H, W)} of one batch."""
        gradients = {}
        # Outside of this no mode of autograd is changed, so results come after it.
        with torch.inference_mode(False), torch.enable_grad(), frozen(self.detector):
            clips = clips.clone().requires_grad_()
            scores = self.of(clips)
            check_gradient(scores, self.detector)
            for k in wanted:
                total, more = scores[:, k].sum(), k != wanted[-1]
                (found,) = torch.autograd.grad(total, clips, retain_graph=more)
                gradients[k] = found[:, 0]
        self.passes.backward += len(clips) * len(wanted)
        if not all(torch.isfinite(each).all() for each in gradients.values()):
            raise ValueError(
                "the gradient of a score is NaN: the network's weights are not finite, or it "
                "divides by zero somewhere"
            )
        return gradients


def check_gradient(scores, detector):
    """Refuses scores through which no gradient passes.

    Raises:
        ValueError: they are such.
    """
    if not scores.requires_grad:
        raise ValueError(
            f"{type(detector).__name__} cannot be attributed: its scores have no gradient; "
            "expected a network"
        )


def check_filter(detector):
    """Refuses a detector without weights that has no gradient, before any sequence is scanned.

    Raises:
        ValueError: it is such.
    """
    if next(detector.parameters(), None) is None:
        side = max(detector.smallest_side, 16)
        with torch.inference_mode(False), torch.enable_grad():
            clip = torch.zeros(1, 1, detector.seqlen, side, side, requires_grad=True)
            check_gradient(run_clip(detector, clip, detector), detector)


@contextmanager
def frozen(model):
    """Takes the parameters out of gradients for a while: only those of the input are wanted."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
