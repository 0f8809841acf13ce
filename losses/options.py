"""Departures from the published losses, off by default. Each wraps a loss."""

import torch
from torch import nn

SURE_BACKGROUND = -100.0  # a logit without gradient


class WithoutPadding(nn.Module):
    """A loss of the real pixels alone: padded ones are sure background, without gradient.

    Args:
        loss: callable(logits, mask); if it is `averaged` over all pixels, it becomes the average
            over the real ones.
    """

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    @property
    def summed(self):
        return getattr(self.loss, "summed", False)

    def forward(self, logits, mask, valid=None):
        """All (B, n, H, W); `valid` is 0 where the clip is padding; None: nowhere."""
        if valid is None:
            return self.loss(logits, mask)
        value = self.loss(logits.masked_fill(valid == 0, SURE_BACKGROUND), mask)
        if getattr(self.loss, "averaged", False):
            value = value * (valid.numel() / valid.count_nonzero().clamp_min(1))
        return value


class WithEmptyClips(nn.Module):
    """A loss plus `weight` times the mean score of the clips without target.

    Soft IoU is 1 on such clips, whatever the scores: it has no gradient there.

    Args:
        loss: callable(logits, mask), or `WithoutPadding`.
        weight: of the term.
    """

    def __init__(self, loss, weight):
        super().__init__()
        self.loss, self.weight = loss, weight

    @property
    def summed(self):
        return getattr(self.loss, "summed", False)

    def forward(self, logits, mask, valid=None):
        """As in `WithoutPadding`, which `valid` needs: padding counts in neither part."""
        scores = torch.sigmoid(logits.float()).flatten(1)
        if valid is None:
            value, means = self.loss(logits, mask), scores.mean(1)
        else:
            value, real = self.loss(logits, mask, valid), valid.flatten(1)
            means = (scores * real).sum(1) / real.sum(1).clamp_min(1)
        empty = (mask.flatten(1) == 0).all(1)
        return value + self.weight * (means * empty).mean()
