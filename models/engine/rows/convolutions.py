"""Convolutions with spatial kernels over rows (R, T, W, C): see `models.engine.rows.segments`."""

import torch
from torch.nn import functional

from models.engine import onednn

LEAST_EPS = 1e-30  # of a norm: adds nothing to a variance of 1; torch 2.11 refuses 0


def works_by_rows(arithmetic):
    """Whether threads take a few rows each from cut to cut: on a CPU, where oneDNN convolves.

    Each then computes alone, while rows are in its cache: to meet in every product costs
    milliseconds where other programs want the cores too.
    """
    on_cpu = arithmetic.device.type == "cpu"
    return on_cpu and onednn.has_fused_convolution(arithmetic.dtype)


class RowConv:
    """A convolution and ReLU over rows (R, T, W, C): R - 2 reach rows (T', W, C_out).

    Columns beside the image and frames beyond the clip count as zero; rows above and below it are
    the caller's to add.

    Args:
        conv: the convolution.
        kernel: (C_out, C, T, K, K) in place of the convolution's, for input that holds the frames
            beyond the clip.

    Attributes:
        rows_at_once: fewer are only made at the end.
        made_values: numbers that are there at a time for a pixel and frame of output.
    """

    rows_at_once = 1

    def __init__(self, conv, arithmetic, kernel=None):
        time, self.reach, beside = conv.padding
        self.padding = (time if kernel is None else 0), beside
        kernel = conv.weight if kernel is None else kernel
        self.kernel = onednn.channels_last(arithmetic.cast(kernel.transpose(2, 3)))
        self.bias = arithmetic.cast(conv.bias)
        self.dilation = tuple(conv.dilation[i] for i in (1, 0, 2))
        self.channels = kernel.shape[1]
        self.made_values = len(self.bias)
        self.fused = works_by_rows(arithmetic)

    def pieces(self, ranges):
        """What one call makes, of the ranges of rows that tasks would make."""
        return ranges

    def __call__(self, stored, piece):
        """[(top, rows of output from that one on), ...] of a piece, from stored rows of input."""
        return [(piece.start, self.convolve(stored[piece.start : piece.stop + 2 * self.reach]))]

    def convolve(self, rows):
        image = rows.permute(3, 0, 1, 2)[None]
        layer = image, self.kernel, self.bias, (0, *self.padding), self.dilation
        if self.fused:
            y = onednn.convolve_fused(*layer, "relu")
        else:
            y = onednn.convolve(*layer).clamp_min_(0)
        return y[0].permute(1, 2, 3, 0)


class StemConv(RowConv):
    """The folded `Stem`, which subtracts sums of nearly equal numbers: rounded as when trained.

    The kernel's spatial taps sum to zero, so they are added up time by time; scale and shift are
    applied as the norm that they were.
    """

    def __init__(self, stem, arithmetic):
        conv, affine, _ = stem
        super().__init__(conv, arithmetic)
        self.made_values = 3 * len(self.bias)
        self.kernel = onednn.channels_last(arithmetic.cast(conv.weight))
        scale, shift = (arithmetic.cast(a.flatten()) for a in (affine.scale, affine.shift))
        self.norm = torch.zeros_like(shift), torch.ones_like(scale), scale, shift

    def convolve(self, rows):
        clip = rows.permute(3, 1, 0, 2)[None]  # (1, 1, T, R, W)
        time, beside = self.padding
        y = onednn.convolve(clip, self.kernel, self.bias, (time, 0, beside), (1, 1, 1))
        if y.device.type == "cpu":
            y = functional.batch_norm(y, *self.norm, eps=LEAST_EPS).clamp_min_(0)
        else:  # not tried on a GPU with so small an eps
            scale, shift = (a.view(-1, 1, 1, 1) for a in self.norm[2:])
            y = torch.addcmul(shift, y, scale).clamp_min_(0)
        return y[0].permute(2, 1, 3, 0)


class WinogradConv(RowConv):
    """A `RowConv` of three rows that makes them in pairs, with a third fewer products.

    Two rows of output, y0 and y1, one dilation apart, need four of input, d0 ... d3. With the
    kernel's rows g0, g1, g2 they are

        y0 = m0 + m1 + m2    m0 = (d0 - d2) g0    m1 = (d1 + d2) (g0 + g1 + g2) / 2
        y1 = m1 - m2 + m3    m3 = (d3 - d1) g2    m2 = (d2 - d1) (g0 - g1 + g2) / 2

    which is F(2, 3) of Lavin and Gray (CVPR 2016): four products instead of six. A product here is
    a convolution over time and columns.
    """

    @staticmethod
    def suits(conv, arithmetic):
        """Whether it is faster: the sums take time, too, so it has to be for many channels."""
        return (
            conv.in_channels >= 32
            and conv.kernel_size[1] == 3
            and arithmetic.dtype == torch.float32
            and works_by_rows(arithmetic)
            and onednn.has_fused_sum(arithmetic.dtype)
        )

    def __init__(self, conv, arithmetic):
        super().__init__(conv, arithmetic)
        self.rows_at_once = 2 * self.dilation[0]
        self.made_values = 2 * max(self.channels, len(self.bias))
        first, middle, last = conv.weight.transpose(2, 3).unbind(2)
        kernels = first, (first + middle + last) / 2, (first - middle + last) / 2, last
        self.kernels = [onednn.channels_last(arithmetic.cast(kernel)) for kernel in kernels]

    def pieces(self, ranges):
        """Pairs of rows, and those at the end that have no partner."""
        rows, apart = ranges[-1].stop, self.dilation[0]
        paired = rows - rows % (2 * apart)
        tops = (range(top, top + apart) for top in range(0, paired, 2 * apart))
        pairs = [range(top, top + 2 * apart, apart) for group in tops for top in group]
        return [*pairs, *([range(paired, rows)] if paired < rows else [])]

    def __call__(self, stored, piece):
        apart = self.dilation[0]
        if len(piece) != 2 or piece.step != apart:
            return super().__call__(stored, piece)
        return zip(piece, self._pair(*stored[piece.start :: apart][:4]), strict=True)

    def _pair(self, d0, d1, d2, d3):
        """Two rows (1, T, W, C_out) of four (T, W, C)."""
        g0, plus, minus, g2 = self.kernels
        geometry = self.padding, self.dilation[1:]
        m1 = onednn.convolve_fused(onednn.as_image(d1 + d2), plus, self.bias, *geometry)
        m2 = onednn.convolve_fused(onednn.as_image(d2 - d1), minus, None, *geometry)
        sums = m1 + m2, m1.sub_(m2)
        return [
            onednn.convolve_onto(m, onednn.as_image(d), g, None, *geometry).permute(0, 2, 3, 1)
            for m, d, g in zip(sums, (d0 - d2, d3 - d1), (g0, g2), strict=True)
        ]
