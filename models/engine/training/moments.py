"""BatchNorm in training from the moments of its input, and of what is convolved into its input.

Maps are rows (pieces, N, C): N positions a piece, all of one channel count C. Moments are taken of
each piece in float32, while it is in cache, and joined in float64.
"""

import torch


class ChannelMoments:
    """Mean and biased variance of every channel of a map, noted piece by piece."""

    def __init__(self, pieces, channels):
        self.are_noted = False
        self.parts = torch.empty(pieces.pieces, 2, channels)

    def note(self, piece, rows):
        """Takes the moments of a piece (N, C)."""
        self.are_noted = True
        mean, variance = self.parts[piece]
        torch.mean(rows, 0, out=mean)
        torch.mean(rows.sub(mean).square_(), 0, out=variance)

    def join(self):
        """(mean, variance), (C,) float64."""
        means, variances = self.parts.double().unbind(1)
        return means.mean(0), variances.mean(0) + means.var(0, correction=0)


class ChannelProducts:
    """Means and covariances of a map's channels with those of another, noted piece by piece.

    Of two maps, the first has C_1 channels and the second C_2; of a map with itself, give it twice.
    """

    def __init__(self, pieces, first, second):
        self.products = torch.empty(pieces.pieces, first, second)
        self.sums = torch.empty(pieces.pieces, first)

    def note(self, piece, one, other):
        """Takes the products of a piece (N, C_1) with a piece (N, C_2)."""
        torch.mm(one.T, other, out=self.products[piece])
        torch.sum(one, 0, out=self.sums[piece])

    def join(self):
        """(sum of the first's channels (C_1,), of products (C_1, C_2)), float64."""
        return self.sums.double().sum(0), self.products.double().sum(0)


class GradientSums:
    """Sums of the gradient g for a BatchNorm's output, alone and times its input."""

    def __init__(self, pieces, channels):
        self.parts = torch.empty(pieces.pieces, 2, channels)

    def note(self, piece, grad, y):
        """Takes the sums of a piece (N, C)."""
        sums, products = self.parts[piece]
        torch.sum(grad, 0, out=sums)
        torch.sum(grad * y, 0, out=products)

    def join(self):
        """(sums of g, sums of g y), (C,) float64."""
        return self.parts.double().sum(0).unbind(0)


class Normalisation:
    """A BatchNorm in training whose input has this mean and variance: y -> scale y + shift.

    Args:
        mean, variance: (C,) float64; biased.
        weight, bias: of the BatchNorm.
        eps: likewise.
        count: positions N in all.
    """

    def __init__(self, mean, variance, weight, bias, eps, count):
        self.mean, self.variance, self.count = mean, variance.clamp_min(0), count
        self.deviation = (self.variance + eps).rsqrt()
        scale = weight.double() * self.deviation
        self.scale, self.shift = scale.float(), (bias.double() - scale * mean).float()

    def relu(self, y, out=None):
        """relu(BatchNorm(y)) of rows (N, C)."""
        return torch.addcmul(self.shift, y, self.scale, out=out).relu_()

    def gradients(self, sums, products):
        """What backward needs, from sums of the gradient g for the output.

        The gradient for y is scale (g - mean of g - u mean of (g u)), u = (y - mean) / deviation.

        Args:
            sums, products: (C,) float64, of g and of g y.

        Returns:
            (gradients of the BatchNorm's weight and bias), and gradient(g, y, out=None), which
            computes that for y.
        """
        of_weight = self.deviation * (products - sums * self.mean)
        slope = -self.scale.double() * of_weight * self.deviation / self.count
        constant = (-self.scale * sums / self.count - slope * self.mean).float()
        slope = slope.float()

        def gradient(grad, y, out=None):
            slopes = torch.addcmul(constant, y, slope)
            return torch.addcmul(slopes, grad, self.scale, out=out)

        return (of_weight.float(), sums.float()), gradient


class Mixture:
    """A 1x1x1 convolution with its BatchNorm, known before it is computed: r -> r @ matrix + shift.

    The moments of W r follow from those of r: mean W m, variance diag(W Cov W^T).

    Args:
        weight: (C_out, C_in) float32.
        sums, products: of r with itself, as `ChannelProducts.join` gives them.
        norm_weight, norm_bias, eps: of the BatchNorm.
        count: positions in all.
    """

    def __init__(self, weight, sums, products, norm_weight, norm_bias, eps, count):
        self.kernel, self.count = weight.double(), count
        self.of_input = sums / count
        self.covariance = products / count - torch.outer(self.of_input, self.of_input)
        mean = self.kernel @ self.of_input
        variance = ((self.kernel @ self.covariance) * self.kernel).sum(1)
        self.norm = Normalisation(mean, variance, norm_weight, norm_bias, eps, count)
        self.scale = norm_weight.double() * self.norm.deviation
        self.matrix = (self.scale[:, None] * self.kernel).T.float().contiguous()
        self.shift = self.norm.shift

    def relu(self, r, out=None):
        """Its output after a ReLU, of rows (N, C_in)."""
        return torch.addmm(self.shift, r, self.matrix, out=out).relu_()

    def gradients(self, sums, products):
        """What backward needs, from sums of the gradient g for the output.

        Args:
            sums: (C_out,) of g.
            products: (C_out, C_in) of g with r.

        Returns:
            (gradients of weight, norm_weight and norm_bias), and what `gradient` takes.
        """
        kernel, deviation, scale = self.kernel, self.norm.deviation, self.scale
        mean = kernel @ self.of_input
        of_weight = deviation * ((products * kernel).sum(1) - sums * mean)
        from_unit = of_weight * deviation
        of_kernel = products - torch.outer(sums, self.of_input)
        of_kernel = scale[:, None] * (of_kernel - from_unit[:, None] * (kernel @ self.covariance))
        slope = scale * from_unit / self.count
        of_input = -(kernel.T * slope) @ kernel
        constant = (slope * mean - scale * sums / self.count) @ kernel
        parts = scale[:, None] * kernel, of_input, constant
        learned = of_kernel, of_weight, sums
        return tuple(a.float() for a in learned), tuple(a.float().contiguous() for a in parts)

    @staticmethod
    def gradient(parts, grad, r, out=None):
        """The gradient for the input r, from that for the output: linear in both."""
        of_grad, of_input, constant = parts
        return torch.addmm(constant, grad, of_grad, out=out).addmm_(r, of_input)


def update_running(module, norm, bias=None):
    """A BatchNorm's running statistics, as its own pass updates them.

    Args:
        module: the BatchNorm.
        norm: its `Normalisation`, of an input to which `bias`, if there is one, was not added.
    """
    mean = norm.mean if bias is None else norm.mean + bias.double()
    unbiased = norm.variance * (norm.count / max(norm.count - 1, 1))
    module.num_batches_tracked += 1
    module.running_mean.lerp_(mean.float(), module.momentum)
    module.running_var.lerp_(unbiased.float(), module.momentum)
