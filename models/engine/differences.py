"""Temporal-difference kernels, of three taps that sum to zero, as two taps on first differences.

With k0 + k1 + k2 = 0 and frames n apart,

    k0 x(t-n) + k1 x(t) + k2 x(t+n) = k2 d(t) - k0 d(t-n),    d(t) = x(t+n) - x(t),

which saves a third of the products.
"""

import torch


def difference_taps(kernel):
    """(C_out, C, 2, ...), the taps on differences in the order of time, of (C_out, C, 3, ...)."""
    return torch.stack([-kernel[:, :, 0], kernel[:, :, 2]], 2)


def write_differences(x, apart, out):
    """Writes d(t), t = -n ... T - 1, of frames (R, T, W, C) to `out` (R, T + n, W, C).

    Args:
        apart: n. Frames beyond the clip are zeros.
    """
    frames = x.shape[1]
    if frames < apart:
        out[:, frames:] = 0
        out[:, :frames] = x
        out[:, apart:] -= x
    else:
        out[:, :apart] = x[:, :apart]
        torch.sub(x[:, apart:], x[:, : frames - apart], out=out[:, apart:frames])
        torch.neg(x[:, frames - apart :], out=out[:, frames:])
    return out
