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
