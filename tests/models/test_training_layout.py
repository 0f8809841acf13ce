"""The fast training pass against the plain one; the golden trace is in `test_models`."""

import copy
import os
import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional

from models import build_model
from models.blocks import STDResBlock
from models.difference_conv import TemporalDifferenceConv3d
from models.engine import onednn
from models.engine.tape import Scratch
from models.engine.training import winograd
from models.engine.training.few_channels import Product, write_products
from models.engine.training.maps import FLOAT32, ImageRows, Pieces, PixelTiles, Volumes
from models.engine.training.moments import ChannelMoments
from models.engine.training.network import FastTraining
from models.tpro import ProbeHeads
from tests.builders import STAGED
from tests.models.test_models import biases_before_batchnorm


def assert_same_training(plain, other, expected, logits):
    """Two passes with the same clip: outputs, gradients, running statistics."""
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=2e-4)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (logits * weight).sum().backward()
    before_norm = biases_before_batchnorm(plain)
    for (key, one), two in zip(plain.named_parameters(), other.parameters(), strict=True):
        if key not in before_norm:
            assert (one.grad - two.grad).norm() < 0.01 * one.grad.norm(), key
    for one, two in zip(plain.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", STAGED)
@pytest.mark.parametrize("shape", [(2, 5, 6), (1, 13, 9)])
def test_output_gradients_and_statistics_are_those_of_the_plain_pass(name, shape):
    batch, height, width = shape
    torch.manual_seed(
        1
    )  # of others, some have a number so near 0 that its ReLU is left to rounding
    plain = build_model(name, 10).train()
    fast = copy.deepcopy(plain)
    clip = torch.randn(batch, 1, 10, height, width)
    assert FastTraining(fast).is_fast(clip)
    assert_same_training(plain, fast, plain(clip), FastTraining(fast)(clip))


def test_it_needs_none_of_torchs_private_operators(monkeypatch):
    monkeypatch.setattr("models.engine.onednn.has_operator", lambda name: False)
    plain = build_model("DeepPro", 5).train()
    fast, clip = copy.deepcopy(plain), torch.randn(1, 1, 5, 9, 7)
    assert_same_training(plain, fast, plain(clip), FastTraining(fast)(clip))


def test_a_norm_that_is_kept_as_it_is_stays_so():
    plain = build_model("DeepPro", 5).train()
    plain.layer2.eval()
    fast, clip = copy.deepcopy(plain), torch.randn(1, 1, 5, 9, 7)
    before = copy.deepcopy(plain.layer2.state_dict())
    torch.testing.assert_close(FastTraining(fast)(clip), plain(clip), rtol=1e-3, atol=2e-4)
    assert all(torch.equal(fast.layer2.state_dict()[key], before[key]) for key in before)


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler"
)
def test_a_compiled_block_is_the_plain_one_within_rounding(monkeypatch):
    # torch's cache of compiled code does not ask for which instruction set that was made.
    capability = torch.backends.cpu.get_cpu_capability()
    monkeypatch.setattr("torch.compiler.config.cache_key_tag", capability)
    # A whole network takes half a minute to compile.
    plain = nn.Sequential(STDResBlock(2, 4), nn.Conv3d(4, 1, 1)).train()
    compiled = copy.deepcopy(plain)
    clip = torch.randn(2, 2, 5, 9, 7)
    assert_same_training(plain, compiled, plain(clip), torch.compile(compiled)(clip))


def test_moments_are_exact_over_many_positions():
    rows = torch.randn(7, 5000, 8) + 100
    moments = ChannelMoments(Pieces(7, 5000), 8)
    for piece in range(7):
        moments.note(piece, rows[piece], Scratch(FLOAT32))
    mean, variance = moments.join()
    exact = rows.double().flatten(0, 1)
    torch.testing.assert_close(mean, exact.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(variance, exact.var(0, correction=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 640])
@pytest.mark.parametrize("columns", [(8, 1), (16, 8), (8, 8), (3, 5), (32, 24), (8, 32)])
def test_products_of_few_channels_are_those_of_the_formula(count, columns):
    sizes = (count, columns[0]), (count, columns[1]), columns[1:], columns
    x, y, bias, matrix = (torch.randn(size, dtype=torch.float64) for size in sizes)
    product, out = Product(matrix), torch.full_like(y, torch.nan)
    torch.testing.assert_close(product.write(x), x @ matrix)
    torch.testing.assert_close(product.write(x, out, plus=bias), x @ matrix + bias)
    torch.testing.assert_close(product.add(x, out), 2 * (x @ matrix) + bias)
    for a, b in ((x, y), (y, x), (x, x)):
        sums = a.new_full((a.shape[1], b.shape[1]), torch.nan)
        write_products(a, b, sums)
        torch.testing.assert_close(sums, (a[:, :, None] * b[:, None]).sum(0))


@pytest.mark.parametrize("size", [(1, 1), (5, 6), (13, 9), (127, 127), (128, 128), (1, 2053)])
def test_pieces_take_maps_of_every_size_there_and_back(size):
    x = torch.randn(2, 3, 4, *size)
    for pieces in (PixelTiles(2, 4, size), Volumes(2, 4, size), ImageRows(2, 4, size)):
        rows = pieces.cut(x)
        assert rows.shape == (pieces.pieces, pieces.positions, 3)
        assert torch.equal(pieces.join(rows), x)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("rows, width, frames", [(1, 1, 1), (3, 5, 2), (7, 3, 4), (17, 9, 6)])
@pytest.mark.parametrize("dilation", [(2, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize("differences", [False, True])
def test_convolutions_of_four_rows_are_those_of_the_formula(
    fused, rows, width, frames, dilation, differences, monkeypatch
):
    monkeypatch.setattr(onednn, "has_fused_convolution", lambda dtype: fused)
    x = torch.randn(2, rows, frames, width, 16, requires_grad=True)
    kernel = torch.randn(24, 16, 2 if differences else 3, 3, 3, requires_grad=True)
    given = [a.detach().double().requires_grad_() for a in (x, kernel)]
    taps = given[1]
    if differences:  # as `difference_taps` gives them, of a kernel that sums to zero
        earlier, later = taps.unbind(2)
        taps = torch.stack([-earlier, earlier - later, later], 2)
    expected = functional.conv3d(
        given[0].permute(0, 4, 2, 1, 3), taps, padding=dilation, dilation=dilation
    ).permute(0, 3, 2, 4, 1)
    monkeypatch.setattr(winograd, "NUMBERS", 3 * frames * width * 24)  # three fours a task
    monkeypatch.setattr(winograd, "PARTS", 3)
    found = winograd.RowsConvolution.apply(x, kernel, dilation)
    weight = torch.randn_like(found)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    pairs = (found, expected), (x.grad, given[0].grad), (kernel.grad, given[1].grad)
    for one, other in pairs:
        assert (one - other).abs().max() < 5e-6 * other.abs().max()


def altered(change):
    """A network of one level, 2 x 1 x 6 x 9 x 10 pixels, to which `change` was applied."""
    model = build_model("DeepPro", 6).train()
    change(model)
    return model


def replace_first(**options):
    """Gives the first convolution of a block other options."""

    def change(model):
        block = model.layer1[0]
        kept = {"padding": (2, 0, 0), "dilation": (2, 1, 1)} | options
        block.conv1 = TemporalDifferenceConv3d(8, 16, (3, 1, 1), **kept)

    return change


UNKNOWN = {
    "replicated borders": replace_first(padding_mode="replicate"),
    "groups": replace_first(groups=2),
    "a hook": lambda model: model.layer2[1].register_forward_hook(lambda *_: None),
    "a hook before": lambda model: model.layer2[1].register_forward_pre_hook(lambda *_: None),
    "no last bias": lambda model: setattr(model, "final", nn.Conv3d(8, 1, 1, bias=False)),
    "a norm without momentum": lambda model: setattr(model.layer1[0].bn1, "momentum", None),
    "a norm that is kept": lambda model: model.layer1[0].bn1.eval(),
    "a norm of many processes": lambda model: setattr(
        model.layer1[0], "bn1", nn.SyncBatchNorm(16, momentum=0.2)
    ),
    "heads without bias": lambda model: setattr(
        model.TPro1, "QK_heads", ProbeHeads(nn.Linear(6, 6, bias=False) for _ in range(4))
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_network_of_other_layers_is_trained_as_it_is(case):
    assert FastTraining(altered(lambda model: None)).is_fast(torch.randn(2, 1, 6, 9, 10))
    assert not FastTraining(altered(UNKNOWN[case])).is_fast(torch.randn(2, 1, 6, 9, 10))


@pytest.mark.parametrize("weight, bias", [(0.0, 1.0), (1e-3, 10.0), (-0.02, 1.0)])
def test_channels_that_hardly_vary_have_the_gradients_of_the_plain_pass(weight, bias):
    plain = build_model("DeepPro", 6).train()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.constant_(module.weight, weight)
            nn.init.constant_(module.bias, bias)
    fast, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    clip = torch.randn(2, 1, 6, 32, 24)
    for model, x in ((plain, clip), (FastTraining(fast), clip), (exact, clip.double())):
        model(x).square().sum().backward()
    before_norm = biases_before_batchnorm(plain)
    rounding = 3e-6 * max(parameter.grad.norm() for parameter in exact.parameters())
    for (key, one), two, true in zip(
        plain.named_parameters(), fast.parameters(), exact.parameters(), strict=True
    ):
        if key not in before_norm:
            allowed = 3 * (one.grad - true.grad).norm() + 1e-3 * true.grad.norm() + rounding
            assert (two.grad - true.grad).norm() <= allowed, key


def test_one_value_per_channel_is_refused_as_the_plain_pass_refuses_it():
    for name in ("DeepPro", "DeepPro-Plus_forMovingScenes"):
        model, clip = build_model(name, 1).train(), torch.randn(1, 1, 1, 4, 4)
        for network in (FastTraining(model), model):
            with pytest.raises(ValueError, match="when training"):
                network(clip)


def test_a_pass_in_inference_mode_leaves_later_ones_alone():
    model, clip = build_model("DeepPro", 5).train(), torch.randn(1, 1, 5, 8, 8)
    with torch.inference_mode():
        FastTraining(copy.deepcopy(model))(clip)
    FastTraining(model)(clip).sum().backward()


def test_second_derivatives_are_refused():
    model = build_model("DeepPro", 5).train()
    logits = FastTraining(model)(torch.randn(1, 1, 5, 8, 8)).sum()
    weight = model.conv_out2[0].weight
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(logits, weight, create_graph=True)
