"""What wraps a loss: its share in one of several processes; departures, off by default."""

import torch
from torch import nn

SURE_BACKGROUND = -100.0  # a logit without gradient
ABSENT_TARGET = 9  # pixels in a frame, of the target that stands for none


class OfSeveral(nn.Module):
    """A loss that sums over clips, times the number of processes whose gradients are averaged.

    Args:
        loss: callable(logits, mask).
        processes: as above.
    """

    def __init__(self, loss, processes):
        super().__init__()
        self.loss, self.processes = loss, processes

    def forward(self, logits, mask):
        return self.processes * self.loss(logits, mask)


class WithoutPadding(nn.Module):
    """A loss of the real pixels alone: padded ones are sure background, without gradient.

    Args:
        loss: callable(logits, mask); if it is `averaged` over all pixels, it becomes the average
            over the real ones.
    """

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, logits, mask, valid=None):
        """All (B, n, H, W); `valid` is 0 where the clip is padding; None: nowhere."""
        if valid is None:
            return self.loss(logits, mask)
        value = self.loss(logits.masked_fill(valid == 0, SURE_BACKGROUND), mask)
        if getattr(self.loss, "averaged", False):
            value = value * (valid.numel() / valid.count_nonzero().clamp_min(1))
        return value


class WithEmptyClips(nn.Module):
    """A loss plus `weight` times S / (S + K), averaged over the clips, for those without target.

    S is the sum of a clip's scores, K is 9 pixels for each of its frames. Soft IoU is 1 on such
    clips, whatever the scores: it has no gradient there. This term is the loss of a clip in which
    a target of 3 x 3 pixels were found in every frame, so an alarm costs about what it costs beside
    a target. (The mean score, which one might take instead, has a gradient a thousand times
    smaller than soft IoU's at 128 x 128 pixels.)

    Args:
        loss: callable(logits, mask), or `WithoutPadding`.
        weight: of the term.
    """

    def __init__(self, loss, weight):
        super().__init__()
        self.loss, self.weight = loss, weight

    def forward(self, logits, mask, valid=None):
        """As in `WithoutPadding`, which `valid` needs: padding counts in neither part."""
        scores = torch.sigmoid(logits.float())
        if valid is None:
            value, frames = self.loss(logits, mask), logits.shape[1]
        else:
            value, scores = self.loss(logits, mask, valid), scores * valid
            frames = valid.flatten(2).any(2).sum(1).clamp_min(1)
        total = scores.flatten(1).sum(1)
        share = total / (total + ABSENT_TARGET * frames)
        empty = (mask.flatten(1) == 0).all(1)
        return value + self.weight * (share * empty).mean()
