"""Maps cut into pieces that stay in cache, and convolutions of them.

A map (B, C, T, H, W) becomes rows (pieces, N, C): N positions a piece, channels innermost.
"""

import functools
import math

import torch
from torch.nn import functional

from models.difference_conv import kernel_of
from models.engine.precision import Arithmetic
from models.engine.training.few_channels import Product, write_products
from models.engine.training.moments import new_rows
from models.engine.workers import Workers

FLOAT32 = Arithmetic(torch.float32, torch.device("cpu"))
PIXELS = 512  # wanted of a piece of `PixelTiles`
POSITIONS = 16384  # wanted of a piece of `Volumes`


@functools.cache
def divisor_near(wanted, total):
    """The divisor of `total` nearest to `wanted` by ratio, at most four times as large.

    Where all such are small, `total`.
    """
    divisors = [n for n in range(1, min(4 * wanted, total) + 1) if total % n == 0]
    nearest = min(divisors, key=lambda n: max(n, wanted) / min(n, wanted))
    return nearest if 16 * nearest > wanted else total


class Pieces:
    """How a map is divided: into `pieces` of N `positions` each, (pieces, N, C).

    Attributes:
        act_along_time: whether convolutions act along time only, piece by piece.
        count: positions in all.
    """

    act_along_time = True

    def __init__(self, pieces, positions):
        self.pieces, self.positions, self.count = pieces, positions, pieces * positions
        if self.count < 2:
            raise ValueError("one value per channel in a map: expected more when training")

    def new(self, channels):
        """A map, and the list of its pieces."""
        rows = new_rows(self.pieces, self.positions, channels)
        return rows, rows.unbind(0)

    def run(self, task):
        """Calls task(i) for every piece: a thread takes a piece at a time and computes alone.

        Without gradients. Threads that meet in every product wait for each other; where other
        programs want the cores too, most of the time.
        """
        with Workers(FLOAT32) as workers:
            workers.run(lambda piece, _: task(piece), range(self.pieces))


class PixelTiles(Pieces):
    """A piece holds all frames of some pixels, frame by frame.

    Args:
        batch, frames, size: B, T and (H, W) of the map.
    """

    def __init__(self, batch, frames, size):
        total = math.prod(size)
        # Two or more a clip, so that small clips keep as much for each pixel as large ones.
        self.pixels = divisor_near(min(PIXELS, max(total // 2, 1)), total)
        self.batch, self.frames, self.size = batch, frames, size
        super().__init__(batch * total // self.pixels, frames * self.pixels)

    def cut(self, x):
        """(B, C, T, H, W) to (pieces, N, C)."""
        x = x.permute(0, 2, 3, 4, 1).reshape(self.batch, self.frames, -1, self.pixels, x.shape[1])
        return x.transpose(1, 2).reshape(self.pieces, self.positions, -1)

    def join(self, rows):
        """The way back."""
        x = rows.view(self.batch, -1, self.frames, self.pixels, rows.shape[2])
        x = x.transpose(1, 2).reshape(self.batch, self.frames, *self.size, -1)
        return x.permute(0, 4, 1, 2, 3)


class Volumes(Pieces):
    """A map as its rows lie in memory, channels innermost, for convolutions of whole volumes.

    Args:
        batch, frames, size: B, T and (H, W) of the map.
    """

    act_along_time = False

    def __init__(self, batch, frames, size):
        self.shape = batch, frames, *size
        count = math.prod(self.shape)
        positions = divisor_near(POSITIONS, count)
        super().__init__(count // positions, positions)

    def cut(self, x):
        """(B, C, T, H, W) to (pieces, N, C), dense; a view where channels are innermost."""
        return x.permute(0, 2, 3, 4, 1).reshape(self.pieces, self.positions, -1).contiguous()

    def join(self, rows):
        """The way back, a view."""
        return rows.view(*self.shape, -1).permute(0, 4, 1, 2, 3)

    def convolve(self, conv, rows):
        """A convolution of rows without its bias."""
        geometry = conv.stride, conv.padding, conv.dilation
        return self.cut(functional.conv3d(self.join(rows), kernel_of(conv), None, *geometry))


class TimeKernel:
    """A (K,1,1) convolution of pieces that keeps their size, as K products of matrices.

    Args:
        kernel: (C_out, C_in, K).
        padding, dilation: in frames.
        tiles: `PixelTiles`.
    """

    def __init__(self, kernel, padding, dilation, tiles):
        taps = kernel.unbind(2)  # (C_out, C_in)
        self.shape = len(taps), *taps[0].shape
        self.forwards = [Product(tap.T) for tap in taps]
        self.backwards = [Product(tap) for tap in taps]
        shifts = [(index * dilation - padding) * tiles.pixels for index in range(len(taps))]
        # The middle tap, which is not shifted, is first: it writes, the others add.
        order = sorted(range(len(shifts)), key=lambda index: abs(shifts[index]))
        self.order = [(index, shifts[index]) for index in order]

    def convolve(self, x, out):
        """Writes the convolution of x (N, C_in) to `out` (N, C_out)."""
        return self.add_up(self.forwards, x, out, 1)

    def gradient(self, grad, out=None):
        """The gradient for the input (N, C_in), from that for the output."""
        out = grad.new_empty(len(grad), self.shape[2]) if out is None else out
        return self.add_up(self.backwards, grad, out, -1)

    def add_up(self, products, x, out, sign):
        """Writes the sum of the taps' products of x, each moved, to `out`."""
        (middle, _), *others = self.order
        products[middle].write(x, out)
        for index, shift in others:
            to, of = shifted_slices(len(x), sign * shift)
            products[index].add(x[of], out[to])
        return out

    def note_gradient(self, grad, x, out):
        """Writes the gradient for the kernel to `out` (K, C_out, C_in)."""
        for index, shift in self.order:
            to, of = shifted_slices(len(x), shift)
            write_products(grad[to], x[of], out[index])

    @staticmethod
    def joined(kernels):
        """(C_out, C_in, K, 1, 1), the gradient, from the pieces' (pieces, K, C_out, C_in)."""
        return kernels.sum(0, dtype=torch.float64).float().permute(1, 2, 0)[..., None, None]


def shifted_slices(positions, shift):
    """Slices (of the output, of the input) where position p of one meets p + shift of the other."""
    size = max(positions - abs(shift), 0)
    return (
        slice(max(-shift, 0), max(-shift, 0) + size),
        slice(max(shift, 0), max(shift, 0) + size),
    )
