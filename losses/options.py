"""Departures from the published losses, off by default."""

import torch
from torch import nn


def exclude_padding(logits, valid):
    """Logits whose padded pixels count as sure background: no loss there, and no gradient.

    Args:
        logits: (B, T, H, W).
        valid: the same shape, 0 where the clip is padding.
    """
    return logits.masked_fill(valid == 0, -100.0)


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

    def forward(self, logits, mask):
        scores = torch.sigmoid(logits.float()).flatten(1).mean(1)
        empty = (mask.flatten(1) == 0).all(1)
        return self.loss(logits, mask) + self.weight * (scores * empty).mean()
