"""Convolutions of pieces and of whole volumes."""

from torch.nn import functional

from models.difference_conv import TemporalDifferenceConv3d, kernel_of
from models.engine.differences import difference_taps
from models.engine.training import winograd
from models.engine.training.few_channels import Product, write_products
from models.engine.training.maps import shifted_slices
from models.engine.training.moments import sum_of_pieces


def convolve_volumes(conv, rows, volumes):
    """A convolution, without its bias, of rows that are cut into `Volumes`."""
    kernel = kernel_of(conv)
    if winograd.suits(conv):
        x = rows.view(*volumes.shape, -1)
        if isinstance(conv, TemporalDifferenceConv3d):
            kernel = difference_taps(kernel)
        y = winograd.RowsConvolution.apply(x, kernel, conv.dilation)
        return y.view(volumes.pieces, volumes.positions, -1)
    padding, dilation = ([sizes[i] for i in (1, 0, 2)] for sizes in (conv.padding, conv.dilation))
    image = volumes.join(rows).transpose(2, 3)
    y = functional.conv3d(image, kernel.transpose(2, 3), None, 1, padding, dilation)
    return volumes.cut(y.transpose(2, 3))


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
        middle, _ = self.order[0]
        self.forwards[middle].write(x, out)
        return self.add_up(self.forwards, self.order[1:], x, out, 1)

    def gradient(self, grad, out):
        """Writes the gradient for the input (N, C_in), from that for the output, to `out`."""
        middle, _ = self.order[0]
        self.backwards[middle].write(grad, out)
        return self.add_up(self.backwards, self.order[1:], grad, out, -1)

    def add_gradient(self, grad, out):
        """As `gradient`, but adds."""
        return self.add_up(self.backwards, self.order, grad, out, -1)

    @staticmethod
    def add_up(products, order, x, out, sign):
        """Adds the taps' products of x, each moved, to `out`."""
        for index, shift in order:
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
        return sum_of_pieces(kernels).permute(1, 2, 0)[..., None, None]
