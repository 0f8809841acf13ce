"""The first convolution and the merging of levels, with their gradients."""

import torch
from torch.autograd import Function

from models.engine.onednn import relu_gradient
from models.engine.training.backward import differentiable_once
from models.engine.training.block import normalise
from models.engine.training.few_channels import write_products
from models.engine.training.maps import Volumes
from models.engine.training.moments import (
    ChannelCovariance,
    GradientProducts,
    Mixture,
    new_rows,
    update_running,
)


def run_stem(stem, clip):
    """The first `ConvBNReLU` in training: a clip (B, 1, T, H, W) to a map (B, C, T, H, W)."""
    conv, norm, _ = stem
    volumes = Volumes(len(clip), clip.shape[2], clip.shape[3:])
    rows = volumes.convolve(conv, volumes.cut(clip))
    return volumes.join(normalise((conv, norm), rows, volumes))


def run_merge(merge, final, maps):
    """Maps (B, C, T, H, W) of all levels, at the size of the frames, to logits (B, 1, T, H, W)."""
    if merge is None:
        return final(*maps)
    conv, norm, _ = merge
    pieces = Volumes(len(maps[0]), *maps[0].shape[2:3], maps[0].shape[3:])
    learned = conv.weight.flatten(1), norm.weight, norm.bias
    last = final.weight.flatten(1), final.bias
    return pieces.join(Merge.apply((pieces, conv, norm), *learned, *last, *map(pieces.cut, maps)))


class Merge(Function):
    """Kernel, weight and bias of the norm, the last kernel and bias, maps, to logits."""

    @staticmethod
    def forward(ctx, parts, *tensors):
        (pieces, conv, norm), (kernel, weight, shift, last, last_bias, *maps) = parts, tensors
        parts = list(zip(*(rows.unbind() for rows in maps), strict=True))
        covariance = ChannelCovariance(pieces, kernel.shape[1])
        pieces.run(lambda i: covariance.note(i, torch.cat(parts[i], 1)))
        mix = Mixture(kernel, *covariance.join(), weight, shift, norm.eps, pieces.count)
        logits, outs = pieces.new(len(last))

        def project(i):
            torch.addmm(last_bias, mix.relu(torch.cat(parts[i], 1)), last.T, out=outs[i])

        pieces.run(project)
        update_running(conv, norm, mix.norm)
        ctx.save_for_backward(last, *maps)
        ctx.parts = pieces, mix
        return logits

    @staticmethod
    @differentiable_once
    def backward(ctx, grad):
        (last, *maps), (pieces, mix) = ctx.saved_tensors, ctx.parts
        parts = list(zip(*(rows.unbind() for rows in maps), strict=True))
        grads, widths = grad.contiguous().unbind(), [rows.shape[2] for rows in maps]
        kernels, sums = new_rows(pieces.pieces, *last.shape), new_rows(pieces.pieces, len(last))
        products, (_, inner) = GradientProducts(pieces, mix), pieces.new(last.shape[1])

        def leave_last(i):
            x = torch.cat(parts[i], 1)
            m = mix.relu(x)
            write_products(grads[i], m, kernels[i])
            torch.sum(grads[i], 0, out=sums[i])
            products.note(i, relu_gradient(grads[i] @ last, m, out=inner[i]), x)

        pieces.run(leave_last)
        learned, gradient = mix.gradients(products)
        of_maps, wholes = zip(*(reversed(pieces.new(width)) for width in widths), strict=True)

        def leave_mixture(i):
            found = gradient(inner[i], torch.cat(parts[i], 1))
            for out, of_map in zip(of_maps, found.split(widths, 1), strict=True):
                out[i].copy_(of_map)

        pieces.run(leave_mixture)
        of_last = (a.sum(0, dtype=torch.float64).float() for a in (kernels, sums))
        return None, *learned, *of_last, *wholes
