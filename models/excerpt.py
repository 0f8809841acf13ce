"""Excerpts: the part of a frame that a few logits depend on, and the network on it alone.

Where a network sees locally, what the logits of one target depend on is a small part of the frame,
and what can be learned from the network there, gradients above all, costs a small part of the work.
"""

import math
from typing import NamedTuple

import torch
from torch import nn

from models.engine.interpolation import Interpolation


class Excerpt(NamedTuple):
    """Rows [top, bottom) and columns [left, right) of a frame, with the network that runs on them.

    `network` takes clips (B, 1, T, bottom - top, right - left) and gives logits of that size. Up to
    rounding, those of the box that the excerpt was made for are the logits of the whole frame;
    those around it are not.
    """

    top: int
    left: int
    bottom: int
    right: int
    network: nn.Module


def make_excerpt(stages, shape, box):
    """The smallest `Excerpt` that the network's pools allow.

    Args:
        stages: `models.stages.Stages` of the network.
        shape: (height, width) of the frames.
        box: (top, left, bottom, right) of the logits that are wanted, half open.

    Raises:
        ValueError: the box is empty or reaches out of the frame.
    """
    spans = []
    for low, high, size in zip(box[:2], box[2:], shape, strict=True):
        if not 0 <= low < high <= size:
            raise ValueError(f"box {tuple(box)} in frames of {shape[0]}x{shape[1]}: expected in it")
    for axis, size in enumerate(shape):
        spans.append(_reach(stages, axis, size, (box[axis], box[axis + 2])))
    (top, bottom), (left, right) = spans
    network = ExcerptNetwork(stages, shape, (top, left))
    return Excerpt(top, left, bottom, right, network)


class ExcerptNetwork(nn.Module):
    """A network described by its `Stages`, on a part of frames that begins at `corner`.

    It computes as the network itself does, but places the levels' maps, which are upsampled with
    the corners of the whole frame aligned, as they lie in the whole frame.

    Args:
        stages: `models.stages.Stages`.
        shape: (height, width) of the whole frames.
        corner: (row, column) of the part's first pixel, multiples of every level's pooling.
    """

    def __init__(self, stages, shape, corner):
        super().__init__()
        self.stages, self.shape, self.corner = stages, shape, corner

    def forward(self, clip):
        return self.stages.run(clip, merge=self._merge_levels).squeeze(1)

    def _merge_levels(self, stages, maps, size):
        """As `models.stages.merge_levels`, with the levels' maps where they are in whole frames."""
        for i, level in enumerate(stages.levels):
            pooling = _pooling([*stages.trunk, *level.layers])
            for axis in (0, 1) if pooling > 1 else ():
                maps[i] = self._enlarge(maps[i], axis, size[axis], pooling)
        merged = torch.cat(maps, dim=1)
        return merged if stages.merge is None else stages.merge(merged)

    def _enlarge(self, x, axis, size, pooling):
        """A level's map upsampled along rows (axis 0) or columns (1) to `size` of them."""
        whole, first = self.shape[axis], self.corner[axis]
        rows, shown = Interpolation(whole // pooling, whole), slice(first, first + size)
        # What lies behind the last one is of no pixel of the box.
        last = x.shape[3 + axis] - 1
        low, high = (
            x.index_select(3 + axis, (index[shown] - first // pooling).clamp(0, last).to(x.device))
            for index in (rows.before, rows.after)
        )
        weight = rows.weight[shown].to(x).view(-1, *(1,) * (1 - axis))
        return low * (1 - weight) + high * weight


def _reach(stages, axis, size, wanted):
    """[first, end) of the rows (axis 0) or columns (1) that the wanted logits depend on."""
    spans, coarsest = [], 1
    for level in stages.levels:
        layers = [*stages.trunk, *level.layers]
        pooling = _pooling(layers)
        coarsest = max(coarsest, pooling)
        low, high = wanted
        if pooling > 1:
            rows = Interpolation(size // pooling, size)
            low, high = int(rows.before[low]), int(rows.after[high - 1]) + 1
        for layer in reversed(layers):
            factor = _pooling([layer])
            if factor > 1:
                low, high = low * factor, high * factor
            else:
                radius = _radius(layer, axis)
                low, high = low - radius, high + radius
        spans.append((low, high))
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    low = max(low, 0) // coarsest * coarsest
    high = math.ceil(high / coarsest) * coarsest
    # Pools leave out what is left at the end of a frame, so no excerpt ends shortly before it.
    return low, size if high + coarsest > size else high


def _pooling(layers):
    """By what factor the max-pools among these layers make a map smaller."""
    return math.prod(x.kernel_size[1] for x in layers if isinstance(x, nn.MaxPool3d))


def _radius(layer, axis):
    """How far the convolutions of a layer, one after the other, reach along rows or columns."""
    convs = (module for module in layer.modules() if isinstance(module, nn.Conv3d))
    return sum(conv.dilation[1 + axis] * (conv.kernel_size[1 + axis] // 2) for conv in convs)
