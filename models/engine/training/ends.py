"""The first convolution, and the merging of levels to logits."""

import torch
from torch.autograd import Function

from models.engine.training.backward import differentiable_once
from models.engine.training.block import normalise
from models.engine.training.convolutions import convolve_volumes
from models.engine.training.few_channels import Product, write_products
from models.engine.training.maps import Volumes
from models.engine.training.moments import new_rows, sum_of_pieces


def run_stem(stem, clip):
    """The first `ConvBNReLU` in training: a clip (B, 1, T, H, W) to a map (B, C, T, H, W)."""
    conv, norm, _ = stem
    volumes = Volumes(len(clip), clip.shape[2], clip.shape[3:])
    rows = convolve_volumes(conv, volumes.cut(clip), volumes)
    return volumes.join(normalise((conv, norm), rows, volumes))


def run_merge(merge, final, maps):
    """Maps (B, C, T, H, W) of all levels, at the size of the frames, to logits (B, 1, T, H, W)."""
    pieces = Volumes(len(maps[0]), *maps[0].shape[2:3], maps[0].shape[3:])
    rows = [pieces.cut(x) for x in maps]
    if merge is not None:
        conv, norm, _ = merge
        mixed = Mix.apply(pieces, conv.weight.flatten(1), *rows)
        rows = [normalise((conv, norm), mixed, pieces)]
    return pieces.join(Mix.apply(pieces, final.weight.flatten(1), *rows)) + final.bias


class Mix(Function):
    """A 1x1x1 convolution without bias: a kernel (C_out, C) and rows, of C channels together."""

    @staticmethod
    def forward(ctx, pieces, kernel, *maps):
        parts = list(zip(*(rows.unbind() for rows in maps), strict=True))
        ctx.widths = [rows.shape[2] for rows in maps]
        products = [Product(part.T) for part in kernel.split(ctx.widths, 1)]
        out, outs = pieces.new(len(kernel))

        def add_up(i, _):
            products[0].write(parts[i][0], outs[i])
            for product, x in zip(products[1:], parts[i][1:], strict=True):
                product.add(x, outs[i])

        pieces.run(add_up)
        ctx.save_for_backward(kernel, *maps)
        ctx.pieces = pieces
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx, grad):
        (kernel, *maps), pieces = ctx.saved_tensors, ctx.pieces
        grads, parts = grad.contiguous().unbind(), [rows.unbind() for rows in maps]
        products = [Product(part) for part in kernel.split(ctx.widths, 1)]
        found = [new_rows(pieces.pieces, len(kernel), width) for width in ctx.widths]
        of_maps, wholes = zip(*(reversed(pieces.new(width)) for width in ctx.widths), strict=True)

        def divide_up(i, _):
            for product, xs, kernels, outs in zip(products, parts, found, of_maps, strict=True):
                write_products(grads[i], xs[i], kernels[i])
                product.write(grads[i], outs[i])

        pieces.run(divide_up)
        return None, torch.cat([sum_of_pieces(kernels) for kernels in found], 1), *wholes
