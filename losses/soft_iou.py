"""Soft intersection over union."""

import torch
from torch import nn

SMALLEST_UNION = torch.finfo(torch.float32).tiny


class SoftIoULoss(nn.Module):
    """1 - soft IoU of each clip, averaged over the batch; no smoothing.

    Per clip, over time and space: intersection = sum(sigmoid(logits) * mask), union =
    sum(sigmoid(logits)) + sum(mask) - intersection. A clip without target has loss 1 and no
    gradient, also where all scores underflow to 0 and the quotient would be 0/0. Computed in
    float32 whatever the logits are: in half precision the sums overflow.

    Shapes: logits (B, T, H, W), mask the same with values in {0, 1}; returns a scalar.
    """

    def forward(self, logits, mask):
        scores = torch.sigmoid(logits.float())
        mask = mask.to(scores.dtype)
        intersection = (scores * mask).flatten(1).sum(1)
        union = scores.flatten(1).sum(1) + mask.flatten(1).sum(1) - intersection
        return 1 - (intersection / union.clamp_min(SMALLEST_UNION)).mean()


class SmoothedSoftIoULoss(nn.Module):
    """1 - (I + 1) / (P + M - I + 1), from sums over several clips at once.

    P = sum(sigmoid(logits)), M = sum(mask), I = sum(sigmoid(logits) * mask). The 1s keep the
    quotient away from 0 / 0, and where there is no target the loss still falls with P. Over the
    whole batch this is DTUM's loss (Li et al., TNNLS 2023); over one frame of all its clips, and
    averaged over the frames, that of RFR. Computed in float32.

    Args:
        summed_over: axes of (B, T, H, W) that the sums run over; their losses are averaged over
            the others.

    Shapes: logits (B, T, H, W), mask the same with values in {0, 1}; returns a scalar.
    """

    def __init__(self, summed_over):
        super().__init__()
        self.summed_over = summed_over

    def forward(self, logits, mask):
        scores = torch.sigmoid(logits.float())
        mask = mask.to(scores.dtype)
        intersection = (scores * mask).sum(self.summed_over)
        union = scores.sum(self.summed_over) + mask.sum(self.summed_over) - intersection
        return 1 - ((intersection + 1) / (union + 1)).mean()
