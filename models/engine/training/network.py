"""The training pass on a CPU of a detector that `models.stages` describes.

Maps are cut into pieces, which go from one BatchNorm to the next while they are in cache; see
`models.engine.training.block`. Learned tensors are the network's own: its state dict, gradients and
running statistics are those of the plain pass up to rounding, but that a bias before a BatchNorm
has a gradient of exactly 0, where the plain pass has what rounding left.
"""

import torch
from torch import nn
from torch.nn import functional

from models.blocks import ConvBNReLU, ResBlock
from models.difference_conv import DifferenceConv3d
from models.engine.training.block import run_block
from models.engine.training.ends import run_merge, run_stem
from models.engine.training.maps import ImageRows, PixelTiles, Volumes
from models.engine.training.probe import run_probe
from models.stages import acts_as, is_pool
from models.tpro import ProbeHeads, TPro


class FastTraining(nn.Module):
    """A detector whose training pass on a CPU takes the fast way; shares the network's tensors.

    Called as the network is. In evaluation mode, on other devices, in lower precision and for
    networks without a fast way it is the network.

    Args:
        network: any detector.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *inputs):
        if not self.is_fast(inputs[0]):
            return self.network(*inputs)
        self.network.check_clip(*inputs)
        return run(self.network.stages(), *inputs)

    def is_fast(self, clip):
        """Whether a call with this clip takes the fast way."""
        if (
            not self.network.training
            or clip.device.type != "cpu"
            or clip.dtype != torch.float32
            or clip.numel() == 0
            or clip.requires_grad
            or torch.is_autocast_enabled("cpu")
            or torch.is_inference_mode_enabled()  # of which memory for later calls must not be
        ):
            return False
        stages = self.network.stages()
        return stages is not None and takes(stages)


KNOWN = (
    nn.Sequential,
    nn.ModuleList,
    nn.MaxPool3d,
    nn.ReLU,
    nn.Linear,
    nn.BatchNorm3d,
    nn.Conv3d,
    DifferenceConv3d,
    ConvBNReLU,
    ResBlock,
    TPro,
    ProbeHeads,
)


def takes(stages):
    """Whether `run` knows all layers of a detector, in the form that they have here."""
    layers = [*stages.trunk[1:], *(layer for level in stages.levels for layer in level.layers)]
    return (
        len(stages.trunk) > 0
        and isinstance(stages.trunk[0], ConvBNReLU)
        and all(is_pool(layer) or isinstance(layer, ResBlock) for layer in layers)
        and stages.final.bias is not None
        and all(is_known(module) for module in stages.modules())
    )


def is_known(module):
    """Whether a module computes what its class says, in the way that it does here."""
    if not acts_as(module, *KNOWN) or module._forward_hooks or module._forward_pre_hooks:
        return False
    if isinstance(module, nn.BatchNorm3d):
        has_statistics = module.affine and module.running_mean is not None
        return module.training and has_statistics and module.momentum is not None
    if isinstance(module, nn.Conv3d):
        sizes = zip(module.kernel_size, module.padding, module.dilation, strict=False)
        return (
            module.groups == 1
            and module.stride == (1, 1, 1)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and all(
                size % 2 and padding == dilation * (size // 2) for size, padding, dilation in sizes
            )
        )
    return not isinstance(module, nn.Linear) or module.bias is not None


def run(stages, clip):
    """The pass through a detector's stages: (B, 1, T, H, W) to logits (B, T, H, W)."""
    stages.check()
    cut = PixelTiles if stages.is_temporal() else Volumes
    trunk = run_stem(stages.trunk[0], clip)
    if len(stages.trunk) > 1:
        rows, pieces = run_layers_cut(stages.trunk[1:], trunk, cut)
        trunk = pieces.join(rows)
    maps = [run_level(level, trunk, cut) for level in stages.levels]
    size = clip.shape[3:]
    maps = [
        upsample_frames(x, size) if pooled else x
        for x, pooled in zip(maps, stages.are_pooled(), strict=True)
    ]
    logits = run_merge(stages.merge, stages.final, maps).squeeze(1)
    # BatchNorms take biases before them away again: of a gradient of 0 an optimiser knows more than
    # of none.
    convs = [each for each in stages.modules() if isinstance(each, nn.Conv3d)]
    biases = [conv.bias for conv in convs if conv is not stages.final and conv.bias is not None]
    return logits + 0 * sum(bias.sum() for bias in biases)


def run_level(level, x, cut):
    """A `models.stages.Level` of a map (B, C, T, H, W)."""
    rows, pieces = run_layers_cut(level.layers, x, cut)
    if cut is not PixelTiles:
        rows, pieces = divide(pieces.join(rows), ImageRows)
    return pieces.join(run_probe(level.probe, level.projection, rows, pieces))


def run_layers_cut(layers, x, cut):
    """Pools and residual blocks of a map (B, C, T, H, W), to rows and the pieces that they are."""
    rows = pieces = None
    for layer in layers:
        if is_pool(layer):
            x = pieces.join(rows) if rows is not None else x
            x, rows = as_clips(functional.max_pool2d(as_frames(x), 2), len(x)), None
            continue
        if rows is None:
            rows, pieces = divide(x, cut)
        rows = run_block(layer, rows, pieces)
    return divide(x, cut) if rows is None else (rows, pieces)


def divide(x, cut):
    """The rows of a map (B, C, T, H, W) and the pieces that they are."""
    pieces = cut(len(x), x.shape[2], x.shape[3:])
    return pieces.cut(x), pieces


def upsample_frames(x, size):
    """Bilinear upsampling, corners aligned."""
    frames = functional.interpolate(as_frames(x), size=size, mode="bilinear", align_corners=True)
    return as_clips(frames, len(x))


def as_frames(x):
    """(B, C, T, H, W), channels innermost, as (B T, C, H, W); a view."""
    return x.permute(0, 2, 3, 4, 1).flatten(0, 1).permute(0, 3, 1, 2)


def as_clips(frames, batch):
    """The way back from `as_frames`."""
    frames = frames.permute(0, 2, 3, 1).contiguous()
    return frames.unflatten(0, (batch, -1)).permute(0, 4, 1, 2, 3)
