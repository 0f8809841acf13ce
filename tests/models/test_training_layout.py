"""The fast training pass against the plain one; the golden trace is in `test_models`."""

import copy
import os
import shutil

import pytest
import torch
from torch import nn

from models import build_model
from models.blocks import STDResBlock
from models.engine.training.maps import Pieces, PixelTiles, Volumes
from models.engine.training.moments import ChannelMoments
from models.engine.training.network import FastTraining
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
        moments.note(piece, rows[piece])
    mean, variance = moments.join()
    exact = rows.double().flatten(0, 1)
    torch.testing.assert_close(mean, exact.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(variance, exact.var(0, correction=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (5, 6), (13, 9), (127, 127), (128, 128), (1, 2053)])
def test_pieces_take_maps_of_every_size_there_and_back(size):
    x = torch.randn(2, 3, 4, *size)
    for pieces in (PixelTiles(2, 4, size), Volumes(2, 4, size)):
        rows = pieces.cut(x)
        assert rows.shape == (pieces.pieces, pieces.positions, 3)
        assert torch.equal(pieces.join(rows), x)
