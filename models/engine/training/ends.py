"""The first convolution and the merging of levels, with their gradients."""

import torch
from torch.autograd import Function

from models.engine.onednn import relu_gradient
from models.engine.training.block import normalise, zeros_like
from models.engine.training.maps import Volumes
from models.engine.training.moments import ChannelProducts, Mixture, update_running


def run_stem(stem, clip):
    """The first `ConvBNReLU` in training: a clip (B, 1, T, H, W) to a map (B, C, T, H, W)."""
    conv, norm, _ = stem
    volumes = Volumes(len(clip), clip.shape[2], clip.shape[3:])
    rows = volumes.convolve(conv, volumes.cut(clip))
    return volumes.join(normalise(norm, rows, volumes, conv.bias))


def run_merge(merge, final, maps):
    """Maps (B, C, T, H, W) of all levels, at the size of the frames, to logits (B, 1, T, H, W)."""
    if merge is None:
        return final(*maps)
    conv, norm, _ = merge
    pieces = Volumes(len(maps[0]), *maps[0].shape[2:3], maps[0].shape[3:])
    learned = conv.weight.flatten(1), conv.bias, norm.weight, norm.bias
    last = final.weight.flatten(1), final.bias
    return pieces.join(Merge.apply((pieces, norm), *learned, *last, *map(pieces.cut, maps)))


class Merge(Function):
    """Kernel, bias, weight and bias of the norm, the last kernel and bias, maps, to logits."""

    @staticmethod
    def forward(ctx, parts, *tensors):
        (tiles, norm), (kernel, bias, weight, shift, last, last_bias, *maps) = parts, tensors
        pieces = list(zip(*(rows.unbind() for rows in maps), strict=True))
        products = ChannelProducts(tiles, kernel.shape[1], kernel.shape[1])

        def take_products(i):
            x = torch.cat(pieces[i], 1)
            products.note(i, x, x)

        tiles.run(take_products)
        mix = Mixture(kernel, *products.join(), weight, shift, norm.eps, tiles.count)
        logits, outs = tiles.new(len(last))

        def project(i):
            torch.addmm(last_bias, mix.relu(torch.cat(pieces[i], 1)), last.T, out=outs[i])

        tiles.run(project)
        update_running(norm, mix.norm, bias)
        ctx.save_for_backward(last, *maps)
        ctx.parts, ctx.bias = (tiles, mix), bias
        return logits

    @staticmethod
    def backward(ctx, grad):
        (last, *maps), (tiles, mix) = ctx.saved_tensors, ctx.parts
        pieces = list(zip(*(rows.unbind() for rows in maps), strict=True))
        grads, widths = grad.contiguous().unbind(), [rows.shape[2] for rows in maps]
        middle, channels = last.shape[1], sum(widths)
        of_last = ChannelProducts(tiles, len(last), middle)
        products, (_, inner) = ChannelProducts(tiles, middle, channels), tiles.new(middle)

        def leave_last(i):
            x = torch.cat(pieces[i], 1)
            m = mix.relu(x)
            of_last.note(i, grads[i], m)
            products.note(i, relu_gradient(grads[i] @ last, m, out=inner[i]), x)

        tiles.run(leave_last)
        learned, parts = mix.gradients(*products.join())
        of_maps, wholes = zip(*(reversed(tiles.new(width)) for width in widths), strict=True)

        def leave_mixture(i):
            found = mix.gradient(parts, inner[i], torch.cat(pieces[i], 1))
            for out, of_map in zip(of_maps, found.split(widths, 1), strict=True):
                out[i].copy_(of_map)

        tiles.run(leave_mixture)
        sums, products = (a.float() for a in of_last.join())
        bias = zeros_like([ctx.bias])
        return None, learned[0], *bias, *learned[1:], products, sums, *wholes
