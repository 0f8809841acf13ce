"""What every engine is: the contract with `models.fused`, and the form of network that it knows."""

from torch import nn

from models.blocks import ConvBNReLU, ResBlock, STDResBlock, TDResBlock
from models.stages import acts_as, is_pool
from models.tpro import ChannelHeads, TPro


class Engine:
    """Runs a folded detector over a clip that arrives in bands of rows, top to bottom.

    Subclasses give the following, beside what is here.

        __init__(stages, seqlen, arithmetic): lays out the weights.
        start(clip, rows): this clip (T, H, W) follows, in bands of `rows` rows, the last of which
            may have fewer; returns (height, width) of each level's map.
        push(clip, band, tile, workers): takes the clip's next rows, `band` a slice of them; gives
            the next rows of each level's map, as many as it then can, (8 or 1, T, r, w), or None;
            all after the last band. They are in memory that the next band may overwrite.
        memory_needed(rows, width, tile, threads): an upper bound of the working memory for bands of
            `rows` rows, in bytes.

    Attributes:
        seqlen: T.
        levels: each with the `offset`, (8 or 1, T) float64, that is still to be added to its map.
        map_arithmetic: of the levels' maps.
        band_multiple: of which `rows` is a multiple.
        tile_pixels: on a CPU, that stay in a core's cache.
        band_pixels: on a CPU, those of a band, for one or two threads.
    """

    band_multiple = 1
    tile_pixels = 256
    band_pixels = 8192

    @staticmethod
    def takes(stages):
        """Whether a folded network has this form: a stem, then residual blocks and pools.

        Layers are as their classes make them, and nothing is hooked onto them.
        """
        stem, *rest = stages.trunk or [None]
        layers = [*rest, *(layer for level in stages.levels for layer in level.layers)]
        ends = [level.projection for level in stages.levels]
        ends += [level.probe.conv for level in stages.levels if acts_as(level.probe, TPro)]
        ends += [] if stages.merge is None else [stages.merge]
        return (
            acts_as(stem, ConvBNReLU)
            and isinstance(stem[1], nn.Identity)
            and stem[0].dilation == (1, 1, 1)
            and all(is_pool(x) or isinstance(x, (TDResBlock, STDResBlock)) for x in layers)
            and all(map(is_residual, blocks_without_pools(stages)))
            and all(acts_as(level.probe, TPro) for level in stages.levels)
            and all(acts_as(x, ConvBNReLU) and isinstance(x[1], nn.Identity) for x in ends)
            and stages.final.bias is not None
            and all(map(is_as_made, stages.modules()))
        )

    @staticmethod
    def computes_in(arithmetic):
        """Whether it has this type on this device."""
        return True

    def device_rows(self, width):
        """The most rows that a band may have on a GPU: any number."""
        return 1 << 30

    def twin(self):
        """One of the same weights, to be run at the same time: it holds nothing of a run."""
        return self


def blocks_without_pools(stages):
    """The residual blocks of the trunk, then of the levels."""
    layers = [*stages.trunk[1:], *(layer for level in stages.levels for layer in level.layers)]
    return [layer for layer in layers if not is_pool(layer)]


def ends_in_blocks(stages):
    """Whether every level ends in a block: engines that go by rows run its head with that."""
    return not any(is_pool(level.layers[-1]) for level in stages.levels)


def is_as_made(module):
    """Whether nothing is hooked onto a module, and one of torch's computes what engines do."""
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    if isinstance(module, nn.Conv3d):
        return is_centred(module)
    # What else is in a folded network: norms that are gone, activations, pools, its own layers.
    own = isinstance(module, (nn.Sequential, ResBlock, TPro, ChannelHeads))
    return own or acts_as(module, nn.ReLU, nn.Identity, nn.MaxPool3d)


def is_centred(conv):
    """Whether it has odd kernels, as tall as wide, and an output of its input's size."""
    sizes, dilations = conv.kernel_size, conv.dilation
    keeps_size = all(
        size % 2 == 1 and padding == dilation * (size // 2)
        for size, padding, dilation in zip(sizes, conv.padding, dilations, strict=True)
    )
    plain = conv.groups == 1 and conv.stride == (1, 1, 1) and conv.padding_mode == "zeros"
    return keeps_size and plain and sizes[1] == sizes[2] and dilations[1] == dilations[2]


def is_residual(block):
    """Whether a folded block has the kernels of `TDResBlock` and `STDResBlock`, three in time.

    The first takes differences over two frames, and the second follows frame by frame.
    """
    if not acts_as(block, ResBlock):
        return False
    first, second = block.conv1, block.conv2
    taps = first.weight
    sums = taps.sum(2).abs().max() <= 1e-5 * taps.abs().max()  # of differences: 0 but for rounding
    steps = [(conv.kernel_size[0], conv.dilation[0]) for conv in (first, second)]
    return bool(sums) and steps == [(3, 2), (3, 1)]
