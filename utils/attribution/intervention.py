"""Whether an attribution is to be believed: what happens to the score if grey levels are changed.

An attribution says which grey levels a score is due to. If it is right the score falls when those
are taken away, comes back when they alone are put in, and stays where it is when others change.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from utils.attribution.maps import normalised_map

SHARES = np.linspace(0, 1, 11)  # of the influence, at which deletion and insertion are measured
PATCH = 4  # side of the patches that are replaced
MARKED = 1 / 200  # mean of the normalised map in a patch above which it is replaced
FILLING_BLUR = 5


def patch_means(frames):
    """Each frame's 4x4 patches, their own mean in every pixel."""
    return _spread(_patch_sums(frames) / _patch_sums(np.ones_like(frames)), frames.shape)


def blurred(frames):
    """Frames blurred by a 5x5 box, mirrored at the borders."""
    return ndimage.uniform_filter(frames, (0, FILLING_BLUR, FILLING_BLUR), mode="mirror")


# What takes the place of a patch, by name.
FILLINGS = {"mean": patch_means, "blur": blurred, "zero": np.zeros_like}


@dataclass(frozen=True)
class Intervention:
    """What interventions did to one target. Scores are means over the target's pixels.

    Attributes:
        score, start: with the clip as it is, and at the start of the path.
        deletion: (11,) scores without the voxels that make up 0, 10, ... 100 % of sum |A|, the most
            influential first: they are as at the start of the path.
        insertion: (11,) scores of the start of the path with these voxels as they are.
        random_deletion, random_insertion: (11,) likewise with as many voxels in random order.
        marked: the share of the 4x4 patches of single frames in which the mean of the normalised
            map is above 1/200.
        effects: for each of `FILLINGS` the score less that with the marked patches replaced.
        others: likewise with the patches that are not marked replaced.
    """

    score: float
    start: float
    deletion: np.ndarray
    insertion: np.ndarray
    random_deletion: np.ndarray
    random_insertion: np.ndarray
    marked: float
    effects: dict
    others: dict

    def areas(self):
        """Areas under deletion, insertion, and both in random order, over the share: in [0, 1]."""
        curves = self.deletion, self.insertion, self.random_deletion, self.random_insertion
        return [float(np.trapezoid(curve, SHARES)) for curve in curves]

    @property
    def agrees(self):
        """Whether the effect follows the attribution.

        Without the influential patches, at level zero, at least half of the score is gone, and
        more than twice as much as without all others; deletion lowers the score no later, insertion
        raises it no later than in random order.
        """
        deletion, insertion, random_deletion, random_insertion = self.areas()
        effect, other = self.effects["zero"], self.others["zero"]
        return bool(
            effect >= 0.5 * self.score
            and effect > 2 * abs(other)
            and deletion <= random_deletion
            and insertion >= random_insertion
        )


def intervene(scores, clip, start, attribution, index=0, seed=0):
    """The `Intervention` for one target; about 45 forward passes.

    Args:
        scores: `utils.attribution.scores.TargetScores`.
        clip, start: (T, H, W) float32: ends of the path.
        attribution: (T, H, W) of the target.
        index: of the target in `scores`.
        seed: of the random order.
    """
    influence = np.abs(attribution).ravel()
    order = np.argsort(-influence, kind="stable")[: np.count_nonzero(influence)]
    summed = np.cumsum(influence[order])
    total = summed[-1] if len(summed) else 0.0
    counts = np.searchsorted(summed, SHARES * total * (1 - 1e-12)) + 1
    counts[0], counts[-1] = 0, len(order)
    counts = np.minimum(counts, len(order))
    shuffled = np.random.default_rng(seed).permutation(order)
    marks = marked_patches(attribution)
    inside = _spread(marks, clip.shape)
    changed = []
    for chosen in (order, shuffled):
        changed += [_replaced(clip, start, chosen[:count]) for count in counts]
        changed += [_replaced(start, clip, chosen[:count]) for count in counts]
    for fill in FILLINGS.values():
        filled = fill(clip)
        changed += [np.where(inside, filled, clip), np.where(inside, clip, filled)]
    device = next(iter(scores.detector.parameters()), torch.zeros(())).device
    clips = (torch.from_numpy(np.ascontiguousarray(each))[None].to(device) for each in changed)
    found = scores.measure(clips)[:, index] / len(scores.targets[index].pixels)
    steps = len(SHARES)
    curves = found[: 4 * steps].reshape(4, steps)
    pairs = found[0] - found[4 * steps :].reshape(-1, 2)
    return Intervention(
        float(found[0]),
        float(curves[1, 0]),
        *curves,
        float(marks.mean()),
        dict(zip(FILLINGS, pairs[:, 0].tolist(), strict=True)),
        dict(zip(FILLINGS, pairs[:, 1].tolist(), strict=True)),
    )


def marked_patches(attribution):
    """(T, rows, columns) bool: patches of a frame whose normalised map sums to more than p^2 / 200.

    Those at the lower and right border may be smaller; p^2 is their area.
    """
    areas = _patch_sums(np.ones(attribution.shape, np.float32))
    return _patch_sums(normalised_map(attribution)) > MARKED * areas


def _replaced(frames, others, voxels):
    """Frames with the grey levels of others at these flat indices."""
    result = frames.ravel().copy()
    result[voxels] = others.ravel()[voxels]
    return result.reshape(frames.shape)


def _patch_sums(frames):
    rows, columns = (np.arange(0, size, PATCH) for size in frames.shape[1:])
    return np.add.reduceat(np.add.reduceat(frames, rows, axis=1), columns, axis=2)


def _spread(patches, shape):
    """A value for each patch as (T, H, W): the same in all its pixels."""
    return patches.repeat(PATCH, axis=1).repeat(PATCH, axis=2)[:, : shape[1], : shape[2]]
