"""What a map of integrated gradients shows: the paper's pictures and its two phenomena."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

DRAWN = 0.1  # of the normalised map: voxels above it are drawn (paper)
CYLINDER = 3  # pixels around a target, Chebyshev, that count as the cylinder along its profile


def normalised_map(attribution):
    """The published form for pictures: sqrt(|A|), divided by its maximum; all zero where A is."""
    root = np.sqrt(np.abs(attribution))
    peak = root.max(initial=0)
    return root / peak if peak > 0 else root


@dataclass(frozen=True)
class Shares:
    """Which parts of the influence, the sum of |A|, lie where. Each is in [0, 1].

    Attributes:
        before, at, after: on the target's own profile, that is its pixels in all frames: in the
            frames before its own, in its own, after it.
        near: within 3 pixels of these, in all frames, the profile included.
        drawn_near: of the voxels above 0.1 of the normalised map, those near the profile.
    """

    before: float
    at: float
    after: float
    near: float
    drawn_near: float

    @property
    def profile(self):
        return self.before + self.at + self.after


def share_influence(attribution, target):
    """`Shares` of an attribution (T, H, W); the target's frame and pixels count in it."""
    influence = np.abs(attribution)
    total = max(influence.sum(), 1e-300)
    rows, columns = target.pixels.T
    profile = influence[:, rows, columns].sum(axis=1) / total
    near = near_mask(target.pixels, attribution.shape[1:])
    drawn = normalised_map(attribution) > DRAWN
    frame = target.frame
    return Shares(
        float(profile[:frame].sum()),
        float(profile[frame]),
        float(profile[frame + 1 :].sum()),
        float(influence[:, near].sum() / total),
        float(drawn[:, near].sum() / max(drawn.sum(), 1)),
    )


def near_mask(pixels, shape):
    """(H, W) bool: within `CYLINDER` pixels of one of the pixels."""
    own = np.zeros(shape, bool)
    own[tuple(pixels.T)] = True
    return ndimage.maximum_filter(own, 2 * CYLINDER + 1)


def frame_influence(attribution):
    """(T,) influence of each frame: the largest value of the normalised map in it."""
    return normalised_map(attribution).max(axis=(1, 2))


class Influence:
    """The paper's second phenomenon: how much each reference frame counts for the attributed one.

    Attributes:
        sums: (T, T) float64: for the attributed frame t of a clip and the reference frame r, the
            sum over attributions of `frame_influence`.
        shares: (T, T) likewise of the share of sum |A| that lies in frame r.
        counts: (T, T) integer, how many attributions they are of: frames that pad a short clip do
            not count.
    """

    def __init__(self, seqlen):
        self.sums, self.shares = (np.zeros((seqlen, seqlen)) for _ in range(2))
        self.counts = np.zeros((seqlen, seqlen), int)

    def add(self, attribution, frame, real=slice(None)):
        """Adds an attribution (T, H, W) of a frame; `real` frames are not padding."""
        total = max(np.abs(attribution).sum(), 1e-300)
        self.sums[frame, real] += frame_influence(attribution)[real]
        self.shares[frame, real] += np.abs(attribution).sum(axis=(1, 2))[real] / total
        self.counts[frame, real] += 1

    def __add__(self, other):
        total = Influence(len(self.counts))
        for name in ("sums", "shares", "counts"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def curve(self):
        """Averages over all attributed frames of what lies at the same distance from them.

        Returns:
            offsets: (n,) reference frame less attributed frame, those that occur.
            influence, share: (n,) means.
            counts: (n,) attributions that each is of.
        """
        seqlen = len(self.counts)
        offsets = np.arange(1 - seqlen, seqlen)
        sums, shares, counts = (
            np.array([np.trace(table, offset) for offset in offsets])
            for table in (self.sums, self.shares, self.counts)
        )
        seen = counts > 0
        offsets, sums, shares, counts = (each[seen] for each in (offsets, sums, shares, counts))
        return offsets, sums / counts, shares / counts, counts
