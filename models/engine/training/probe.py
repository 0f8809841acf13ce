"""The temporal probe with the projection after it, and their gradients, in passes over pieces."""

import math

import torch
from torch.autograd import Function

from models.engine.onednn import relu_gradient
from models.engine.training.backward import differentiable_once
from models.engine.training.block import normalise
from models.engine.training.few_channels import Product, write_products
from models.engine.training.moments import (
    ChannelCovariance,
    ChannelMoments,
    GradientProducts,
    GradientSums,
    Mixture,
    Normalisation,
    new_rows,
    sum_of_pieces,
    update_running,
)


def run_probe(probe, projection, rows, tiles):
    """A `TPro` and the projection after it, in training.

    Args:
        rows, tiles: as `PixelTiles` or `ImageRows` cut them.
    """
    weight = torch.stack([head.weight for head in probe.QK_heads]) / math.sqrt(tiles.frames)
    bias = torch.stack([head.bias for head in probe.QK_heads])
    layers = (None, probe.norm1), (probe.conv[0], probe.conv[1])
    projected = Probe.apply(
        rows,
        (tiles, layers),
        weight,
        bias,
        probe.conv[0].weight.flatten(1),
        projection[0].weight.flatten(1),
        *(parameter for _, norm in layers for parameter in (norm.weight, norm.bias)),
    )
    return normalise((projection[0], projection[1]), projected, tiles)


class Probe(Function):
    """x, heads (m, T, T) with biases (m, T), two kernels, two norms: rows (.., 8) before a norm."""

    @staticmethod
    def forward(ctx, x, parts, weight, bias, *parameters):
        (tiles, layers), (kernel, last), affine = parts, parameters[:2], parameters[2:]
        affine = [(*affine[2 * i : 2 * i + 2], norm.eps) for i, (_, norm) in enumerate(layers)]
        channels, count = kernel.shape[1], tiles.count
        heads = Heads(weight, bias, channels, tiles)
        (y, ys), (out, outs), xs = tiles.new(channels), tiles.new(len(last)), x.unbind()
        moments, covariance = ChannelMoments(tiles, channels), ChannelCovariance(tiles, channels)

        def correlate(i, room):
            moments.note(i, heads.correlate(xs[i], ys[i], room), room)

        tiles.run(correlate)
        norm = Normalisation(*moments.join(), *affine[0], count)

        def take_products(i, room):
            covariance.note(i, norm.relu(ys[i], room.like(ys[i], "r")), room)

        tiles.run(take_products)
        mix, project = Mixture(kernel, *covariance.join(), *affine[1], count), Product(last.T)

        def mix_and_project(i, room):
            r = norm.relu(ys[i], room.like(ys[i], "r"))
            project.write(mix.relu(r, room.take("m", len(r), mix.channels)), outs[i])

        tiles.run(mix_and_project)
        for layer, found in zip(layers, (norm, mix.norm), strict=True):
            update_running(*layer, found)
        ctx.save_for_backward(x, y, last)
        ctx.parts = tiles, heads, norm, mix
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx, grad):
        (x, y, last), (tiles, heads, norm, mix) = ctx.saved_tensors, ctx.parts
        grads, xs, ys = (a.contiguous().unbind() for a in (grad, x, y))
        of_last, back = new_rows(tiles.pieces, *last.shape), Product(last)
        products, (_, inner) = GradientProducts(tiles, mix), tiles.new(mix.channels)

        def leave_projection(i, room):
            r = norm.relu(ys[i], room.like(ys[i], "r"))
            m = mix.relu(r, room.like(inner[i], "m"))
            write_products(grads[i], m, of_last[i])
            g = back.write(grads[i], room.like(m, "of m"))
            products.note(i, relu_gradient(g, m, out=inner[i]), r)

        tiles.run(leave_projection)
        learned_mix, mix_gradient = mix.gradients(products)
        sums, (grad_x, grad_xs) = GradientSums(tiles, norm), tiles.new(x.shape[2])

        def leave_mixture(i, room):
            r = norm.relu(ys[i], room.like(ys[i], "r"))
            g = mix_gradient(inner[i], r, room.like(r, "of r"))
            sums.note(i, relu_gradient(g, r, out=grad_xs[i]), ys[i], room)

        tiles.run(leave_mixture)
        learned_norm, gradient = norm.gradients(sums)
        matrices, offsets = heads.new_gradients()

        def leave_heads(i, room):
            g = gradient(grad_xs[i], ys[i], room.like(ys[i], "r"))
            heads.take_gradients(g, xs[i], (matrices[i], offsets[i], grad_xs[i]), room)

        tiles.run(leave_heads)
        return (
            grad_x,
            None,
            *(sum_of_pieces(found) for found in (matrices, offsets)),
            learned_mix[0],
            sum_of_pieces(of_last),
            *(*learned_norm, *learned_mix[1:]),
        )


class Heads:
    """The heads of a probe on pieces (N, C): a T x T matrix for each of m groups of channels.

    Args:
        weight, bias: (m, T, T) and (m, T).
        channels: C.
        tiles: `PixelTiles` or `ImageRows`.
    """

    def __init__(self, weight, bias, channels, tiles):
        self.weight, self.bias, self.tiles = weight, bias[..., None], tiles
        size = channels // len(weight)
        self.shape = len(weight), tiles.frames, tiles.pixels * size
        # As which numbers are copied: 16 bytes at once where groups of channels have as many.
        self.copied, self.size = (
            (torch.float32, size) if size % 4 else (torch.complex128, size // 4)
        )

    def grouped(self, rows, room, name):
        """(N, C) as (m, T, P C/m), dense."""
        groups = room.take(name, *self.shape)
        self.by_pixels(groups).copy_(self.by_groups(rows))
        return groups

    def ungroup(self, groups, out):
        """The way back from `grouped`, to `out` (N, C)."""
        self.by_groups(out).copy_(self.by_pixels(groups))
        return out

    def by_groups(self, rows):
        """(N, C) as (m, T, P, numbers copied at once); a view."""
        count, frames, _ = self.shape
        return rows.view(self.copied).view(frames, -1, count, self.size).permute(2, 0, 1, 3)

    def by_pixels(self, groups):
        """What `grouped` gives, as `by_groups` does; a view."""
        return groups.view(self.copied).unflatten(2, (-1, self.size))

    def correlate(self, rows, out, room):
        """Writes the heads' output (N, C) to `out`."""
        x = self.grouped(rows, room, "x")
        y = torch.baddbmm(self.bias, self.weight, x, out=room.like(x, "y"))
        return self.ungroup(y, out)

    def new_gradients(self):
        """Room for the gradients of weight and bias by each piece."""
        count, frames, _ = self.weight.shape
        pieces = self.tiles.pieces
        weights = self.weight.new_empty(pieces, count, frames, frames)
        return weights, self.weight.new_empty(pieces, count, frames)

    def take_gradients(self, grad, x, outs, room):
        """Writes the gradients for weight, bias and x to the three of `outs`."""
        of_weight, of_bias, of_x = outs
        grad, x = self.grouped(grad, room, "grad"), self.grouped(x, room, "x")
        torch.bmm(grad, x.transpose(1, 2), out=of_weight)
        torch.sum(grad, 2, out=of_bias)
        self.ungroup(torch.bmm(self.weight.transpose(1, 2), grad, out=x), of_x)
