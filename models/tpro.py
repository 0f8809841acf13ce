"""TPro, the temporal probe."""

import math

import torch
from torch import nn

from models.blocks import projection
from models.folding import scale_and_shift


def probed_frames(weights):
    """T of a network with these weights, a state dict, from its T x T matrices; None without."""
    matrices = (value for key, value in weights.items() if key.endswith("QK_heads.0.weight"))
    return next((len(matrix) for matrix in matrices if matrix.dim() == 2), None)


class TPro(nn.Module):
    """The temporal probe: learned correlation of every temporal profile with itself in time.

    The heads (`ProbeHeads`) hold T x T matrices, the paper's learnable signal correlation, which
    act on every temporal profile. They do not depend on the input: this is not attention. Then
    BN, ReLU, 1x1x1, BN, ReLU.

    Args:
        channels: d, divisible by `heads`.
        heads: m.
        seqlen: T, the number of frames of a clip.

    Shapes: (B, d, T, H, W) to the same.
    """

    def __init__(self, channels, heads, seqlen):
        super().__init__()
        if channels % heads:
            raise ValueError(f"TPro: {channels} channels do not split into {heads} heads")
        # The name is that of the released checkpoints.
        self.QK_heads = ProbeHeads(nn.Linear(seqlen, seqlen) for _ in range(heads))
        self.norm1 = nn.BatchNorm3d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = projection(channels, channels)

    def forward(self, x):
        x = self.relu(self.norm1(self.QK_heads(x)))
        return self.conv(x)

    def fold_norms(self):
        """Leaves `ChannelHeads`; the convolution folds its own norm."""
        heads, channels = self.QK_heads, self.norm1.num_features
        weight, bias = (
            torch.stack(parts).double().repeat_interleave(channels // len(heads), 0)
            for parts in zip(*((head.weight, head.bias) for head in heads), strict=True)
        )  # (d, T, T) and (d, T)
        scale, shift = scale_and_shift(self.norm1)
        correlation = weight * scale[:, None, None] / math.sqrt(weight.shape[-1])
        self.QK_heads = ChannelHeads(correlation, bias * scale[:, None] + shift[:, None])
        self.norm1 = nn.Identity()


class ProbeHeads(nn.ModuleList):
    """m heads, each a `Linear(T -> T)` along time for a group of d/m channels, in order.

    The input is divided by sqrt(T). (B, d, T, H, W) to the same.
    """

    def forward(self, x):
        profiles = x.movedim(2, -1) / math.sqrt(x.shape[2])  # (B, d, H, W, T)
        groups = profiles.chunk(len(self), dim=1)
        correlated = [head(group) for head, group in zip(self, groups, strict=True)]
        return torch.cat(correlated, dim=1).movedim(-1, 2)


class ChannelHeads(nn.Module):
    """`ProbeHeads` in evaluation: a T x T matrix for each channel.

    Args:
        correlation: (d, T, T), for every channel its head's matrix, divided by sqrt(T) and scaled
            by the BatchNorm after it.
        bias: (d, T).
    """

    def __init__(self, correlation, bias):
        super().__init__()
        self.register_buffer("correlation", correlation)
        self.register_buffer("bias", bias)

    def forward(self, x):
        correlated = torch.matmul(self.correlation, x.flatten(3)) + self.bias[..., None]
        return correlated.reshape(x.shape)
