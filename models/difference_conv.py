"""Temporal- and spatial-difference convolutions.

Both are plain 3-D convolutions whose kernel is a linear function of the learned one. The functions
here map kernels to kernels; the two classes apply them in every forward pass, so that the learned
kernel is what is stored and trained.
"""

import torch
from torch import nn
from torch.nn import functional


def temporal_difference_kernel(weight):
    """Maps a kernel w to one that takes second differences along time.

    With K temporal taps, tap i of the result is

        k_i = 2 w_i - w_min(i+1, K-1) - w_max(i-1, 0),

    for K = 3: [w0 - w1, 2 w1 - w0 - w2, w2 - w1]. The taps sum to zero: a constant signal
    gives only the bias.

    Args:
        weight: (C_out, C_in, T, K, K).

    Returns:
        Kernel of the same shape, for a plain `conv3d`.
    """
    following = torch.cat([weight[:, :, 1:], weight[:, :, -1:]], dim=2)
    preceding = torch.cat([weight[:, :, :1], weight[:, :, :-1]], dim=2)
    return 2 * weight - following - preceding


def spatial_difference_kernel(weight):
    """Maps a kernel W to one that weighs differences from the centre pixel.

    Convolving with the result gives, at every temporal tap,

        y(p) = W_c x(p) + sum_{k != c} W_k (x(p) - x(p + k)),

    where c is the spatial centre of the kernel. A constant image gives W_c times it, not zero.

    Args:
        weight: (C_out, C_in, T, K, K), K odd.

    Returns:
        Kernel of the same shape, for a plain `conv3d`.
    """
    centre = weight.shape[-1] // 2
    is_centre = torch.zeros_like(weight, dtype=torch.bool)
    is_centre[..., centre, centre] = True
    total = weight.sum(dim=(-2, -1), keepdim=True)
    return torch.where(is_centre, total, -weight)


class DifferenceConv3d(nn.Conv3d):
    """A `Conv3d` that applies `difference_kernel(weight)`: (B, C, T, H, W) to the same.

    Subclasses name the map. `weight` is the learned kernel, initialised as torch initialises it.
    """

    difference_kernel = None

    def forward(self, x):
        return functional.conv3d(
            x,
            self.difference_kernel(self.weight),
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


class TemporalDifferenceConv3d(DifferenceConv3d):
    """Convolution with second differences along time, `temporal_difference_kernel`."""

    difference_kernel = staticmethod(temporal_difference_kernel)


class SpatialDifferenceConv3d(DifferenceConv3d):
    """Convolution with differences from the centre pixel, `spatial_difference_kernel`."""

    difference_kernel = staticmethod(spatial_difference_kernel)


def kernel_of(conv, dtype=None):
    """The plain kernel, (C_out, C_in, T, K, K), that a `Conv3d` of any kind applies.

    Args:
        dtype: in which it is computed; that of the weights by default.
    """
    weight = conv.weight.to(dtype or conv.weight.dtype)
    return conv.difference_kernel(weight) if isinstance(conv, DifferenceConv3d) else weight
