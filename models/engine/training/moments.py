"""BatchNorm in training from the moments of its input, and of what is convolved into its input.

Maps are rows (pieces, N, C): N positions a piece, C channels. Sums are taken of each piece in
float32, of distances from a mean, while it is in cache, and joined in float64.
"""

import torch

from models.engine.training.few_channels import Product, write_products


def new_rows(*shape):
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def sum_of_pieces(found):
    """What was found in each piece, (pieces, ...), added up."""
    return found.sum(0, dtype=torch.float64).float()


def pivot(mean, variance):
    """What sums of products are taken from: the mean in float32, or None where 0 is near enough.

    Where a mean is far from 0, sums of products lose digits when the mean's share is subtracted.
    """
    return mean.float() if (mean.square() > 9 * variance).any() else None


class ChannelMoments:
    """Mean and biased variance of every channel of a map, noted piece by piece."""

    def __init__(self, pieces, channels):
        self.parts = new_rows(pieces.pieces, 3, channels)

    def note(self, piece, rows, room):
        """Takes the moments of a piece (N, C)."""
        near, rest, square = self.parts[piece]
        torch.mean(rows, 0, out=near)
        distances = torch.sub(rows, near, out=room.like(rows, "spare"))
        torch.mean(distances, 0, out=rest)  # of a channel that hardly varies, this is not little
        torch.mean(distances.square_(), 0, out=square)

    def join(self):
        """(mean, variance), (C,) float64."""
        near, rest, squares = self.parts.double().unbind(1)
        means, variances = near + rest, squares - rest.square()
        return means.mean(0), variances.mean(0) + means.var(0, correction=0)


class ChannelCovariance:
    """Means and biased covariances of a map's channels, noted piece by piece."""

    def __init__(self, pieces, channels):
        self.positions = pieces.positions
        self.means = new_rows(pieces.pieces, channels)
        self.products = new_rows(pieces.pieces, channels, channels)

    def note(self, piece, rows, room):
        """Takes the products of a piece (N, C)."""
        torch.mean(rows, 0, out=self.means[piece])
        distances = torch.sub(rows, self.means[piece], out=room.like(rows, "spare"))
        write_products(distances, distances, self.products[piece])

    def join(self):
        """(means (C,), covariances (C, C)), float64."""
        means = self.means.double()
        mean = means.mean(0)
        between = (means - mean).T @ (means - mean) / len(means)
        return mean, self.products.double().mean(0) / self.positions + between


class Normalisation:
    """A BatchNorm in training whose input has this mean and variance: y -> scale y + shift.

    Args:
        mean, variance: (C,) float64; biased.
        weight, bias: of the BatchNorm.
        eps: likewise.
        count: positions in all.
    """

    def __init__(self, mean, variance, weight, bias, eps, count):
        self.mean, self.variance, self.count = mean, variance.clamp_min(0), count
        self.per_deviation = (self.variance + eps).rsqrt()
        scale = weight.double() * self.per_deviation
        self.scale, self.shift = scale.float(), (bias.double() - scale * mean).float()

    def relu(self, y, out):
        """Writes relu(BatchNorm(y)) of rows (N, C) to `out`."""
        return torch.addcmul(self.shift, y, self.scale, out=out).relu_()

    def gradients(self, sums):
        """What backward needs, from sums over the gradient g for the output.

        The gradient for y is scale (g - mean of g - u mean of (g u)), u = (y - mean) / deviation.

        Args:
            sums: `GradientSums` of y.

        Returns:
            (gradients of the BatchNorm's weight and bias), and gradient(g, y, out), which writes
            that for y to `out`, not g itself.
        """
        of_bias, products = sums.join()
        of_weight = self.per_deviation * products
        slope = -self.scale.double() * of_weight * self.per_deviation / self.count
        constant = (-self.scale * of_bias / self.count - slope * self.mean).float()
        slope = slope.float()

        def gradient(grad, y, out):
            return torch.addcmul(constant, y, slope, out=out).addcmul_(grad, self.scale)

        return (of_weight.float(), of_bias.float()), gradient


class GradientSums:
    """Sums of the gradient g for a BatchNorm's output, alone and times its input minus the mean.

    Args:
        pieces: `models.engine.training.maps.Pieces`.
        norm: `Normalisation`.
    """

    def __init__(self, pieces, norm):
        self.mean, self.pivot = norm.mean, pivot(norm.mean, norm.variance)
        self.parts = new_rows(pieces.pieces, 2, len(self.mean))

    def note(self, piece, grad, y, room):
        """Takes the sums of a piece (N, C)."""
        sums, products = self.parts[piece]
        torch.sum(grad, 0, out=sums)
        y = y if self.pivot is None else y.sub(self.pivot)
        torch.sum(torch.mul(y, grad, out=room.like(y, "spare")), 0, out=products)

    def join(self):
        """(sums of g, sums of g (y - mean)), (C,) float64."""
        sums, products = self.parts.double().sum(0)
        return sums, products + sums * ((0 if self.pivot is None else self.pivot) - self.mean)


class Mixture:
    """A 1x1x1 convolution with its BatchNorm, known before it is computed: r -> r @ matrix + shift.

    The moments of W r follow from those of r: mean W m, variance diag(W Cov W^T).

    Args:
        weight: (C_out, C_in) float32.
        mean, covariance: of r, (C_in,) and (C_in, C_in) float64.
        norm_weight, norm_bias, eps: of the BatchNorm.
        count: positions in all.
    """

    def __init__(self, weight, mean, covariance, norm_weight, norm_bias, eps, count):
        self.kernel, self.of_input, self.covariance = weight.double(), mean, covariance
        mean, variance = self.kernel @ mean, ((self.kernel @ covariance) * self.kernel).sum(1)
        self.norm = Normalisation(mean, variance, norm_weight, norm_bias, eps, count)
        self.scale = norm_weight.double() * self.norm.per_deviation
        self.product = Product((self.scale[:, None] * self.kernel).T.float())
        self.shift, self.channels = self.norm.shift, len(weight)

    def relu(self, r, out):
        """Writes its output after a ReLU, of rows (N, C_in), to `out`."""
        return self.product.write(r, out, plus=self.shift).relu_()

    def gradients(self, products):
        """What backward needs.

        Args:
            products: `GradientProducts` of r.

        Returns:
            (gradients of weight, norm_weight and norm_bias), and gradient(g, r, out), which writes
            that for r to `out`: linear in both.
        """
        sums, products = products.join()
        kernel, scale, count = self.kernel, self.scale, self.norm.count
        of_weight = self.norm.per_deviation * (products * kernel).sum(1)
        per_unit = of_weight * self.norm.per_deviation
        of_kernel = scale[:, None] * (products - per_unit[:, None] * (kernel @ self.covariance))
        slope = scale * per_unit / count
        constant = ((slope * self.norm.mean - scale * sums / count) @ kernel).float()
        of_grad = Product((scale[:, None] * kernel).float())
        of_input = Product((-(kernel.T * slope) @ kernel).float())

        def gradient(grad, r, out):
            return of_input.add(r, of_grad.write(grad, out, plus=constant))

        return tuple(a.float() for a in (of_kernel, of_weight, sums)), gradient


class GradientProducts:
    """Sums of the gradient g for a mixture's output, alone and times its input minus the mean.

    Args:
        pieces: `models.engine.training.maps.Pieces`.
        mixture: `Mixture`.
        other: that of another mixture whose output has the same g, and which takes its sums.
    """

    def __init__(self, pieces, mixture, other=None):
        self.mean = mixture.of_input
        self.pivot = pivot(self.mean, mixture.covariance.diagonal())
        self.takes_sums = other is None
        self.sums = new_rows(pieces.pieces, len(mixture.kernel)) if other is None else other.sums
        self.products = new_rows(pieces.pieces, *mixture.kernel.shape)

    def note(self, piece, grad, r):
        """Takes the products of a piece, (N, C_out) with (N, C_in)."""
        if self.takes_sums:
            torch.sum(grad, 0, out=self.sums[piece])
        r = r if self.pivot is None else r - self.pivot
        write_products(grad, r, self.products[piece])

    def join(self):
        """(sums of g (C_out,), of products of g and r - mean (C_out, C_in)), float64."""
        sums, products = self.sums.double().sum(0), self.products.double().sum(0)
        shift = (0 if self.pivot is None else self.pivot) - self.mean
        return sums, products + torch.outer(sums, shift)


def update_running(conv, module, norm):
    """A BatchNorm's running statistics, as its own pass updates them.

    Args:
        conv: the convolution before it, whose bias was not added; None: there is none.
        module: the BatchNorm.
        norm: its `Normalisation`.
    """
    bias = None if conv is None else conv.bias
    mean = norm.mean if bias is None else norm.mean + bias.double()
    module.num_batches_tracked += 1
    module.running_mean.lerp_(mean.float(), module.momentum)
    unbiased = norm.variance * (norm.count / (norm.count - 1))
    module.running_var.lerp_(unbiased.float(), module.momentum)
