"""The temporal probe with the projection after it, and their gradients, in passes over pieces."""

import math

import torch
from torch.autograd import Function

from models.engine.onednn import relu_gradient
from models.engine.training.backward import differentiable_once
from models.engine.training.moments import (
    ChannelCovariance,
    ChannelMoments,
    GradientProducts,
    GradientSums,
    Mixture,
    Normalisation,
    update_running,
)


def run_probe(probe, projection, rows, tiles):
    """A `TPro` and the projection after it, in training, of rows as `PixelTiles.cut` makes them."""
    weight = torch.stack([head.weight for head in probe.QK_heads]) / math.sqrt(tiles.frames)
    bias = torch.stack([head.bias for head in probe.QK_heads])
    mixing = [(layer[0], layer[1]) for layer in (probe.conv, projection)]
    layers = (None, probe.norm1), *mixing
    return Probe.apply(
        rows,
        (tiles, layers),
        weight,
        bias,
        *(conv.weight.flatten(1) for conv, _ in mixing),
        *(parameter for _, norm in layers for parameter in (norm.weight, norm.bias)),
    )


class Probe(Function):
    """x, heads (m, T, T) with biases (m, T), two kernels, three norms: rows (.., 8)."""

    @staticmethod
    def forward(ctx, x, parts, weight, bias, *parameters):
        (tiles, layers), kernels, affine = parts, parameters[:2], parameters[2:]
        affine = [(*affine[2 * i : 2 * i + 2], norm.eps) for i, (_, norm) in enumerate(layers)]
        (middle, channels), count = kernels[0].shape, tiles.count
        heads = Heads(weight, bias, channels, tiles)
        (y, ys), (out, outs), xs = tiles.new(channels), tiles.new(len(kernels[1])), x.unbind()
        moments = ChannelMoments(tiles, channels)

        def correlate(i):
            heads.correlate(xs[i], ys[i])
            moments.note(i, ys[i])

        tiles.run(correlate)
        norm = Normalisation(*moments.join(), *affine[0], count)
        first, second = (ChannelCovariance(tiles, number) for number in (channels, middle))
        tiles.run(lambda i: first.note(i, norm.relu(ys[i])))
        mix = Mixture(kernels[0], *first.join(), *affine[1], count)
        tiles.run(lambda i: second.note(i, mix.relu(norm.relu(ys[i]))))
        last = Mixture(kernels[1], *second.join(), *affine[2], count)

        def project(i):
            last.relu(mix.relu(norm.relu(ys[i])), out=outs[i])

        tiles.run(project)
        for layer, found in zip(layers, (norm, mix.norm, last.norm), strict=True):
            update_running(*layer, found)
        ctx.save_for_backward(x, y, out)
        ctx.parts = tiles, heads, norm, mix, last
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx, grad):
        x, y, out = ctx.saved_tensors
        tiles, heads, norm, mix, last = ctx.parts
        channels = y.shape[2]
        grads, xs, ys, outs = (a.contiguous().unbind() for a in (grad, x, y, out))
        middle = last.kernel.shape[1]
        products = GradientProducts(tiles, last)

        def take_products(i):
            g = relu_gradient(grads[i], outs[i])
            products.note(i, g, mix.relu(norm.relu(ys[i])))

        tiles.run(take_products)
        learned_last, last_gradient = last.gradients(products)
        (_, inner), mixed_products = tiles.new(middle), GradientProducts(tiles, mix)

        def leave_projection(i):
            r = norm.relu(ys[i])
            m = mix.relu(r)
            g = last_gradient(relu_gradient(grads[i], outs[i]), m)
            relu_gradient(g, m, out=inner[i])
            mixed_products.note(i, inner[i], r)

        tiles.run(leave_projection)
        learned_mix, mix_gradient = mix.gradients(mixed_products)
        sums, (grad_x, grad_xs) = GradientSums(tiles, norm), tiles.new(channels)

        def leave_mixture(i):
            r = norm.relu(ys[i])
            g = mix_gradient(inner[i], r)
            sums.note(i, relu_gradient(g, r, out=grad_xs[i]), ys[i])

        tiles.run(leave_mixture)
        learned_norm, gradient = norm.gradients(sums)
        matrices, offsets = heads.new_gradients()

        def leave_heads(i):
            g = gradient(grad_xs[i], ys[i])
            heads.take_gradients(g, xs[i], matrices[i], offsets[i], out=grad_xs[i])

        tiles.run(leave_heads)
        return (
            grad_x,
            None,
            *(a.sum(0, dtype=torch.float64).float() for a in (matrices, offsets)),
            *(learned[0] for learned in (learned_mix, learned_last)),
            *(*learned_norm, *learned_mix[1:], *learned_last[1:]),
        )


class Heads:
    """The heads of a probe on pieces (N, C): a T x T matrix for each of m groups of channels.

    Args:
        weight, bias: (m, T, T) and (m, T).
        channels: C.
        tiles: `PixelTiles`.
    """

    def __init__(self, weight, bias, channels, tiles):
        self.weight, self.bias, self.tiles = weight, bias[..., None], tiles
        # As which numbers are copied: 16 bytes at once where groups of channels have as many.
        self.copied = torch.float32 if channels // len(weight) % 4 else torch.complex128

    def grouped(self, rows):
        """(N, C) as (m, T, P C/m), dense."""
        frames, pixels = self.tiles.frames, self.tiles.pixels
        rows = rows.view(self.copied).view(frames, pixels, len(self.weight), -1)
        groups = rows.permute(2, 0, 1, 3).contiguous().view(torch.float32)
        return groups.view(len(self.weight), frames, -1)

    def ungroup(self, groups, out):
        """The way back from `grouped`, to `out` (N, C)."""
        frames, pixels = self.tiles.frames, self.tiles.pixels
        out = out.view(self.copied).view(frames, pixels, len(self.weight), -1)
        groups = groups.view(self.copied).view(len(self.weight), frames, pixels, -1)
        out.copy_(groups.permute(1, 2, 0, 3))

    def correlate(self, rows, out):
        """Writes the heads' output (N, C)."""
        self.ungroup(torch.baddbmm(self.bias, self.weight, self.grouped(rows)), out)

    def new_gradients(self):
        """Room for the gradients of weight and bias by each piece."""
        count, frames, _ = self.weight.shape
        pieces = self.tiles.pieces
        weights = self.weight.new_empty(pieces, count, frames, frames)
        return weights, self.weight.new_empty(pieces, count, frames)

    def take_gradients(self, grad, x, matrix, offset, out):
        """Writes the gradients for weight, bias and x to `matrix`, `offset` and `out`."""
        grad = self.grouped(grad)
        torch.bmm(grad, self.grouped(x).transpose(1, 2), out=matrix)
        torch.sum(grad, 2, out=offset)
        self.ungroup(torch.bmm(self.weight.transpose(1, 2), grad), out)
