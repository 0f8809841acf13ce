"""What the detectors share: the check of a clip's shape and the form of their levels."""

from typing import NamedTuple

from torch import nn


class Level(NamedTuple):
    """One resolution of a detector: pools and residual blocks, temporal probe, projection."""

    layers: list
    probe: nn.Module
    projection: nn.Module


class Stages(NamedTuple):
    """A detector as data, for code that runs it otherwise than `detect` does.

    The clip goes through `trunk`; each of `levels` starts from the trunk's output; `merge` mixes
    the upsampled levels, concatenated in order (None where there is one level at full size);
    `final` makes the logits.
    """

    trunk: list
    levels: list
    merge: nn.Module | None
    final: nn.Module

    def shares(self):
        """For every level, (8 or 1, 8) float64, the matrix that follows it: see `ProbeHead`.

        The merge acts on the concatenated levels, so it is a sum of one matrix per level. Without a
        merge what follows the level is `final`.
        """
        following = self.final if self.merge is None else self.merge[0]
        return following.weight.flatten(1).double().chunk(len(self.levels), dim=1)


class Detector(nn.Module):
    """Base of the detectors: clip (B, 1, T, H, W) to logits (B, T, H, W).

    Subclasses write `detect`, from a checked clip to logits (B, 1, T, H, W), and `stages`, the
    same as `Stages`. T is built into the weights.

    Args:
        seqlen: T, the number of frames of a clip.

    Raises:
        ValueError: the clip is not (B, 1, T, H, W) with H and W at least `smallest_side`.
    """

    smallest_side = 1

    def __init__(self, seqlen):
        super().__init__()
        self.seqlen = seqlen

    def check_clip(self, clip):
        side = self.smallest_side
        expected = f"expected (batch, 1, {self.seqlen}, height, width)"
        if clip.dim() != 5:
            raise ValueError(f"clip of shape {tuple(clip.shape)}: {expected}, which is of rank 5")
        _, channels, frames, height, width = clip.shape
        if channels != 1:
            raise ValueError(f"clip of {channels} channels: {expected}, infrared has 1 channel")
        if frames != self.seqlen:
            raise ValueError(
                f"clip of {frames} frames: {expected}, this network was made for clips of "
                f"{self.seqlen} frames"
            )
        if min(height, width) < side:
            raise ValueError(f"frames of {height}x{width}: {expected} with sides of {side} or more")

    def forward(self, clip):
        self.check_clip(clip)
        return self.detect(clip).squeeze(1)


def upsample(x, size):
    """(B, C, T, h, w) to (B, C, T, *size): bilinear in space, corners aligned, time untouched."""
    return nn.functional.interpolate(
        x, size=(x.shape[2], *size), mode="trilinear", align_corners=True
    )
