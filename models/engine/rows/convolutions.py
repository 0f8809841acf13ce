"""Convolutions with spatial kernels over rows (R, T, W, C): see `models.engine.rows.segments`."""

import math

import numpy as np
import torch
from torch.nn import functional

from models.engine import onednn
from models.engine.tape import shaped

# Frames times columns of what is made at a time: four rows in six products, of which more would
# leave the cache that cores share; and of a row, where all that it sees is written out. Numbers of
# each of the four rows that are summed while they are in a core's own cache.
PIXELS_AT_ONCE = 10240
SUMMED_AT_ONCE = 32768
SEEN_AT_ONCE = 512


def cut_rows(rows, step):
    """Ranges of `rows` rows, of `step` each."""
    return [range(top, min(rows, top + step)) for top in range(0, rows, step)]


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
        pieces(rows, step): ranges of `rows` rows of output, one for a task; of `step` each, if any
            may be made together.
    """

    rows_at_once = 1
    pieces = staticmethod(cut_rows)

    def __init__(self, conv, arithmetic, kernel=None):
        time, self.reach, beside = conv.padding
        self.padding = (time if kernel is None else 0), beside
        kernel = (conv.weight if kernel is None else kernel).transpose(2, 3)
        self.kernel = onednn.channels_last(arithmetic.cast(kernel))
        self.matrix = self.kernel.permute(0, 2, 3, 4, 1).flatten(1)  # (C_out, K T K C)
        self.bias = arithmetic.cast(conv.bias)
        self.dilation = tuple(conv.dilation[i] for i in (1, 0, 2))
        sizes = zip(self.dilation, kernel.shape[2:], strict=True)
        self.seen = tuple(dilation * (size - 1) for dilation, size in sizes)  # beside the pixel
        self.channels = kernel.shape[1]
        self.on_cpu = arithmetic.device.type == "cpu"
        self.fused = self.on_cpu and onednn.has_fused_convolution(arithmetic.dtype)

    def frames_made(self, frames):
        return frames + 2 * self.padding[0] - self.seen[1]

    def buffers(self, rows, frames, width):
        """{(name, type): how many numbers} of what making so many rows needs beside them."""
        if self.fused:
            return {}
        dtype = self.bias.dtype
        if not self.on_cpu:
            return {("volume", dtype): len(self.bias) * rows * frames * width}
        size = rows + 2 * self.reach, frames, width + self.seen[2], self.channels
        columns = self.matrix.shape[1] * max(SEEN_AT_ONCE, width)
        return {("padded", dtype): math.prod(size), ("columns", dtype): columns}

    def __call__(self, stored, piece, out, biases, scratch):
        """Makes a piece of the output, `out`, from stored rows of input.

        Args:
            biases: (C_out,), or for each frame (T', 1, C_out).
        """
        rows = stored[piece.start : piece.stop + 2 * self.reach]
        padding = 0, *self.padding
        if self.fused:
            out.copy_(biases)
            volumes = onednn.as_volume(out), onednn.as_volume(rows)
            onednn.convolve_onto(*volumes, self.kernel, None, padding, self.dilation)
        elif self.on_cpu:
            self._multiply(rows, out, scratch)
            out.add_(biases).clamp_min_(0)
        else:
            y = functional.conv3d(
                onednn.as_volume(rows), self.kernel, padding=padding, dilation=self.dilation
            )
            torch.add(y[0].permute(1, 2, 3, 0), biases, out=out).clamp_min_(0)

    def _multiply(self, rows, out, scratch):
        """The convolution as products of matrices, of a few frames of a row each.

        One is the kernel; a column of the other is what a pixel sees. As torch's own without
        oneDNN, but that this writes out, for many rows at a time, many times their memory.
        """
        frames, width, channels = rows.shape[1:]
        time, beside = self.padding
        size = len(rows), frames + 2 * time, width + 2 * beside, channels
        padded = scratch.take("padded", *size, dtype=rows.dtype).zero_()
        padded[:, time : time + frames, beside : beside + width] = rows
        strides = padded.stride()[:3]
        steps = (stride * apart for stride, apart in zip(strides, self.dilation, strict=True))
        sizes = *out.shape[:3], *self.kernel.shape[2:], channels
        seen = padded.as_strided(sizes, (*strides, *steps, 1))
        at_once = max(1, SEEN_AT_ONCE // out.shape[2])
        numbers = at_once * out.shape[2] * self.matrix.shape[1]
        memory = scratch.take("columns", numbers, dtype=rows.dtype)
        for row, of_row in zip(out, seen, strict=True):
            for y, inputs in zip(row.split(at_once), of_row.split(at_once), strict=True):
                columns = shaped(memory, *inputs.shape).copy_(inputs).view(len(y) * y.shape[1], -1)
                torch.mm(self.matrix, columns.T, out=y.flatten(0, 1).T)


class StemConv(RowConv):
    """The first convolution, over rows that hold the columns beside the image, too."""

    def __init__(self, conv, arithmetic):
        super().__init__(conv, arithmetic)
        self.padding = self.padding[0], 0


POINTS = 0.75, -0.75, 1.5, -1.5, 0  # with 1, 2 and 3 instead errors are half as large again


def winograd_matrices(points):
    """A (4, 6), B (6, 6) and G (6, 3) in float64 of F(4, 3), see `WinogradConv`.

    A kernel and four rows are polynomials in x, and m_i is the product of their values at a point;
    the last one is at infinity, where the highest power decides.
    """
    power = np.arange(4)[:, None]
    others = [[other for other in points if other != point] for point in points]
    infinity = np.array([[0.0, 0, 0, 1]])
    a = np.concatenate([np.array(points) ** power, infinity.T], 1)
    b = [[*np.poly(roots)[::-1], 0] for roots in others] + [np.poly(points)[::-1]]
    scales = [np.prod(point - np.array(roots)) for point, roots in zip(points, others, strict=True)]
    g = np.concatenate([(np.array(points) ** power[:3] / scales).T, infinity[:, 1:]])
    return tuple(torch.tensor(np.array(matrix)) for matrix in (a, b, g))


class WinogradConv(RowConv):
    """A `RowConv` of three rows that makes four at a time, with half the products.

    Four rows of output y, one dilation apart, need six of input, d. With the kernel's rows g,

        y = A m,    m_i = (B d)_i (G g)_i,    i = 0 ... 5

    which is F(4, 3) of Lavin and Gray (CVPR 2016): six products instead of twelve. A product here
    is a convolution over time and columns. The last two, at 0 and at infinity, are in the first and
    the last row only, and are added there.
    """

    @staticmethod
    def suits(conv, arithmetic):
        """Whether it is faster: the sums take time, too, so it has to be for many channels."""
        return (
            conv.in_channels >= 16
            and conv.kernel_size[1] == 3
            and arithmetic.dtype == torch.float32
            and arithmetic.device.type == "cpu"
            and onednn.has_fused_convolution(arithmetic.dtype)
        )

    def __init__(self, conv, arithmetic, kernel=None):
        super().__init__(conv, arithmetic, kernel)
        self.rows_at_once = 4 * self.dilation[0]
        kernel = conv.weight if kernel is None else kernel
        a, b, g = winograd_matrices(POINTS)
        kernels = torch.einsum("ir,octrx->ioctx", g, kernel.double())
        self.kernels = [onednn.channels_last(arithmetic.cast(kernel)) for kernel in kernels]
        a = a[:, :4]  # of the products that are in every row
        biases = torch.linalg.inv(a).sum(1, keepdim=True) * conv.bias.double()  # once in each
        self.biases = arithmetic.cast(biases)
        self.to_products, self.of_products = arithmetic.cast(b), arithmetic.cast(a)

    def pieces(self, rows, step):
        """Four rows each, whatever the step; at the end those that are too few, by two."""
        apart = self.dilation[0]
        whole = rows - rows % self.rows_at_once
        tops = (range(top, top + apart) for top in range(0, whole, self.rows_at_once))
        fours = [range(top, top + 4 * apart, apart) for group in tops for top in group]
        return fours + [range(top, min(top + 2, rows)) for top in range(whole, rows, 2)]

    def frames_at_once(self, frames, width):
        return max(1, min(frames, PIXELS_AT_ONCE // width))

    def buffers(self, rows, frames, width):
        at_once = self.frames_at_once(frames, width)
        values = max(self.channels * (at_once + self.seen[1]), len(self.bias) * at_once)
        return {("products", self.bias.dtype): 7 * values * width}

    def __call__(self, stored, piece, out, biases, scratch):
        if len(piece) != 4:
            super().__call__(stored, piece, out, biases, scratch)
            return
        d = stored[piece.start :: self.dilation[0]][:6]
        frames, width = out.shape[1:3]
        (numbers,) = self.buffers(4, frames, width).values()
        memory = scratch.take("products", numbers)
        step = self.frames_at_once(frames, width)
        for first in range(0, frames, step):
            self._make(out[:, first : first + step], d, first - self.padding[0], memory)

    def _make(self, y, d, start, memory):
        """Frames of the rows y (4, t, W, C_out), from rows d (6, T, W, C), frame `start` on.

        Each product takes the place of the input of the one before, which is still in cache.
        """
        frames, width, channels = y.shape[1:]
        stop = start + frames + self.seen[1]
        frame, made = width * self.channels, frames * width * channels
        places = shaped(memory, 7, max(made, (stop - start) * frame))
        inputs = places[1:, : (stop - start) * frame]
        low, high = max(start, 0), min(stop, d.shape[1])
        there = slice((low - start) * frame, (high - start) * frame)
        inputs[:, : there.start] = 0
        inputs[:, there.stop :] = 0
        torch.mm(self.to_products, d[:, low:high].flatten(1), out=inputs[:, there])
        products = places[:4, :made]
        for i, bias in enumerate(self.biases):
            self._convolve(products[i].zero_().view_as(y[0]), inputs, i, bias, None)
        parts = (numbers.split(SUMMED_AT_ONCE, 1) for numbers in (products, y.flatten(1)))
        for product, out in zip(*parts, strict=True):
            torch.mm(self.of_products, product, out=out)
            out[1:3].clamp_min_(0)
        self._convolve(y[0], inputs, 4, None, "relu")
        self._convolve(y[3], inputs, 5, None, "relu")

    def _convolve(self, out, inputs, i, bias, activation):
        """Adds a product's convolution to `out`, (t, W, C_out)."""
        images = (
            onednn.as_image(out),
            onednn.as_image(inputs[i].view(-1, out.shape[1], self.channels)),
        )
        geometry = (0, self.padding[1]), self.dilation[1:]
        onednn.convolve_onto(*images, self.kernels[i], bias, *geometry, activation)


def best_conv(conv, arithmetic, kernel=None):
    """The faster of a `RowConv` and a `WinogradConv`."""
    made = WinogradConv if WinogradConv.suits(conv, arithmetic) else RowConv
    return made(conv, arithmetic, kernel)
