"""Residual blocks and the small stacks that the detectors are made of."""

from torch import nn

from models.difference_conv import SpatialDifferenceConv3d, TemporalDifferenceConv3d
from models.folding import fold_norm


class ConvBNReLU(nn.Sequential):
    """A convolution, BatchNorm over its output channels, ReLU."""

    def __init__(self, conv):
        super().__init__(conv, nn.BatchNorm3d(conv.out_channels), nn.ReLU(inplace=True))

    def forward(self, x):
        conv, norm, relu = self
        return relu(norm(conv(x)))

    def fold_norms(self):
        self[0], self[1] = fold_norm(self[0], self[1]), nn.Identity()


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
        y = self.bn3(self.conv3(y))
        return self.relu(y.add_(self.shortcut(x)))

    def fold_norms(self):
        """Leaves four plain convolutions, the shortcut's bias inside conv3's."""
        self.conv1, self.conv2, self.conv3, shortcut = (
            fold_norm(conv, norm)
            for conv, norm in (
                (self.conv1, self.bn1),
                (self.conv2, self.bn2),
                (self.conv3, self.bn3),
                self.shortcut,
            )
        )
        self.bn1, self.bn2, self.bn3 = nn.Identity(), nn.Identity(), nn.Identity()
        self.conv3.bias += shortcut.bias
        shortcut.bias = None
        self.shortcut = nn.Sequential(shortcut, nn.Identity())


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
