"""The engine for GPUs: by Triton's interpreter on a CPU, and on a GPU where there is one."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from models import build_model
from models.blocks import ConvBNReLU
from models.engine.cuda.network import CudaNetwork
from models.engine.precision import Arithmetic
from models.folding import fold
from models.fused import FusedDetector, fuse
from tests.builders import STAGED, perturbed

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def largest_error(name, frames, height, width, rows, tile, dtype):
    """Of the kernels as Triton interprets them, over bands of so many rows: (error, logits)."""
    from models.engine.cuda import network

    torch.set_num_threads(1)  # more would take larger bands
    assert network.kernels_run(torch.device("cpu"))  # what tries them calls them as they are
    for launch in (network.STEM, *network.CONVOLUTION.values(), network.HEAD):
        launch["TILE"] = tile
    model = perturbed(name, frames)
    clip = torch.randn(1, 1, frames, height, width)
    with torch.no_grad():
        expected = model.double()(clip.double())
    engine = type("Banded", (CudaNetwork,), {"band_pixels": rows * width, "tile_pixels": 32})
    arithmetic = Arithmetic(getattr(torch, dtype), torch.device("cpu"))
    fast = FusedDetector(fold(model, torch.float64), engine, arithmetic, None)
    assert fast.plan(height, width)[0] == rows
    of_clips, centring = [], network.centring
    network.centring = lambda *args: of_clips.append(args) or centring(*args)
    logits = fast(clip)
    assert len(of_clips) == 1  # not of every band
    return float((logits - expected).abs().max()), float(expected.std())


@needs_triton
@pytest.mark.parametrize(
    "name, size, rows, tile, dtype, share",
    [
        ("DeepPro", (3, 13, 9), 8, 64, "float32", 1e-4),
        ("DeepPro-Plus", (3, 10, 9), 10, 128, "float32", 1e-4),
        ("DeepPro-Plus_forMovingScenes", (1, 61, 4), 32, 256, "float32", 1e-4),
        ("DeepPro", (3, 6, 9), 8, 64, "float16", 0.03),
        ("DeepPro-Plus", (3, 5, 9), 5, 64, "float16", 0.03),
    ],
)  # fmt: skip
def test_kernels_are_the_network_in_float64_up_to_rounding(name, size, rows, tile, dtype, share):
    call = f"largest_error({name!r}, *{size}, {rows}, {tile}, {dtype!r})"
    words = f"from tests.models.test_cuda_engine import largest_error; print(*{call})"
    command, env = [sys.executable, "-c", words], {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    error, spread = map(float, done.stdout.split())
    assert spread > 0.001
    assert error < share * spread


def test_on_a_cpu_other_engines_are_taken():
    stages = fold(build_model("DeepPro"), torch.float64).stages()
    assert not CudaNetwork.computes_in(Arithmetic(torch.float32, torch.device("cpu")))
    assert CudaNetwork.takes(stages)
    assert not isinstance(fuse(build_model("DeepPro")).engine, CudaNetwork)


def test_what_the_kernels_would_compute_otherwise_is_refused_and_runs_as_trained():
    for kernel, padding, channels in (
        ((5, 3, 3), (2, 1, 1), 8),  # taken by no other engine
        ((5, 1, 3), (2, 0, 1), 8),
        ((4, 1, 1), (2, 0, 0), 8),
        ((5, 1, 1), (2, 0, 0), 64),
    ):
        model = build_model("DeepPro", 5)
        model.conv_in = ConvBNReLU(nn.Conv3d(1, channels, kernel, padding=padding))
        taken = CudaNetwork.takes(fold(model, torch.float64).stages())
        assert taken == (kernel == (5, 3, 3))
    model.conv_in = ConvBNReLU(nn.Conv3d(1, 8, (5, 3, 3), padding=(2, 1, 1)))
    clip = torch.randn(1, 1, 5, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(fuse(model)(clip), model.eval()(clip))


@needs_gpu
@pytest.mark.parametrize("precision, largest", [("fp32", 1e-3), ("bf16", 0.5), ("fp16", 0.1)])
@pytest.mark.parametrize("name", STAGED)
def test_on_a_gpu_logits_are_those_of_float64(name, precision, largest):
    """`largest`: of their distances, as a share of the logits' standard deviation."""
    model = perturbed(name, build_model(name).seqlen)
    clip = torch.randn(2, 1, model.seqlen, 53, 70)
    with torch.no_grad():
        expected = model.double()(clip.double())
    logits = fuse(model.float().cuda(), precision)(clip.cuda()).double().cpu()
    assert float((logits - expected).abs().max()) < largest * float(expected.std())


@needs_gpu
@pytest.mark.parametrize("name", STAGED)
def test_on_a_gpu_bands_change_nothing(name):
    model = perturbed(name, build_model(name).seqlen).cuda()
    clip = torch.randn(2, 1, model.seqlen, 101, 60, device="cuda")
    whole = fuse(model)
    needed = whole.memory_needed(32, 1 << 16, 60)
    banded = fuse(model, memory=needed)
    assert banded.plan(101, 60)[0] < 101
    logits = whole(clip)
    torch.testing.assert_close(banded(clip), logits, rtol=1e-5, atol=1e-5)
