"""Losses that treat every pixel alike."""

from torch import nn
from torch.nn import functional


class BCELoss(nn.Module):
    """Binary cross-entropy with logits, mean over all pixels, in float32.

    Shapes: logits (B, T, H, W), mask the same with values in {0, 1}; returns a scalar.
    """

    averaged = True  # over all pixels of a batch

    def forward(self, logits, mask):
        logits = logits.float()
        return functional.binary_cross_entropy_with_logits(logits, mask.to(logits.dtype))
