"""Modulated deformable convolution (DCNv2: Zhu et al., CVPR 2019) in plain torch."""

import torch
from torch import nn
from torch.nn import functional

SIDE = 3  # of the kernel
TAPS = SIDE * SIDE


class DeformableConv2d(nn.Conv2d):
    """3x3 convolution whose taps are moved and weighed by a second input, padded by 1.

    For output pixel p and tap k at (row, column) r_k in {-1, 0, 1}^2,

        y(p) = b + sum_k w_k m_k(p) x(p + r_k + d_k(p)),

    with x sampled bilinearly, zero outside. The shifts d and the weights m = sigmoid(.) come from a
    3x3 convolution of the query, zero at first; each of `groups_of_shifts` equal groups of input
    channels has its own. Attribute names are those of the released code's checkpoints.

    Args:
        channels: of both inputs and the output.
        groups_of_shifts: they divide the channels in order.

    Shapes: features and query (B, C, H, W); returns the same.
    """

    def __init__(self, channels, groups_of_shifts):
        super().__init__(channels, channels, SIDE, padding=SIDE // 2)
        self.groups_of_shifts = groups_of_shifts
        self.conv_offset = nn.Conv2d(channels, 3 * groups_of_shifts * TAPS, 3, padding=1)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, features, query):
        batch, channels, height, width = features.shape
        # Channels: (group, tap, [row, column]) of the shifts, then (group, tap) of the weights.
        shifts, weights = self.conv_offset(query).split(
            [2 * self.groups_of_shifts * TAPS, self.groups_of_shifts * TAPS], dim=1
        )
        shifts = shifts.reshape(batch * self.groups_of_shifts, TAPS, 2, height, width)
        grouped = features.reshape(batch * self.groups_of_shifts, -1, height, width)
        samples = sample(grouped, tap_positions(height, width, features) + shifts)
        weights = torch.sigmoid(weights).view(batch, self.groups_of_shifts, 1, TAPS, height, width)
        samples = samples.view(batch, self.groups_of_shifts, -1, TAPS, height, width) * weights
        samples = samples.view(batch, channels * TAPS, height, width)
        return functional.conv2d(samples, self.weight.view(-1, channels * TAPS, 1, 1), self.bias)


def tap_positions(height, width, like):
    """(9, 2, H, W): row and column of the pixel below each tap of a 3x3 kernel, per output pixel.

    `like` gives type and device.
    """

    def count(stop, start=0):
        return torch.arange(start, stop, dtype=like.dtype, device=like.device)

    taps = torch.cartesian_prod(count(2, -1), count(2, -1))
    pixels = torch.stack(torch.meshgrid(count(height), count(width), indexing="ij"))
    return taps[:, :, None, None] + pixels


def sample(maps, positions):
    """Bilinear samples of maps; what lies outside is zero.

    Args:
        maps: (N, C, H, W).
        positions: (N, K, 2, H, W), row and column in pixels.

    Returns:
        (N, C, K, H, W).
    """
    height, width = maps.shape[-2:]
    row, column = positions.unbind(2)
    # grid_sample takes (x, y), -1 and 1 being the outer edges of the first and last pixel.
    grid = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], dim=-1)
    samples = functional.grid_sample(
        maps, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return samples.view(*maps.shape[:2], -1, height, width)
