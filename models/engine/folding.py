"""Folding: an evaluation copy of a detector without BatchNorm and difference kernels."""

import copy

import torch


@torch.no_grad()
def fold(model, dtype=None):
    """An evaluation copy of a detector in which every layer is replaced by its folded form.

    Difference kernels become plain kernels, BatchNorm goes into the convolution before it, and
    1/sqrt(T) and the norm of the temporal probe into its matrices: see each layer's `folded`. The
    model is left as it was. The copy's outputs are the model's in evaluation, up to rounding.

    What the model computes from its parameters alone, spatial-difference kernels and the scale and
    shift of a norm, is rounded as the model rounds it; it is combined in float64 and rounded once,
    to `dtype`, by default the model's.
    """
    dtype = next(model.parameters()).dtype if dtype is None else dtype
    return _fold_children(copy.deepcopy(model).eval().requires_grad_(False)).to(dtype)


def _fold_children(module):
    for name, child in module.named_children():
        if hasattr(child, "folded"):
            setattr(module, name, child.folded().eval())
        else:
            _fold_children(child)
    return module
