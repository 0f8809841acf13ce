"""What follows from the description of a detector: forward pass, folding, engine, training."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from models import build_model
from models.blocks import ConvBNReLU, ResBlock, STDResBlock, TDResBlock, projection
from models.difference_conv import SpatialDifferenceConv3d
from models.engine.training.network import FastTraining
from models.folding import fold
from models.fused import FusedDetector, UnfusedDetector, fuse
from models.stages import Level, StagedDetector, Stages, upsample
from models.tpro import TPro
from tests.builders import STAGED, perturb, perturbed


class Described(StagedDetector):
    """A detector of layers as they are given: trunk, then levels, merged if there are several."""

    seqlen, smallest_side = 6, 4

    def __init__(self, trunk, levels, channels=8):
        super().__init__()
        self.trunk = nn.ModuleList(trunk)
        self.levels = nn.ModuleList(nn.ModuleList(layers) for layers in levels)
        self.probes = nn.ModuleList(TPro(channels, heads=2, seqlen=6) for _ in levels)
        self.projections = nn.ModuleList(projection(channels, 4) for _ in levels)
        self.merge = projection(4 * len(levels), 4) if len(levels) > 1 else None
        self.final = nn.Conv3d(4, 1, kernel_size=1)

    def stages(self):
        parts = zip(self.levels, self.probes, self.projections, strict=True)
        levels = [Level([*layers], probe, last) for layers, probe, last in parts]
        return Stages([*self.trunk], levels, self.merge, self.final)


def pool():
    return nn.MaxPool3d((1, 2, 2))


def temporal_stem():
    return ConvBNReLU(nn.Conv3d(1, 4, (3, 1, 1), padding=(1, 0, 0)))


def spatial_stem():
    return ConvBNReLU(SpatialDifferenceConv3d(1, 4, (3, 3, 3), padding=1))


# What each is described by: its trunk, and the pools and blocks of its levels.
NETWORKS = {
    "one level": lambda: ([temporal_stem()], [[TDResBlock(4, 8)]]),
    "a pooled level alone": lambda: ([temporal_stem()], [[pool(), TDResBlock(4, 8)]]),
    "two levels": lambda: (
        [temporal_stem()],
        [[TDResBlock(4, 8)], [pool(), TDResBlock(4, 4), pool(), TDResBlock(4, 8)]],
    ),
    "both levels at full size": lambda: ([temporal_stem()], [[TDResBlock(4, 8)] for _ in "12"]),
    "a block in the trunk": lambda: ([temporal_stem(), TDResBlock(4, 4)], [[TDResBlock(4, 8)]]),
    "a pool in the trunk": lambda: ([temporal_stem(), pool()], [[TDResBlock(4, 8)]]),
    "a pool at the end": lambda: ([temporal_stem()], [[TDResBlock(4, 8), pool()]]),
    "two kinds of blocks": lambda: (
        [spatial_stem(), pool(), TDResBlock(4, 4)],
        [[STDResBlock(4, 8)], [TDResBlock(4, 4), pool(), STDResBlock(4, 8)]],
    ),
}
TEMPORAL = [name for name in NETWORKS if name != "two kinds of blocks"]
WITH_ENGINE = [name for name in NETWORKS if name != "a pool at the end"]


def described(name):
    torch.manual_seed(46)
    return perturb(Described(*NETWORKS[name]())).eval()


def deeppro(net, clip):
    x, size = net.conv_in(clip), clip.shape[-2:]
    level1 = net.conv_out1_1(net.TPro1(net.layer1(x)))
    level2 = net.conv_out1_2(net.TPro2(net.layer2(x)))
    level3 = net.conv_out1_3(net.TPro3(net.layer3(x)))
    levels = torch.cat([level1, upsample(level2, size), upsample(level3, size)], dim=1)
    return net.final(net.conv_out2(levels))


def deeppro_plus(net, clip):
    return net.conv_out2(net.conv_out1(net.TPro(net.layer1(net.conv_in(clip)))))


def deeppro_plus_for_moving_scenes(net, clip):
    x, size = net.layer0(net.conv_in(clip)), clip.shape[-2:]
    level1 = net.conv_out1_1(net.TPro1(net.layer1(x)))
    level2 = net.conv_out1_2(net.TPro2(net.layer2(x)))
    levels = torch.cat([upsample(level1, size), upsample(level2, size)], dim=1)
    return net.final(net.conv_out2(levels))


DEFINITIONS = deeppro, deeppro_plus, deeppro_plus_for_moving_scenes


@pytest.mark.parametrize(("name", "definition"), [*zip(STAGED, DEFINITIONS, strict=True)])
def test_the_forward_pass_is_the_papers_bit_by_bit(name, definition):
    model = perturbed(name)
    clip = torch.randn(2, 1, 5, 9, 14)
    with torch.no_grad():
        assert torch.equal(model(clip), definition(model, clip).squeeze(1))


def test_a_residual_block_is_its_equation():
    block = perturb(STDResBlock(2, 4)).eval()
    x = torch.randn(1, 2, 5, 6, 7)
    shortcut_conv, shortcut_norm = block.shortcut
    with torch.no_grad():
        y = functional.relu(block.bn1(block.conv1(x)))
        y = functional.relu(block.bn2(block.conv2(y)))
        y = block.bn3(block.conv3(y)) + shortcut_norm(shortcut_conv(x))
        assert torch.equal(block(x), functional.relu(y))


@pytest.mark.parametrize("name", STAGED)
def test_folding_keeps_the_structure_and_leaves_no_norm(name):
    folded = fold(perturbed(name))
    assert [type(layer) for layer in folded.stages().trunk] == [
        type(layer) for layer in perturbed(name).stages().trunk
    ]
    assert not any(isinstance(layer, nn.BatchNorm3d) for layer in folded.modules())
    assert {type(m) for m in folded.modules() if isinstance(m, nn.Conv3d)} == {nn.Conv3d}


@pytest.mark.parametrize("name", STAGED)
def test_weights_that_give_no_numbers_are_refused_by_every_engine(name):
    for spoil in (
        lambda norm: norm.running_var[:1].fill_(-1),
        lambda norm: (norm.weight.data[:1].fill_(3e38), norm.running_var[:1].fill_(0)),
    ):
        model = perturbed(name)
        block = next(layer for layer in model.modules() if isinstance(layer, ResBlock))
        spoil(block.bn1)
        for run in (fuse, fold):
            with pytest.raises(ValueError, match="conv1.* NaN or infinite"):
                run(model)


@pytest.mark.parametrize("name", NETWORKS)
def test_whatever_is_described_folds_and_fuses(name):
    model = described(name)
    fast = fuse(model)
    assert isinstance(fast, FusedDetector if name in WITH_ENGINE else UnfusedDetector)
    for size in ((13, 18), (4, 5)):
        clip = torch.randn(2, 1, 6, *size)
        with torch.no_grad():
            logits = model(clip)
            torch.testing.assert_close(fold(model)(clip), logits, atol=3e-6, rtol=1e-5)
        torch.testing.assert_close(fast(clip), logits, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        nn.MaxPool3d((1, 4, 4)),
        nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
        nn.MaxPool3d((1, 2, 2), ceil_mode=True),
        nn.MaxPool3d((2, 2, 2)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("place", ("trunk", "level"))
def test_a_pool_that_an_engine_would_take_for_another_is_refused(other, place):
    in_trunk = place == "trunk"
    trunk = [temporal_stem(), *([other] if in_trunk else [])]
    model = Described(trunk, [[*([] if in_trunk else [other]), TDResBlock(4, 8)]])
    for run in (model, FastTraining(model.train()), fuse):
        with pytest.raises(ValueError, match=r"expected MaxPool3d\(\(1, 2, 2\)\)"):
            run(model if run is fuse else torch.randn(1, 1, 6, 12, 12))


def test_levels_that_nothing_merges_and_levels_of_nothing_are_refused():
    two, empty = (
        Described(*NETWORKS["two levels"]()),
        Described([temporal_stem()], [[]], channels=4),
    )
    two.merge = None
    for model, message in ((two, "2 levels without `merge`"), (empty, "a level without layers")):
        for run in (model, fuse):
            with pytest.raises(ValueError, match=message):
                run(model if run is fuse else torch.randn(1, 1, 6, 12, 12))


def with_conv(conv, **changes):
    """A plain convolution of the sizes of `conv`, with these arguments in place of its own."""
    geometry = dict(padding=conv.padding, dilation=conv.dilation) | changes
    return nn.Conv3d(conv.in_channels, conv.out_channels, conv.kernel_size, **geometry)


class Doubled(TDResBlock):
    def forward(self, x):
        return 2 * super().forward(x)


def other_end(part):
    """Gives the end of a network's first level, or the merge, another activation."""

    def alter(model):
        ends = {"merge": model.merge, "projection": model.projections[0]}
        ends["probe"] = model.probes[0].conv
        ends[part][2] = nn.LeakyReLU(0.2)

    return alter


ALTERED = {
    "taps that do not sum to zero": lambda block: setattr(block, "conv1", with_conv(block.conv1)),
    "another dilation": lambda block: setattr(
        block, "conv2", with_conv(block.conv2, dilation=(2, 1, 1), padding=(2, 0, 0))
    ),
    "groups": lambda block: setattr(block, "conv2", with_conv(block.conv2, groups=2)),
    "other frames beyond the clip": lambda block: setattr(
        block, "conv2", with_conv(block.conv2, padding_mode="replicate")
    ),
    "another activation": lambda block: setattr(block, "relu", nn.LeakyReLU(0.2)),
    "a forward pass of its own": lambda block: setattr(block, "__class__", Doubled),
    "a hook": lambda block: block.register_forward_hook(lambda layer, given, out: 2 * out),
}


@pytest.mark.parametrize("altered", [*ALTERED, "merge", "projection", "probe"])
def test_a_layer_that_is_not_what_its_class_makes_is_run_as_it_is(altered):
    model = described("two levels")
    if altered in ALTERED:
        ALTERED[altered](model.levels[0][0])
    else:
        other_end(altered)(model)
    clip = torch.randn(1, 1, 6, 9, 10)
    with torch.no_grad():
        logits = model.eval()(clip)
        torch.testing.assert_close(fold(model)(clip), logits, atol=3e-6, rtol=1e-5)
    torch.testing.assert_close(fuse(model)(clip), logits, atol=3e-6, rtol=1e-5)
    assert isinstance(fuse(model), UnfusedDetector)
    fast = FastTraining(copy.deepcopy(model).train())
    expected = copy.deepcopy(model).train()(clip)
    torch.testing.assert_close(fast(clip), expected, atol=2e-4, rtol=1e-3)


def test_what_is_no_part_of_the_stages_is_no_matter():
    model = described("two levels")
    model.register_buffer("mask", torch.full((3, 3), -torch.inf))
    assert isinstance(fuse(model), FusedDetector)
    model.probes[0] = nn.Identity()  # of another kind, which runs as trained
    clip = torch.randn(1, 1, 6, 9, 10)
    with torch.no_grad():
        torch.testing.assert_close(fuse(model)(clip), model(clip), atol=3e-6, rtol=1e-5)


def test_a_network_whose_end_is_not_of_single_pixels_is_refused():
    model = described("two levels")
    model.final = nn.Conv3d(4, 1, (3, 1, 1), padding=(1, 0, 0))
    for run in (model, fuse):
        with pytest.raises(ValueError, match=r"expected a kernel of \(1, 1, 1\)"):
            run(model if run is fuse else torch.randn(1, 1, 6, 12, 12))


@pytest.mark.parametrize("name", WITH_ENGINE)
def test_whatever_has_an_engine_takes_half_precision_and_the_smallest_bands(name):
    model = described(name)
    clip = torch.randn(1, 1, 6, 19, 23)
    with pytest.raises(ValueError, match="memory budget") as refusal:
        fuse(model, memory=1)(clip)
    smallest = int(str(refusal.value).split(" need ")[1].split()[0])
    expected = fuse(model)(clip)
    torch.testing.assert_close(fuse(model, memory=smallest)(clip), expected, atol=2e-6, rtol=1e-5)
    logits = fuse(model, "bf16", force_precision=True)(clip)
    assert (torch.sigmoid(logits) - torch.sigmoid(expected)).abs().max() < 0.05


@pytest.mark.parametrize("name", NETWORKS)
def test_the_fast_training_pass_is_the_plain_one(name):
    model = described(name).train()
    clip = torch.randn(2, 1, 6, 9, 10)
    assert model.stages().is_temporal() == (name in TEMPORAL)
    assert FastTraining(model).is_fast(clip)
    other = copy.deepcopy(model)
    expected, logits = model(clip), FastTraining(other)(clip)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=2e-4)
    weight = torch.randn_like(logits)
    (expected * weight).sum().backward()
    (logits * weight).sum().backward()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        # Biases before a norm have no gradient but rounding.
        assert (one.grad - two.grad).norm() <= 0.01 * one.grad.norm() + 1e-3
    for one, two in zip(model.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-5)


def test_a_probe_tells_the_length_of_its_clips():
    for name in STAGED:
        model = build_model(name, 7)
        assert type(model).clip_length(model.state_dict()) == model.seqlen == 7
        assert type(model).clip_length({}) is None
