"""Folding: what a detector computes in evaluation, without BatchNorm and difference kernels."""

import copy

import torch
from torch import nn

from models.difference_conv import kernel_of


@torch.no_grad()
def fold(model, dtype=None):
    """An evaluation copy of a detector in which every layer that can has folded its norms.

    Difference kernels become plain kernels, a BatchNorm goes into the convolution before it, and
    1/sqrt(T) and the norm of the temporal probe into its matrices: see each layer's `fold_norms`.
    The model is left as it was. The copy's outputs are the model's in evaluation, up to rounding.

    The scale and shift of a norm are rounded as the model rounds them; all else is computed in
    float64 and rounded once, to `dtype`, by default the model's.

    Raises:
        ValueError: a number is NaN or infinite in float32. ReLUs of libraries turn these into
            scores.
    """
    if dtype is None:
        dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    layers = [(name, x) for name, x in folded.named_modules() if hasattr(x, "fold_norms")]
    for _, layer in layers:
        layer.fold_norms()
    for name, layer in layers:
        for key, value in layer.state_dict().items():
            if value.is_floating_point() and not torch.isfinite(value.float()).all():
                raise ValueError(
                    f"weights whose {name}.{key}, with the norm after it, is NaN or infinite in "
                    "float32; expected numbers, and variances of 0 or more"
                )
    return folded.eval().to(dtype)


def fold_norm(conv, norm):
    """One plain `Conv3d` that does what `conv` and then `norm`, in evaluation, do.

    The scale of the norm goes into the kernel's output channels.
    """
    scale, shift = scale_and_shift(norm)
    bias = shift + scale * conv.bias.double()
    return conv_like(conv, kernel_of(conv, torch.float64) * scale.view(-1, 1, 1, 1, 1), bias)


def conv_like(conv, kernel, bias):
    """A plain `Conv3d` with the geometry of `conv`, and this kernel and bias, in their type."""
    sizes = conv.in_channels, conv.out_channels, conv.kernel_size
    geometry = conv.stride, conv.padding, conv.dilation, conv.groups, True, conv.padding_mode
    # On no device, so that nothing is drawn at random.
    plain = nn.Conv3d(*sizes, *geometry, device="meta")
    plain.weight = nn.Parameter(kernel.contiguous(), requires_grad=False)
    plain.bias = nn.Parameter(bias, requires_grad=False)
    return plain


def scale_and_shift(norm):
    """(scale, shift), (C,) float64: a BatchNorm in evaluation is y = scale x + shift.

    scale = gamma / sqrt(variance + eps) and shift = beta - scale mean are rounded as batch_norm
    rounds them on a CPU, to float32 at least: that is part of the network as trained.
    """
    dtype = torch.promote_types(norm.weight.dtype, torch.float32)
    scale = norm.weight.to(dtype) * torch.rsqrt(norm.running_var.to(dtype) + norm.eps)
    # Rounded once, as a fused multiply-add.
    shift = norm.bias.double() - scale.double() * norm.running_mean.double()
    return scale.double(), shift.to(dtype).double()
