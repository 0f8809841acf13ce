"""A detector as data: its forward pass, its engines and its fast training follow from this."""

from typing import NamedTuple

import torch
from torch import nn

from models.detector import Detector
from models.excerpt import make_excerpt
from models.tpro import TPro, probed_frames


class Level(NamedTuple):
    """One resolution of a detector: pools and residual blocks, temporal probe, projection."""

    layers: list
    probe: TPro
    projection: nn.Module


class Stages(NamedTuple):
    """The layers of a detector: those of `models.blocks` and `models.tpro`, and 2 x 2 max-pools.

    The clip goes through `trunk`; each of `levels` starts from the trunk's output; `merge` (1x1x1,
    BN, ReLU) mixes the levels' maps, upsampled to the size of the frames and concatenated in order;
    `final` (1x1x1) makes the logits. A detector of one level may do without `merge`: None.
    `check` refuses what is not of this form, wherever a network is run.
    """

    trunk: list
    levels: list
    merge: nn.Module | None
    final: nn.Conv3d

    def run(self, clip, merge=None):
        """The forward pass: (B, 1, T, H, W) to logits of the same shape.

        Args:
            merge: as `merge_levels`, in its place.

        Raises:
            ValueError: see `check`.
        """
        self.check()
        trunk = run_layers(self.trunk, clip)
        maps = []
        for level in self.levels:
            maps.append(level.projection(level.probe(run_layers(level.layers, trunk))))
        merged = (merge or merge_levels)(self, maps, clip.shape[-2:])
        return self.final(merged)

    def check(self):
        """Refuses a description that a forward pass and an engine would read differently.

        Raises:
            ValueError: a pool is not of 2 x 2 pixels, a level has no layer, several levels have no
                merge, or what mixes channels alone is not 1x1x1.
        """
        for layer in (*self.trunk, *(layer for level in self.levels for layer in level.layers)):
            if is_pool(layer) and not is_two_by_two(layer):
                raise ValueError(
                    f"stages with {layer}: expected MaxPool3d((1, 2, 2)) as every pool"
                )
        if not all(level.layers for level in self.levels):
            raise ValueError("stages with a level without layers: expected one at least")
        if self.merge is None and len(self.levels) != 1:
            raise ValueError(f"stages of {len(self.levels)} levels without `merge`: expected one")
        parts = [] if self.merge is None else [self.merge]
        for level in self.levels:
            parts += [getattr(level.probe, "conv", None), level.projection]
        firsts = [part[0] for part in parts if isinstance(part, nn.Sequential) and len(part)]
        for conv in (conv for conv in (*firsts, self.final) if isinstance(conv, nn.Conv3d)):
            if conv.kernel_size != (1, 1, 1):
                raise ValueError(
                    f"stages with {conv} after a level: expected a kernel of (1, 1, 1)"
                )

    def are_pooled(self):
        """For every level, whether its map is smaller than the frames."""
        trunk = any(map(is_pool, self.trunk))
        return [trunk or any(map(is_pool, level.layers)) for level in self.levels]

    def modules(self):
        """Every module, with those inside it."""
        levels = [layer for level in self.levels for layer in (*level.layers, *level[1:])]
        merge = [] if self.merge is None else [self.merge]
        for layer in (*self.trunk, *levels, *merge, self.final):
            yield from layer.modules()

    def is_temporal(self):
        """Whether all kernels act along time only, so that space enters through pools alone."""
        convolutions = [module for module in self.modules() if isinstance(module, nn.Conv3d)]
        return all(tuple(conv.kernel_size[1:]) == (1, 1) for conv in convolutions)

    def merge_matrices(self):
        """For every level, (8 or 1, 8) float64, the matrix that takes its map into the sum of all.

        The merge acts on concatenated maps, so it is a sum of one matrix for each. Without a merge
        the matrix is that of `final`.
        """
        following = self.final if self.merge is None else self.merge[0]
        return following.weight.flatten(1).double().chunk(len(self.levels), dim=1)


def acts_as(module, *kinds):
    """Whether a module is of one of these classes, and its forward pass is that of the class."""
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def is_pool(layer):
    return isinstance(layer, nn.MaxPool3d)


def is_two_by_two(pool):
    """Whether a pool takes the largest of every 2 x 2 pixels of a frame."""
    plain = pool.padding in (0, (0, 0, 0)) and pool.dilation in (1, (1, 1, 1))
    return plain and pool.kernel_size == pool.stride == (1, 2, 2) and not pool.ceil_mode


def run_layers(layers, x):
    for layer in layers:
        x = layer(x)
    return x


def merge_levels(stages, maps, size):
    """The levels' maps (B, C, T, h, w) to one of frames of `size`, mixed where there is a merge."""
    maps = [
        upsample(x, size) if pooled else x
        for x, pooled in zip(maps, stages.are_pooled(), strict=True)
    ]
    return maps[0] if stages.merge is None else stages.merge(torch.cat(maps, dim=1))


def upsample(x, size):
    """(B, C, T, h, w) to (B, C, T, *size): bilinear in space, corners aligned, time untouched."""
    return nn.functional.interpolate(
        x, size=(x.shape[2], *size), mode="trilinear", align_corners=True
    )


class StagedDetector(Detector):
    """A detector that is described by its `stages`, and runs as these say."""

    @classmethod
    def clip_length(cls, weights):
        return probed_frames(weights)

    def detect(self, clip):
        return self.stages().run(clip)

    def excerpt(self, shape, box):
        return make_excerpt(self.stages(), shape, box)
