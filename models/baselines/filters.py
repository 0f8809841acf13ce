"""Detectors without weights: the floor that a network must beat."""

import torch
from skimage.morphology import footprint_rectangle, white_tophat

from models.detector import Detector

TOP_HAT_SIDE = 7  # targets are mostly 1 to 3 pixels across; larger squares let in more clutter
SPREAD_OF_MAD = 1.4826  # standard deviation of a normal distribution with unit MAD
# Of the data's standard deviation: about half a grey level of NUDT-MIRSDT. What hardly ever
# changes, as in 8-bit footage, would otherwise make the smallest change a detection.
SMALLEST_SPREAD = 0.02
HALF_SCORE = 5.0
SMALLEST_DEVIATION = 0.01
STEEPNESS = 4


class TopHat(Detector):
    """White top-hat of each frame: what its opening by a 7x7 square takes away.

    Bright spots that the square does not fit into remain. The deviation z(p) of a pixel is its
    top-hat less the frame's mean of it, in units of its standard deviation over the frame plus
    0.02; `logits_of` gives the logits. No weights. See `Detector` for shapes; every frame is
    filtered by itself, on the CPU.
    """

    seqlen = 1
    recipe = None

    def detect(self, clip):
        square = footprint_rectangle((TOP_HAT_SIDE, TOP_HAT_SIDE), decomposition="separable")
        frames = clip.detach().float().flatten(0, 2)
        hats = [torch.from_numpy(white_tophat(each.numpy(), square)) for each in frames.cpu()]
        hats = torch.stack(hats).flatten(1)
        std, mean = torch.std_mean(hats, dim=1, correction=0, keepdim=True)
        deviation = (hats - mean) / (std + SMALLEST_SPREAD)
        return logits_of(deviation).view_as(clip).to(clip.device)


class TemporalZScore(Detector):
    """How far a pixel is above its own median over the clip.

    z(p, t) = x(p, t) - median_t x(p, t) in units of `robust_spread` over the clip's frames;
    `logits_of` gives the logits. Frames that are zero everywhere pad a short clip and take no part.
    No weights. See `Detector` for shapes.
    """

    recipe = None

    def detect(self, clip):
        clip = clip.detach().float()
        deviations = torch.zeros_like(clip)
        for frames, z in zip(clip[:, 0], deviations[:, 0], strict=True):
            real = frames.flatten(1).any(1)
            if real.any():
                deviation = frames - median(frames[real], 0)
                z.copy_(deviation / robust_spread(deviation[real], 0))
                z[~real] = 0
        return logits_of(deviations)


def median(x, dim):
    """The median, the mean of the middle two of an even number; keeps the dimension."""
    ordered, count = x.sort(dim).values, x.shape[dim]
    return (ordered.narrow(dim, (count - 1) // 2, 1) + ordered.narrow(dim, count // 2, 1)) / 2


def robust_spread(deviation, dim):
    """1.4826 times the median absolute deviation, plus 0.02; keeps the dimension."""
    return SPREAD_OF_MAD * median(deviation.abs(), dim) + SMALLEST_SPREAD


def logits_of(deviation):
    """4 ln(z / 5) for a deviation z: the score is z^4 / (z^4 + 5^4), z at least 0.01.

    So 5 spreads score 0.5, 2.9 score 0.1, 16 score 0.99: the usual thresholds cover the range in
    which a detector works, and large deviations do not all end at 1.
    """
    return STEEPNESS * torch.log(deviation.clamp_min(SMALLEST_DEVIATION) / HALF_SCORE)
