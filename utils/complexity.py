"""Parameters and operations of a model: the efficiency columns of the published tables."""

import copy
from typing import NamedTuple

import torch
from torch import nn


class Complexity(NamedTuple):
    """What a model costs.

    Attributes:
        parameters: their number.
        kib: their size as float32, in KiB; "KB" in the published tables.
        products: multiply-accumulates per frame of convolutions and linear maps.
        with_norms: the same with 4 per element that BatchNorm writes, the rule that reproduces the
            published "GFLOPs".
    """

    parameters: int
    kib: float
    products: float
    with_norms: float


def complexity(model, height=480, width=720):
    """The `Complexity` of a detector on clips (1, 1, T, height, width), T its `seqlen`.

    Nothing is computed: the model runs on the meta device, where tensors have shapes only.
    """
    counts = {"products": 0, "norms": 0}

    def count(module, _, output):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            counts["norms"] += 4 * output.numel()
        else:
            # Products per output value: the size of one row of the weight.
            counts["products"] += output.numel() * module.weight[0].numel()

    shapes = copy.deepcopy(model).eval().to("meta")
    counted = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm)
    for module in shapes.modules():
        if isinstance(module, counted):
            module.register_forward_hook(count)
    with torch.no_grad():
        shapes(torch.empty(1, 1, model.seqlen, height, width, device="meta"))
    parameters = sum(p.numel() for p in model.parameters())
    products = counts["products"] / model.seqlen
    return Complexity(
        parameters, 4 * parameters / 1024, products, products + counts["norms"] / model.seqlen
    )
