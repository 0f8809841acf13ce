"""Parameters and operations of a model: the efficiency columns of the published tables."""

import copy
from typing import NamedTuple

import torch
from torch import nn

COUNTED_LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm)


class Complexity(NamedTuple):
    """What a model costs.

    Attributes:
        parameters: their number.
        kib: their size as float32, in KiB; "KB" in the published tables.
        products: multiply-accumulates per predicted frame of convolutions and linear maps.
        with_norms: the same with 4 per element that BatchNorm writes, the rule that reproduces the
            published "GFLOPs".
    """

    parameters: int
    kib: float
    products: float
    with_norms: float


def complexity(detector, height=480, width=720, streaming=False):
    """The `Complexity` of a detector on frames of this size, unpadded.

    Nothing is computed: the detector runs on the meta device, where tensors have shapes only. What
    is counted is one clip, over the frames that it predicts; of a recurrent detector a frame with
    others before it. What a detector does to its clip before `detect`, and what has no weights,
    costs nothing by this rule.

    Args:
        detector: see `models.detector.Detector`.
        streaming: count its `stream`, a frame with others before it, in place of a clip.
    """
    parameters = sum(p.numel() for p in detector.parameters())
    counts = {"products": 0, "norms": 0}

    def count(module, _, output):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            counts["norms"] += 4 * output.numel()
        else:
            # Products per output value: the size of one row of the weight.
            counts["products"] += output.numel() * module.weight[0].numel()

    def restart():
        counts.update(products=0, norms=0)

    shapes = copy.deepcopy(detector).eval().to("meta")
    for module in shapes.modules():
        if isinstance(module, COUNTED_LAYERS):
            module.register_forward_hook(count)
    with torch.no_grad():
        frames = predict_once(shapes, height, width, streaming, restart) if parameters else 1
    products = counts["products"] / frames
    return Complexity(
        parameters, 4 * parameters / 1024, products, products + counts["norms"] / frames
    )


def predict_once(detector, height, width, streaming, restart):
    """Runs a detector on the meta device: the frames that it predicted since `restart` was called.

    `restart` is called when what only the first frames of a sequence cost has passed.
    """
    step = detector.stream if streaming else detector if detector.recurrent else None
    if step is None:
        clip = torch.empty(1, 1, detector.seqlen, height, width, device="meta")
        return detector.detect(clip).shape[2]
    frame = torch.empty(1, 1, height, width, device="meta")
    _, state = step(frame, None)
    restart()
    step(frame, state)
    return 1
