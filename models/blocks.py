"""Residual blocks and the small stacks that both detectors are made of."""

import torch
from torch import nn

from models.difference_conv import SpatialDifferenceConv3d, TemporalDifferenceConv3d, kernel_to_fold


@torch.no_grad()
def batchnorm_affine(norm):
    """(scale, shift), (C,) float64: a BatchNorm in evaluation is y = scale x + shift.

    scale = gamma / sqrt(variance + eps) and shift = beta - scale mean are rounded as batch_norm
    rounds them on a CPU, to float32 at least: that is part of the network as trained.
    """
    dtype = torch.promote_types(norm.weight.dtype, torch.float32)
    scale = norm.weight.to(dtype) * torch.rsqrt(norm.running_var.to(dtype) + norm.eps)
    # Rounded once, as a fused multiply-add.
    shift = norm.bias.double() - scale.double() * norm.running_mean.double()
    return scale.double(), shift.to(dtype).double()


def fold_batchnorm(conv, norm):
    """One plain `Conv3d` that does what `conv` and then `norm`, in evaluation, do.

    The scale of the norm goes into the kernel's output channels.
    """
    scale, shift = batchnorm_affine(norm)
    bias = shift + scale * conv.bias.double()
    kernel = kernel_to_fold(conv) * scale.view(-1, 1, 1, 1, 1)
    return plain_conv(conv, kernel, bias)


def plain_conv(conv, kernel, bias):
    """A `Conv3d` with the geometry and device of `conv` and the given numbers, in their type."""
    folded = nn.utils.skip_init(
        nn.Conv3d,
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        padding=conv.padding,
        dilation=conv.dilation,
        device=kernel.device,
        dtype=kernel.dtype,
    )
    with torch.no_grad():
        folded.weight.copy_(kernel)
        folded.bias.copy_(bias)
    return folded.requires_grad_(False)


class ConvBNReLU(nn.Sequential):
    """A convolution, BatchNorm over its output channels, ReLU."""

    def __init__(self, conv):
        super().__init__(conv, nn.BatchNorm3d(conv.out_channels), nn.ReLU(inplace=True))

    def folded(self):
        """The same in evaluation: a plain convolution and ReLU."""
        return nn.Sequential(fold_batchnorm(self[0], self[1]), nn.ReLU(inplace=True))


class ChannelAffine(nn.Module):
    """y = scale x + shift, numbers (C,) of their own for each channel of (B, C, T, H, W)."""

    def __init__(self, scale, shift):
        super().__init__()
        self.register_buffer("scale", scale.view(-1, 1, 1, 1))
        self.register_buffer("shift", shift.view(-1, 1, 1, 1))

    def forward(self, x):
        return self.scale * x + self.shift


class Stem(ConvBNReLU):
    """A `ConvBNReLU` whose rounding in float32 shows in the scores.

    The spatial-difference stem subtracts sums of nearly equal numbers, and all layers after it
    amplify what rounding leaves. So its kernel is not scaled when it is folded.
    """

    def folded(self):
        """The same in evaluation: a plain convolution, scale and shift, ReLU."""
        conv, norm, _ = self
        scale, shift = batchnorm_affine(norm)
        plain = plain_conv(conv, kernel_to_fold(conv), conv.bias.double())
        return nn.Sequential(plain, ChannelAffine(scale, shift), nn.ReLU(inplace=True))


def projection(in_channels, out_channels):
    """1x1x1 convolution, BatchNorm, ReLU: mixes channels, leaves time and space alone."""
    return ConvBNReLU(nn.Conv3d(in_channels, out_channels, kernel_size=1))


class ResBlock(nn.Module):
    """Two convolutions and a projection beside a projected shortcut; added, then ReLU.

    conv1 - BN - ReLU - conv2 - BN - ReLU - 1x1x1 - BN, plus 1x1x1 - BN of the input. The shortcut
    is projected even where the channel counts agree. (B, C_in, T, H, W) to (B, C_out, T, H, W).
    """

    def __init__(self, conv1, conv2):
        super().__init__()
        channels = conv1.out_channels
        self.conv1 = conv1
        self.bn1 = nn.BatchNorm3d(channels)
        self.conv2 = conv2
        self.bn2 = nn.BatchNorm3d(channels)
        self.conv3 = nn.Conv3d(channels, channels, kernel_size=1)
        self.bn3 = nn.BatchNorm3d(channels)
        self.shortcut = nn.Sequential(
            nn.Conv3d(conv1.in_channels, channels, kernel_size=1), nn.BatchNorm3d(channels)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.shortcut(x))

    def folded(self):
        """The same in evaluation, a `FoldedResBlock`."""
        return FoldedResBlock(
            fold_batchnorm(self.conv1, self.bn1),
            fold_batchnorm(self.conv2, self.bn2),
            fold_batchnorm(self.conv3, self.bn3),
            fold_batchnorm(self.shortcut[0], self.shortcut[1]),
        )


class FoldedResBlock(nn.Module):
    """`ResBlock` in evaluation: four plain convolutions, the shortcut's bias inside conv3's."""

    def __init__(self, conv1, conv2, conv3, shortcut):
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.shortcut = conv1, conv2, conv3, shortcut
        with torch.no_grad():
            conv3.bias += shortcut.bias
        shortcut.bias = None

    def forward(self, x):
        y = self.conv2(self.conv1(x).relu()).relu()
        return (self.conv3(y) + self.shortcut(x)).relu()


class TDResBlock(ResBlock):
    """Temporal-difference residual block: (3,1,1) kernels, every pixel on its own."""

    def __init__(self, in_channels, out_channels):
        super().__init__(
            TemporalDifferenceConv3d(
                in_channels, out_channels, (3, 1, 1), padding=(2, 0, 0), dilation=(2, 1, 1)
            ),
            nn.Conv3d(out_channels, out_channels, (3, 1, 1), padding=(1, 0, 0)),
        )


class STDResBlock(ResBlock):
    """Spatio-temporal-difference residual block: temporal, then spatial differences, (3,3,3)."""

    def __init__(self, in_channels, out_channels):
        super().__init__(
            TemporalDifferenceConv3d(
                in_channels, out_channels, (3, 3, 3), padding=(2, 1, 1), dilation=(2, 1, 1)
            ),
            SpatialDifferenceConv3d(
                out_channels, out_channels, (3, 3, 3), padding=(1, 2, 2), dilation=(1, 2, 2)
            ),
        )
