"""TPro, the temporal probe."""

import math

import torch
from torch import nn

from models.blocks import batchnorm_affine, projection


class FoldedTPro(nn.Module):
    """`TPro` in evaluation: a T x T matrix per channel, ReLU, a plain 1x1x1 convolution, ReLU.

    Args:
        matrix: (d, T, T), for every channel its head's signal-correlation matrix, divided by
            sqrt(T) and scaled by BatchNorm.
        bias: (d, T).
        conv: the folded 1x1x1 convolution with its ReLU.
    """

    def __init__(self, matrix, bias, conv):
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.register_buffer("bias", bias)
        self.conv = conv

    def forward(self, x):
        batch, channels, frames, height, width = x.shape
        profiles = x.reshape(batch, channels, frames, height * width)
        probed = torch.matmul(self.matrix, profiles) + self.bias[..., None]
        return self.conv(probed.relu().reshape(batch, channels, frames, height, width))


def probed_frames(weights):
    """T of a network with these weights, a state dict, from its T x T matrices; None without."""
    matrices = (value for key, value in weights.items() if key.endswith("QK_heads.0.weight"))
    return next((len(matrix) for matrix in matrices if matrix.dim() == 2), None)


class TPro(nn.Module):
    """The temporal probe: learned correlation of every temporal profile with itself in time.

    The input is divided by sqrt(T) and its channels are split, in order, into groups, one a head.
    Each head holds one `Linear(T -> T)`, whose T x T weight is the paper's learnable
    signal-correlation matrix, and applies it along time at every pixel. It does not depend on the
    input: this is not attention. The heads' outputs are concatenated; BN, ReLU, 1x1x1, BN, ReLU.

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
        self.seqlen = seqlen
        # The name is that of the released checkpoints.
        self.QK_heads = nn.ModuleList(nn.Linear(seqlen, seqlen) for _ in range(heads))
        self.norm1 = nn.BatchNorm3d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = projection(channels, channels)

    def forward(self, x):
        profiles = x.movedim(2, -1) / math.sqrt(self.seqlen)  # (B, d, H, W, T)
        groups = profiles.chunk(len(self.QK_heads), dim=1)
        probed = [head(group) for head, group in zip(self.QK_heads, groups, strict=True)]
        x = torch.cat(probed, dim=1).movedim(-1, 2)
        return self.conv(self.relu(self.norm1(x)))

    def folded(self):
        """The same in evaluation, a `FoldedTPro`: 1/sqrt(T) and norm1 go into the matrices."""
        norm, width = self.norm1, self.norm1.num_features // len(self.QK_heads)
        scale, shift = batchnorm_affine(norm)
        weights = torch.stack([head.weight for head in self.QK_heads]).double()  # (m, T, T)
        biases = torch.stack([head.bias for head in self.QK_heads]).double()  # (m, T)
        matrix = weights.repeat_interleave(width, 0) * scale[:, None, None]
        bias = biases.repeat_interleave(width, 0) * scale[:, None] + shift[:, None]
        matrix = matrix / math.sqrt(self.seqlen)
        return FoldedTPro(matrix.detach(), bias.detach(), self.conv.folded())
