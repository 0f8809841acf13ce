"""A residual block of `models.blocks` and its gradients, in passes over pieces of its maps.

A BatchNorm needs its input's moments before it normalises: there a pass ends. Within one, a piece
stays in cache. Kept for the gradients are a block's input and output and what its two convolutions
put out; the rest is computed again, and 1x1x1 convolutions never need to be: see `Mixture`.
"""

from torch.autograd import Function

from models.difference_conv import kernel_of
from models.engine.onednn import relu_gradient
from models.engine.training.backward import differentiable_once
from models.engine.training.maps import TimeKernel
from models.engine.training.moments import (
    ChannelCovariance,
    ChannelMoments,
    GradientProducts,
    GradientSums,
    Mixture,
    Normalisation,
    update_running,
)


def run_block(block, rows, pieces):
    """A residual block in training: rows (pieces, N, C_in) to (pieces, N, C_out).

    Args:
        block: a `models.blocks.ResBlock`.
        pieces: `PixelTiles`, whose convolutions act along time, or `Volumes`, for all others.
    """
    convs, shortcut = (block.conv1, block.conv2), block.shortcut[0]
    norms = block.bn1, block.bn2, block.bn3, block.shortcut[1]
    affine = [(norm.weight, norm.bias) for norm in norms]
    layers = list(zip((*convs, block.conv3, shortcut), norms, strict=True))
    moments = ChannelMoments(pieces, block.conv1.out_channels)
    if pieces.act_along_time:
        parts = pieces, convs, moments, norms[0]
        y = TwoConvolutions.apply(rows, parts, *map(kernel_of, convs), *affine[0])
    else:
        y = pieces.convolve(convs[0], rows)
        y = pieces.convolve(convs[1], normalise(layers[0], y, pieces))
        moments.note_all(y)
    return BlockEnd.apply(
        y,
        rows,
        (pieces, moments, layers[1:]),
        block.conv3.weight.flatten(1),
        shortcut.weight.flatten(1),
        *(parameter for pair in affine[1:] for parameter in pair),
    )


class TwoConvolutions(Function):
    """conv2(relu(bn1(conv1(x)))), without conv2's bias; takes the result's moments."""

    @staticmethod
    def forward(ctx, x, parts, *parameters):
        (tiles, modules, after, norm), (*kernels, weight, shift) = parts, parameters
        convs = [
            TimeKernel(kernel.flatten(2), conv.padding[0], conv.dilation[0], tiles)
            for kernel, conv in zip(kernels, modules, strict=True)
        ]
        channels, xs = len(kernels[0]), x.unbind()
        (y1, y1s), (y2, y2s) = tiles.new(channels), tiles.new(channels)
        moments = ChannelMoments(tiles, channels)

        def convolve_first(i):
            convs[0].convolve(xs[i], y1s[i])
            moments.note(i, y1s[i])

        tiles.run(convolve_first)
        norm1 = Normalisation(*moments.join(), weight, shift, norm.eps, tiles.count)
        update_running(modules[0], norm, norm1)

        def convolve_second(i):
            convs[1].convolve(norm1.relu(y1s[i]), y2s[i])
            after.note(i, y2s[i])

        tiles.run(convolve_second)
        ctx.save_for_backward(x, y1)
        ctx.parts = tiles, convs, norm1
        return y2

    @staticmethod
    @differentiable_once
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        tiles, convs, norm = ctx.parts
        channels = y.shape[2]
        grads, xs, ys = (a.contiguous().unbind() for a in (grad, x, y))
        kernels1, kernels2 = (x.new_empty(tiles.pieces, *conv.shape) for conv in convs)
        (grad_x, grad_xs), (_, inner) = tiles.new(x.shape[2]), tiles.new(channels)
        sums = GradientSums(tiles, norm)

        def leave_second(i):
            r = norm.relu(ys[i])
            convs[1].note_gradient(grads[i], r, kernels2[i])
            g = convs[1].gradient(grads[i])
            sums.note(i, relu_gradient(g, r, out=inner[i]), ys[i])

        tiles.run(leave_second)
        learned, gradient = norm.gradients(sums)

        def leave_first(i):
            g = gradient(inner[i], ys[i])
            convs[0].note_gradient(g, xs[i], kernels1[i])
            convs[0].gradient(g, out=grad_xs[i])

        tiles.run(leave_first)
        kernels = convs[0].joined(kernels1), convs[1].joined(kernels2)
        return grad_x, None, *kernels, *learned


class BlockEnd(Function):
    """relu(bn3(conv3(relu(bn2(y)))) + shortcut of x), both convolutions 1x1x1."""

    @staticmethod
    def forward(ctx, y, x, parts, kernel, beside_kernel, *affine):
        pieces, moments, layers = parts
        affine = [(*affine[2 * i : 2 * i + 2], norm.eps) for i, (_, norm) in enumerate(layers)]
        channels, count = y.shape[2], pieces.count
        (out, outs), ys, xs = pieces.new(channels), y.unbind(), x.unbind()
        norm = Normalisation(*moments.join(), *affine[0], count)
        of_r, of_x = (ChannelCovariance(pieces, a.shape[2]) for a in (y, x))

        def take_products(i):
            of_r.note(i, norm.relu(ys[i]))
            of_x.note(i, xs[i])

        pieces.run(take_products)
        main = Mixture(kernel, *of_r.join(), *affine[1], count)
        beside = Mixture(beside_kernel, *of_x.join(), *affine[2], count)
        shift = main.shift + beside.shift

        def add(i):
            main.product.write(norm.relu(ys[i]), outs[i], plus=shift)
            beside.product.add(xs[i], outs[i]).relu_()

        pieces.run(add)
        for layer, found in zip(layers, (norm, main.norm, beside.norm), strict=True):
            update_running(*layer, found)
        ctx.save_for_backward(y, x, out)
        ctx.parts = pieces, norm, main, beside
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx, grad):
        y, x, out = ctx.saved_tensors
        pieces, norm, main, beside = ctx.parts
        channels = y.shape[2]
        grads, ys, xs, outs = (a.contiguous().unbind() for a in (grad, y, x, out))
        with_r, with_x = (GradientProducts(pieces, mixture) for mixture in (main, beside))

        def take_products(i):
            g = relu_gradient(grads[i], outs[i])
            with_r.note(i, g, norm.relu(ys[i]))
            with_x.note(i, g, xs[i])

        pieces.run(take_products)
        learned_main, main_gradient = main.gradients(with_r)
        learned_beside, beside_gradient = beside.gradients(with_x)
        (grad_x, grad_xs), (grad_y, grad_ys) = pieces.new(x.shape[2]), pieces.new(channels)
        sums = GradientSums(pieces, norm)

        def leave_sum(i):
            g, r = relu_gradient(grads[i], outs[i]), norm.relu(ys[i])
            beside_gradient(g, xs[i], out=grad_xs[i])
            g = main_gradient(g, r)
            sums.note(i, relu_gradient(g, r, out=grad_ys[i]), ys[i])

        pieces.run(leave_sum)
        learned, gradient = norm.gradients(sums)
        pieces.run(lambda i: gradient(grad_ys[i], ys[i], out=grad_ys[i]))
        kernels = learned_main[0], learned_beside[0]
        affine = *learned, *learned_main[1:], *learned_beside[1:]
        return grad_y, grad_x, None, *kernels, *affine


def normalise(layer, rows, pieces):
    """relu(norm(rows)) in training, for a (convolution, norm) and what the former put out."""
    return NormaliseAndRelu.apply(rows, pieces, layer, layer[1].weight, layer[1].bias)


class NormaliseAndRelu(Function):
    """See `normalise`."""

    @staticmethod
    def forward(ctx, y, pieces, layer, *affine):
        channels, ys = y.shape[2], y.unbind()
        (out, outs), moments = pieces.new(channels), ChannelMoments(pieces, channels)
        moments.note_all(y)
        norm = Normalisation(*moments.join(), *affine, layer[1].eps, pieces.count)
        pieces.run(lambda i: norm.relu(ys[i], out=outs[i]))
        update_running(*layer, norm)
        ctx.save_for_backward(y, out)
        ctx.parts = pieces, norm
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx, grad):
        y, out = ctx.saved_tensors
        grads, ys, outs = (a.contiguous().unbind() for a in (grad, y, out))
        pieces, norm = ctx.parts
        (grad_y, grad_ys), sums = pieces.new(y.shape[2]), GradientSums(pieces, norm)

        def take_sums(i):
            sums.note(i, relu_gradient(grads[i], outs[i], out=grad_ys[i]), ys[i])

        pieces.run(take_sums)
        learned, gradient = norm.gradients(sums)
        pieces.run(lambda i: gradient(grad_ys[i], ys[i], out=grad_ys[i]))
        return grad_y, None, None, *learned
