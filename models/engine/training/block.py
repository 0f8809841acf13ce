"""A residual block of `models.blocks` and its gradients, in passes over pieces of its maps.

A BatchNorm needs its input's moments before it normalises, and backward the sums of the gradient
for its output: there a pass ends. Within one, a piece stays in cache, and so does what is computed
from it, in `room`s that a thread uses again. Kept for the gradients are a block's input and output
and what its two convolutions put out; the rest is computed again, and 1x1x1 convolutions never need
to be: see `Mixture`.
"""

from torch.autograd import Function

from models.difference_conv import kernel_of
from models.engine.onednn import relu_gradient
from models.engine.training.backward import differentiable_once
from models.engine.training.convolutions import TimeKernel, convolve_volumes
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
    layers = list(zip((*convs, block.conv3, shortcut), norms, strict=True))
    mixing = block.conv3.weight.flatten(1), shortcut.weight.flatten(1)
    affine = [parameter for norm in norms for parameter in (norm.weight, norm.bias)]
    if pieces.act_along_time:
        kernels = map(kernel_of, convs)
        return TimeBlock.apply(rows, (pieces, layers), *kernels, *mixing, *affine)
    y = convolve_volumes(convs[0], rows, pieces)
    y = convolve_volumes(convs[1], normalise(layers[0], y, pieces), pieces)
    return VolumeBlockEnd.apply(y, rows, (pieces, layers[1:]), *mixing, *affine[2:])


class BlockEnd:
    """relu(bn3(conv3(relu(bn2(y)))) + shortcut of x), both convolutions 1x1x1, and its gradients.

    Args:
        pieces: `models.engine.training.maps.Pieces`.
        layers: (convolution, norm) of y, of conv3 and of the shortcut.
        moments, of_x: `ChannelMoments` of y and `ChannelCovariance` of x.
        kernels: of conv3 and of the shortcut, (C_out, C_in).
        affine: weight and bias of every norm.
        ys: pieces of y.
    """

    def __init__(self, pieces, layers, moments, of_x, kernels, affine, ys):
        affine = [(*affine[2 * i : 2 * i + 2], norm.eps) for i, (_, norm) in enumerate(layers)]
        self.pieces, count = pieces, pieces.count
        norm = self.norm = Normalisation(*moments.join(), *affine[0], count)
        of_r = ChannelCovariance(pieces, len(kernels[0]))
        pieces.run(lambda i, room: of_r.note(i, norm.relu(ys[i], room.like(ys[i], "r")), room))
        self.main = Mixture(kernels[0], *of_r.join(), *affine[1], count)
        self.beside = Mixture(kernels[1], *of_x.join(), *affine[2], count)
        for layer, found in zip(layers, (norm, self.main.norm, self.beside.norm), strict=True):
            update_running(*layer, found)

    def run(self, ys, xs):
        """The block's output."""
        shift = self.main.shift + self.beside.shift
        out, outs = self.pieces.new(self.main.channels)

        def add(i, room):
            r = self.norm.relu(ys[i], room.like(ys[i], "r"))
            self.main.product.write(r, outs[i], plus=shift)
            self.beside.product.add(xs[i], outs[i]).relu_()

        self.pieces.run(add)
        return out

    def gradients(self, grads, outs, ys, xs):
        """What backward needs, from the gradient for the output.

        Returns:
            (`grad_x` and its pieces), (gradient for bn2's output, and its pieces), `gradient`, that
            of bn2 as in `Normalisation.gradients`, and the gradients of kernels and of affine.
        """
        pieces, norm = self.pieces, self.norm
        with_r = GradientProducts(pieces, self.main)
        with_x = GradientProducts(pieces, self.beside, with_r)

        def take_products(i, room):
            g = relu_gradient(grads[i], outs[i], out=room.like(grads[i], "g"))
            with_r.note(i, g, norm.relu(ys[i], room.like(ys[i], "r")))
            with_x.note(i, g, xs[i])

        pieces.run(take_products)
        learned_main, main_gradient = self.main.gradients(with_r)
        learned_beside, beside_gradient = self.beside.gradients(with_x)
        grad_x, inner = pieces.new(xs[0].shape[1]), pieces.new(ys[0].shape[1])
        sums = GradientSums(pieces, norm)

        def leave_sum(i, room):
            g = relu_gradient(grads[i], outs[i], out=room.like(grads[i], "g"))
            beside_gradient(g, xs[i], out=grad_x[1][i])
            r = norm.relu(ys[i], room.like(ys[i], "r"))
            g = main_gradient(g, r, out=room.like(r, "of r"))
            sums.note(i, relu_gradient(g, r, out=inner[1][i]), ys[i], room)

        pieces.run(leave_sum)
        learned, gradient = norm.gradients(sums)
        kernels = learned_main[0], learned_beside[0]
        affine = *learned, *learned_main[1:], *learned_beside[1:]
        return grad_x, inner, gradient, kernels, affine


class TimeBlock(Function):
    """A block of (K,1,1) convolutions: x, four kernels, four norms."""

    @staticmethod
    def forward(ctx, x, parts, *parameters):
        (tiles, layers), kernels, mixing = parts, parameters[:2], parameters[2:4]
        affine = parameters[4:]
        convs = [
            TimeKernel(kernel.flatten(2), conv.padding[0], conv.dilation[0], tiles)
            for kernel, (conv, _) in zip(kernels, layers[:2], strict=True)
        ]
        channels, xs = len(kernels[0]), x.unbind()
        (y1, y1s), (y2, y2s) = tiles.new(channels), tiles.new(channels)
        moments1, moments2 = (ChannelMoments(tiles, channels) for _ in convs)
        of_x = ChannelCovariance(tiles, x.shape[2])

        def convolve_first(i, room):
            moments1.note(i, convs[0].convolve(xs[i], y1s[i]), room)
            of_x.note(i, xs[i], room)

        tiles.run(convolve_first)
        norm1 = Normalisation(*moments1.join(), *affine[:2], layers[0][1].eps, tiles.count)
        update_running(*layers[0], norm1)

        def convolve_second(i, room):
            r = norm1.relu(y1s[i], room.like(y1s[i], "r"))
            moments2.note(i, convs[1].convolve(r, y2s[i]), room)

        tiles.run(convolve_second)
        end = BlockEnd(tiles, layers[1:], moments2, of_x, mixing, affine[2:], y2s)
        out = end.run(y2s, xs)
        ctx.save_for_backward(x, y1, y2, out)
        ctx.parts = tiles, convs, norm1, end
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx, grad):
        tiles, convs, norm, end = ctx.parts
        grads, xs, ys, y2s, outs = (a.contiguous().unbind() for a in (grad, *ctx.saved_tensors))
        (grad_x, grad_xs), (_, inner), gradient, mixing, affine = end.gradients(
            grads, outs, y2s, xs
        )
        kernels1, kernels2 = (grad.new_empty(tiles.pieces, *conv.shape) for conv in convs)
        sums = GradientSums(tiles, norm)

        def leave_second(i, room):
            g = gradient(inner[i], y2s[i], room.like(inner[i], "g"))
            r = norm.relu(ys[i], room.like(ys[i], "r"))
            convs[1].note_gradient(g, r, kernels2[i])
            g = convs[1].gradient(g, room.like(ys[i], "of r"))
            sums.note(i, relu_gradient(g, r, out=inner[i]), ys[i], room)

        tiles.run(leave_second)
        learned, gradient1 = norm.gradients(sums)

        def leave_first(i, room):
            g = gradient1(inner[i], ys[i], room.like(ys[i], "g"))
            convs[0].note_gradient(g, xs[i], kernels1[i])
            convs[0].add_gradient(g, grad_xs[i])

        tiles.run(leave_first)
        kernels = convs[0].joined(kernels1), convs[1].joined(kernels2)
        return grad_x, None, *kernels, *mixing, *learned, *affine


class VolumeBlockEnd(Function):
    """`BlockEnd` of y and x, with two kernels and three norms."""

    @staticmethod
    def forward(ctx, y, x, parts, *parameters):
        pieces, layers = parts
        moments, of_x = ChannelMoments(pieces, y.shape[2]), ChannelCovariance(pieces, x.shape[2])
        ys, xs = y.unbind(), x.unbind()

        def note(i, room):
            moments.note(i, ys[i], room)
            of_x.note(i, xs[i], room)

        pieces.run(note)
        end = BlockEnd(pieces, layers, moments, of_x, parameters[:2], parameters[2:], ys)
        out = end.run(ys, xs)
        ctx.save_for_backward(out, y, x)
        ctx.end = end
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx, grad):
        grads, outs, ys, xs = (a.contiguous().unbind() for a in (grad, *ctx.saved_tensors))
        (grad_x, _), (grad_y, inner), gradient, kernels, affine = ctx.end.gradients(
            grads, outs, ys, xs
        )
        ctx.end.pieces.run(
            lambda i, room: inner[i].copy_(gradient(inner[i], ys[i], room.like(ys[i], "g")))
        )
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
        pieces.run(lambda i, room: moments.note(i, ys[i], room))
        norm = Normalisation(*moments.join(), *affine, layer[1].eps, pieces.count)
        pieces.run(lambda i, _: norm.relu(ys[i], outs[i]))
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

        def take_sums(i, room):
            sums.note(i, relu_gradient(grads[i], outs[i], out=grad_ys[i]), ys[i], room)

        pieces.run(take_sums)
        learned, gradient = norm.gradients(sums)
        pieces.run(
            lambda i, room: grad_ys[i].copy_(gradient(grad_ys[i], ys[i], room.like(ys[i], "g")))
        )
        return grad_y, None, None, *learned
