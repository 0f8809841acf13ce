"""The first convolution of a clip whose frames are brought to about zero first.

A spatial-difference kernel subtracts sums of nearly equal numbers, and the later layers amplify
what rounding leaves. With each frame's mean subtracted, beyond the image too, these are small.
"""

import torch
from torch.nn import functional


def centring(conv, clip):
    """What makes the convolution of a clip (T, H, W) from that of the clip less its means.

    Args:
        conv: of one channel, with an odd number of times.

    Returns:
        (T,) float32 the means, for what is beyond the image also; (T, C) float32 what to add to
        the convolution of the difference, the bias included.
    """
    # In float64 a sum of large numbers stays one. On a CPU frames are copied for that: one by one.
    parts = [clip] if clip.is_cuda else clip.split(1)
    means = torch.cat([part.mean((1, 2), dtype=torch.float64) for part in parts])
    means = means.float()  # what is subtracted
    sums = conv.weight.double().sum((3, 4)).to(means.device)  # (C, 1, K): of a frame's taps
    of_means = functional.conv1d(means.double()[None], sums, padding=conv.padding[0])
    biases = of_means.T + conv.bias.double().to(means.device)
    return means, biases.float().contiguous()
