"""HAM and HPM: focal losses on hard positions, mined along time (Li et al., DTUM, TNNLS 2023)."""

import torch
from torch import nn
from torch.nn import functional

HARD_RANKS = range(20, 150)  # the hardest 20 are left out
HARD_CHOSEN = 10
RANDOM_CHOSEN = 29
TARGET_WEIGHT = 0.8333
BACKGROUND_WEIGHT = 0.1667


def dilate(mask):
    """Dilates a mask (..., H, W) with values in {0, 1} by 5 x 5 pixels in space."""
    flat = mask.flatten(0, -3).unsqueeze(1)
    return functional.max_pool2d(flat, 5, stride=1, padding=2).view_as(mask)


def mine_positions(bce, protected, generator=None):
    """Draws the positions of one clip whose background pixels enter the loss.

    The cross-entropy outside the protected pixels is summed over time and the positions are ranked,
    largest first; `HARD_CHOSEN` are drawn among ranks `HARD_RANKS` and `RANDOM_CHOSEN` among all.
    On images with fewer positions than these ranks, the ranks that exist are used.

    Args:
        bce: (T, H, W), cross-entropy of each pixel.
        protected: (T, H, W) in {0, 1}.
        generator: source of randomness; torch's default if None.

    Returns:
        (H, W) in {0, 1}.
    """
    difficulty = (bce * (1 - protected)).sum(0).flatten()
    count = difficulty.numel()
    ranking = difficulty.argsort(descending=True)
    hard = ranking[HARD_RANKS.start : HARD_RANKS.stop]
    # Drawn on the CPU, so that a seed gives the same positions on every device.
    hard = hard[torch.randperm(len(hard), generator=generator)[:HARD_CHOSEN].to(hard.device)]
    anywhere = torch.randperm(count, generator=generator)[:RANDOM_CHOSEN].to(hard.device)
    chosen = torch.zeros_like(difficulty)
    chosen[hard] = 1
    chosen[anywhere] = 1
    return chosen.view(bce.shape[1:])


class HardMiningLoss(nn.Module):
    """Focal loss summed over the target pixels and mined background positions.

    Per pixel -a1 (1-p)^2 y log p - a0 p^2 (1-y) log(1-p) with a1 = 0.8333, a0 = 0.1667 and p the
    score; (1-p)^2 and p^2 are constants for the gradient. It is multiplied by a 0/1 map, per clip:
    the mined positions (the same in every frame) outside the 5 x 5 dilated mask, or the mask.

    Args:
        dilate_weight: dilate that map by 5 x 5 (HAM); HPM does not.
        generator: source of the random positions; torch's default if None.

    Shapes: logits (B, T, H, W), mask the same with values in {0, 1}; returns a scalar.
    """

    summed = True  # over the clips of a batch, where the other losses take their mean

    def __init__(self, dilate_weight, generator=None):
        super().__init__()
        self.dilate_weight = dilate_weight
        self.generator = generator

    @torch.no_grad()
    def weight_map(self, logits, mask):
        """(B, T, H, W) in {0, 1}: the pixels that count."""
        bce = functional.binary_cross_entropy_with_logits(logits, mask, reduction="none")
        protected = dilate(mask)
        mined = torch.stack(
            [
                mine_positions(clip, shield, self.generator)
                for clip, shield in zip(bce, protected, strict=True)
            ]
        )
        weight = torch.maximum(mined.unsqueeze(1) * (1 - protected), mask)
        return dilate(weight) if self.dilate_weight else weight

    def forward(self, logits, mask):
        logits = logits.float()
        mask = mask.to(logits.dtype)
        scores = torch.sigmoid(logits).detach()
        target = TARGET_WEIGHT * (1 - scores) ** 2 * mask * functional.logsigmoid(logits)
        background = BACKGROUND_WEIGHT * scores**2 * (1 - mask) * functional.logsigmoid(-logits)
        return -((target + background) * self.weight_map(logits, mask)).sum()
