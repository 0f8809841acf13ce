"""The residual U-Net that DTUM (Li et al., TNNLS 2023) and RFR build on."""

import torch
from torch import nn

HALVINGS = 3  # of height and width


def conv3x3(channels_in, channels_out, stride=1):
    """3x3 convolution with bias, padded by 1."""
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)


class ResidualBlock(nn.Module):
    """ReLU(BN(conv(ReLU(BN(conv(x))))) + skip): 3x3 convolutions, (B, C_in, H, W) to C_out.

    The skip is the input itself, or its 1x1 convolution and BN where the channels change. Attribute
    names are those of the released checkpoints.
    """

    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels_out)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut = None
        if channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x):
        skip = x if self.shortcut is None else self.shortcut(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + skip)


def residual_blocks(channels_in, channels_out, count):
    """`count` residual blocks in a row; the first changes the channels."""
    widths = [channels_in] + [channels_out] * count
    return nn.Sequential(*(ResidualBlock(*pair) for pair in zip(widths, widths[1:], strict=False)))


class ResidualUNet(nn.Module):
    """Four levels of residual blocks: (B, C_in, H, W) to (B, C_out, H, W), no final activation.

    Down: 2x2 max-pooling, two blocks a level (one at full size). Up: bilinear, corners aligned,
    then one block on [encoder's map, upsampled map]. Attribute names are those of the released
    checkpoints: the second number counts the ups.

    Args:
        channels_in, channels_out: C_in, C_out.
        widths: channels at full, half, quarter and eighth size.

    Raises:
        ValueError: height or width is no multiple of 8.
    """

    def __init__(self, channels_in, widths, channels_out):
        super().__init__()
        full, half, quarter, eighth = widths
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv0_0 = residual_blocks(channels_in, full, 1)
        self.conv1_0 = residual_blocks(full, half, 2)
        self.conv2_0 = residual_blocks(half, quarter, 2)
        self.conv3_0 = residual_blocks(quarter, eighth, 2)
        self.conv2_1 = residual_blocks(quarter + eighth, quarter, 1)
        self.conv1_2 = residual_blocks(half + quarter, half, 1)
        self.conv0_3 = residual_blocks(full + half, full, 1)
        self.final = nn.Conv2d(full, channels_out, 1)

    def forward(self, x):
        check_sides(x, 2**HALVINGS)
        x0 = self.conv0_0(x)
        x1 = self.conv1_0(self.pool(x0))
        x2 = self.conv2_0(self.pool(x1))
        x3 = self.conv3_0(self.pool(x2))
        x2 = self.conv2_1(torch.cat([x2, self.up(x3)], 1))
        x1 = self.conv1_2(torch.cat([x1, self.up(x2)], 1))
        x0 = self.conv0_3(torch.cat([x0, self.up(x1)], 1))
        return self.final(x0)


def check_sides(maps, multiple):
    """Refuses maps (..., H, W) whose height or width is no multiple of `multiple`."""
    height, width = maps.shape[-2:]
    if height % multiple or width % multiple:
        raise ValueError(
            f"frames of {height}x{width}: this network expects height and width in multiples of "
            f"{multiple}; pad them with zeros, below and at the right"
        )
