"""Departures from the published losses, off by default."""

import torch
from torch import nn


def without_padding(loss, logits, mask, valid):
    """A loss of the real pixels alone: padded ones are sure background, without gradient.

    Args:
        loss: callable(logits, mask); if it is `averaged` over all pixels, it becomes the average
            over the real ones.
        logits, mask: (B, T, H, W).
        valid: the same shape, 0 where the clip is padding.
    """
    if isinstance(loss, WithEmptyClips):
        return loss(logits, mask, valid)
    value = loss(logits.masked_fill(valid == 0, -100.0), mask)
    if getattr(loss, "averaged", False):
        value = value * (valid.numel() / valid.count_nonzero())
    return value


class WithEmptyClips(nn.Module):
    """A loss plus `weight` times the mean score of the clips without target.

    Soft IoU is 1 on such clips, whatever the scores: it has no gradient there.

    Args:
        loss: callable(logits, mask).
        weight: of the term.
    """

    def __init__(self, loss, weight):
        super().__init__()
        self.loss, self.weight = loss, weight

    @property
    def summed(self):
        return getattr(self.loss, "summed", False)

    def forward(self, logits, mask, valid=None):
        """`valid` as in `without_padding`: padding counts in neither part."""
        scores = torch.sigmoid(logits.float()).flatten(1)
        if valid is None:
            value, means = self.loss(logits, mask), scores.mean(1)
        else:
            value, real = without_padding(self.loss, logits, mask, valid), valid.flatten(1)
            means = (scores * real).sum(1) / real.sum(1)
        empty = (mask.flatten(1) == 0).all(1)
        return value + self.weight * (means * empty).mean()
