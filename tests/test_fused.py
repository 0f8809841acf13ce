"""The fast engine equals the network as trained: folding, bands, budgets, precisions."""

import copy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from models import build_model
from models.engine import onednn
from models.engine.budget import parse_memory
from models.engine.merge import Interpolation
from models.engine.packed import PackedTemporalNetwork
from models.engine.program import Numbers
from models.engine.rows import RowConv, RowLevel, sums_in_pieces
from models.engine.workers import Workers
from models.folding import fold
from models.fused import fuse
from tests.builders import STAGED, perturbed
from tests.conftest import REPOSITORY

GOLDEN = ["deeppro_nudt", "deeppro_noise", "deeppro_plus_nudt", "deeppro_plus_noise"]


PERTURBED = {name: perturbed(name) for name in STAGED}


def without_onednn(monkeypatch):
    """As on a processor that has none of oneDNN's layers."""
    for check in ("has_added_convolution", "has_packed_layers"):
        monkeypatch.setattr(f"models.engine.onednn.{check}", lambda: False)
    monkeypatch.setattr("models.engine.onednn.has_convolution", lambda dtype: False)


@pytest.mark.parametrize("name", STAGED)
@pytest.mark.parametrize("in_pieces", [True, False])
@pytest.mark.parametrize("seqlen", [1, 2, 5, 40])
def test_fold_and_fuse_equal_the_network(monkeypatch, name, in_pieces, seqlen):
    if not in_pieces:  # as on other processors
        without_onednn(monkeypatch)
    model = perturbed(name, seqlen)
    clip = torch.randn(2, 1, seqlen, 13, 18)
    with torch.no_grad():
        logits = model(clip)
        torch.testing.assert_close(fold(model)(clip), logits, atol=3e-6, rtol=1e-5)
    torch.testing.assert_close(fuse(model)(clip), logits, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("name", STAGED)
@settings(max_examples=8, deadline=None)
@given(
    height=st.integers(8, 30), width=st.integers(8, 30), share=st.floats(0, 1), side=st.integers()
)
def test_any_budget_gives_the_same_logits(name, height, width, share, side):
    model = PERTURBED[name]
    clip = torch.randn(1, 1, 5, height, width, generator=torch.Generator().manual_seed(side % 99))
    smallest = smallest_budget(model, clip)
    budget = int(smallest + share**3 * 20 * smallest)
    with torch.no_grad():
        torch.testing.assert_close(
            fuse(model, memory=budget)(clip), model(clip), atol=3e-6, rtol=1e-5
        )


def smallest_budget(model, clip, precision="fp32"):
    with pytest.raises(ValueError, match="memory budget") as refusal:
        fuse(model, precision, memory=1, force_precision=True)(clip)
    return int(str(refusal.value).split(" need ")[1].split()[0])


@pytest.mark.parametrize("name", STAGED)
def test_folding_in_double_precision_is_exact(name):
    model = copy.deepcopy(PERTURBED[name]).double()
    clip = torch.randn(1, 1, 5, 13, 18, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fold(model)(clip), model(clip), atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("name", STAGED)
def test_small_bands_are_used_and_change_nothing(name):
    model = PERTURBED[name]
    clip = torch.randn(1, 1, 5, 37, 21)
    smallest = smallest_budget(model, clip)
    bands = fuse(model, memory=smallest)
    assert bands.plan(37, 21)[0] == bands.engine.unit
    assert fuse(model).plan(37, 21)[0] > 30
    torch.testing.assert_close(bands(clip), fuse(model)(clip), atol=2e-6, rtol=1e-5)
    with pytest.raises(ValueError, match=f"need {smallest} "):
        fuse(model, memory=smallest - 1)(clip)


@pytest.mark.parametrize("name", STAGED)
def test_smallest_images(name):
    model = PERTURBED[name]
    for height, width in [(4, 4), (5, 4), (4, 300), (7, 6)]:
        clip = torch.randn(1, 1, 5, height, width)
        with torch.no_grad():
            torch.testing.assert_close(fuse(model)(clip), model(clip), atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize(("inside", "outside"), [(1, 7), (4, 9), (20, 41), (50, 101), (300, 5)])
def test_interpolation_is_torchs_with_its_rounding(inside, outside):
    # Large numbers show a weight that is rounded otherwise than torch rounds it.
    signal = torch.randn(1, 1, inside) * 1e4
    expected = nn.functional.interpolate(signal, outside, mode="linear", align_corners=True)
    start = outside // 3
    rows = Interpolation(inside, outside)
    first, matrix = rows.matrix(start, outside)
    found = matrix @ signal[0, 0, first : first + matrix.shape[1]]
    torch.testing.assert_close(found, expected[0, 0, start:], atol=5e-3, rtol=0)


@pytest.mark.parametrize(("inside", "outside"), [(1, 3), (4, 9), (53, 213), (75, 301)])
def test_outputs_within_reach_need_no_further_input(inside, outside):
    rows = Interpolation(inside, outside)
    for have in range(inside + 1):
        count = rows.reach(have)
        assert count == outside or rows.after[count] >= have
        assert count == 0 or rows.after[:count].max() < have
    assert rows.reach(inside) == outside


@pytest.mark.parametrize("name", ["DeepPro", "DeepPro-Plus_forMovingScenes"])
def test_wide_images_are_upsampled_in_tiles(name):
    model = PERTURBED[name]
    clip = torch.randn(1, 1, 5, 9, 301)
    with torch.no_grad():
        torch.testing.assert_close(fuse(model)(clip), model(clip), atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("name", STAGED)
def test_the_model_is_left_as_it_was(name):
    model = copy.deepcopy(PERTURBED[name]).train()
    before = copy.deepcopy(model.state_dict())
    fuse(model)(torch.randn(1, 1, 5, 8, 8))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_wrong_clip_is_refused_as_by_the_network():
    with pytest.raises(ValueError, match="made for clips of 5 frames"):
        fuse(PERTURBED["DeepPro"])(torch.zeros(1, 1, 8, 8, 8))


def test_a_clip_that_is_a_view_gives_the_same():
    clip = torch.randn(1, 1, 20, 12, 30)[:, :, 3:13:2, :, 4:27]
    for name in STAGED:
        fast = fuse(PERTURBED[name])
        torch.testing.assert_close(fast(clip), fast(clip.contiguous()))


def golden_scores(shared, released, run):
    """(network, normalised clip, stored scores) of a golden file."""
    golden = np.load(shared / "golden/network" / f"logits_{run}.npz")
    model = build_model(str(golden["model"]))
    model.load_state_dict(released(str(golden["run"]))["model_state_dict"])
    frames = torch.from_numpy(golden["frames"]).float()
    clip = ((frames - float(golden["mean"])) / float(golden["std"]))[None, None]
    return model.eval(), clip, torch.sigmoid(torch.from_numpy(golden["logits"]))


def distance(scores, others):
    return (scores.double() - others.double()).abs().max().item()


@pytest.mark.parametrize("run", GOLDEN)
def test_golden_logits_of_the_released_checkpoints(run, shared, released):
    model, clip, stored = golden_scores(shared, released, run)
    with torch.no_grad():
        plain = torch.sigmoid(model(clip))[0]
        exact = torch.sigmoid(copy.deepcopy(model).double()(clip.double()))[0]
    scores = torch.sigmoid(fuse(model)(clip))[0]
    # Where the network as trained has other sums than where the file was made, so has its stem: a
    # file of Plus is up to 1.7e-5 from exact arithmetic, and ours must be nearer to it than that.
    same_sums = distance(plain, stored) < 1e-6
    limit = 1e-5 if same_sums else max(1e-5, distance(exact, stored))
    assert distance(scores, stored) <= limit


needs_pieces = pytest.mark.skipif(
    not sums_in_pieces(Numbers(torch.float32, torch.device("cpu"))),
    reason="float32 sums are not taken in pieces on this processor",
)


@needs_pieces
@pytest.mark.parametrize("run", ["deeppro_plus_nudt", "deeppro_plus_noise"])
def test_plus_rounds_less_after_the_stem_than_the_network_as_trained(run, shared, released):
    model, clip, _ = golden_scores(shared, released, run)
    stem, rest = model.conv_in, copy.deepcopy(model).double()
    with torch.no_grad():
        plain = torch.sigmoid(model(clip))[0]
        rest.conv_in = nn.Identity()
        exact = torch.sigmoid(rest.detect(stem(clip).double()))[0, 0]
    scores = torch.sigmoid(fuse(model)(clip))[0]
    lost, lost_as_trained = ((x - exact).square().mean().sqrt() for x in (scores, plain))
    assert lost < lost_as_trained


@pytest.mark.parametrize("in_pieces", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 4), (12, 17)])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_convolution_of_rows_is_one_of_the_image(monkeypatch, in_pieces, size, frames):
    if not in_pieces:
        without_onednn(monkeypatch)
    elif not sums_in_pieces(Numbers(torch.float32, torch.device("cpu"))):
        pytest.skip("float32 sums are not taken in pieces on this processor")
    conv = nn.Conv3d(5, 6, 3, padding=(1, 2, 2), dilation=(1, 2, 2)).requires_grad_(False)
    clip = torch.randn(1, 5, frames, *size)
    numbers = Numbers(torch.float32, torch.device("cpu"))
    rows = RowConv(conv, numbers)
    padded = functional.pad(clip, (0, 0, 0, 0, 1, 1))[0].permute(2, 1, 3, 0)
    rows.start(frames + 2, size[1], numbers)
    expected = conv(clip)[0].permute(2, 1, 3, 0)
    found, done = torch.empty_like(expected), 0

    def keep(top, out):
        found[done + top : done + top + len(out)] = out

    monkeypatch.setattr("models.engine.rows.CHUNK", 20)
    with Workers(numbers) as workers:
        for band in padded.split(4):
            rows.input.append(len(band)).copy_(band)
            ready = rows.ready
            rows.run(workers, keep)
            done += ready
        rows.finish()
        rows.run(workers, keep)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_plus_starts_with_the_rounding_of_the_network_as_trained():
    model = PERTURBED["DeepPro-Plus"]
    clip = torch.randn(1, 1, 5, 19, 23)
    with torch.no_grad():
        expected = model.conv_in[1](model.conv_in[0](clip))[0].permute(2, 1, 3, 0)
    trunk = fuse(model).engine.trunk
    trunk[0].start(5, 23, trunk[0].out)
    rows = clip[0, 0].transpose(0, 1)
    found = torch.cat(
        [trunk[0].push(rows[:8], None), trunk[0].push(rows[8:], None), trunk[0].finish(None)]
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    # Nearly all the same bits; another convolution may add up in another order.
    assert (found == expected).float().mean() > 0.9


def test_heads_of_plus_round_only_their_result():
    """The same features through the heads of a detector whose numbers are all float64."""
    types = torch.float32, torch.float64
    single, double = (Numbers(dtype, torch.device("cpu")) for dtype in types)
    if not sums_in_pieces(single):
        pytest.skip("float32 sums are not taken in pieces on this processor")
    features = torch.randn(3, 32, 5 * 7)
    folded = fold(PERTURBED["DeepPro-Plus"], torch.float64).stages()
    share = next(iter(folded.shares()))
    found = []
    for numbers in (single, double):
        level = RowLevel(folded.levels[0], share, 5, numbers)
        level.start(7, numbers)
        with Workers(numbers) as workers:
            found.append(level.finish_head(features.to(numbers.dtype), 14, workers))
    assert (found[0] == found[1].float()).float().mean() > 0.999


needs_packed = pytest.mark.skipif(
    not onednn.has_packed_layers(), reason="no oneDNN layers in bfloat16 on this processor"
)


@needs_packed
@pytest.mark.parametrize("size", [(4, 4), (5, 4), (7, 7), (4, 300)])
def test_packed_layers_take_the_smallest_clips(size):
    model = perturbed("DeepPro", 1)
    clip = torch.randn(1, 1, 1, *size)
    with torch.no_grad():
        logits = fuse(model, "bf16", force_precision=True)(clip)
        torch.testing.assert_close(logits, model(clip), atol=0.02, rtol=0.02)


@needs_packed
def test_packed_layers_do_not_hide_what_is_no_number():
    clip = torch.randn(1, 1, 5, 20, 24)
    clip[0, 0, 2, 7, 9] = torch.nan
    logits = fuse(PERTURBED["DeepPro"], "bf16", force_precision=True)(clip)
    assert logits[0, :, 7, 9].isnan().all() and not logits[0, :, 15:].isnan().any()


@needs_packed
@pytest.mark.parametrize("seqlen", [1, 2, 5, 40])
def test_packed_layers_round_no_more_than_products_in_the_same_type(seqlen, monkeypatch):
    model = perturbed("DeepPro", seqlen)
    fast = fuse(model, "bf16", force_precision=True)
    assert isinstance(fast.engine, PackedTemporalNetwork)
    clip = torch.randn(2, 1, seqlen, 37, 43)
    with torch.no_grad():
        expected = model(clip)
    error = (fast(clip) - expected).abs()
    small = fuse(model, "bf16", smallest_budget(model, clip, "bf16"), force_precision=True)
    assert small.plan(37, 43)[0] == small.engine.unit < fast.plan(37, 43)[0]
    assert (small(clip) - fast(clip)).abs().max() <= error.max()
    without_onednn(monkeypatch)
    other = (fuse(model, "bf16", force_precision=True)(clip) - expected).abs()
    assert error.mean() <= 1.2 * other.mean() and error.max() <= 1.5 * other.max()


@pytest.mark.parametrize("name", STAGED)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("has_onednn", [True, False])
def test_half_precision_is_close_and_gives_float32_logits(monkeypatch, name, precision, has_onednn):
    if not has_onednn:
        without_onednn(monkeypatch)
    model = PERTURBED[name]
    clip = torch.randn(1, 1, 5, 12, 16)
    logits = fuse(model, precision, force_precision=True)(clip)
    assert logits.dtype == torch.float32
    with torch.no_grad():
        assert (torch.sigmoid(logits) - torch.sigmoid(model(clip))).abs().max() < 0.05


def test_precision_that_onednn_lacks_is_not_used_though_the_processor_has_it(monkeypatch):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    without_onednn(monkeypatch)
    with pytest.warns(UserWarning, match="cpu does not compute in bf16: using fp32"):
        fuse(PERTURBED["DeepPro"], "bf16")


def test_half_precision_falls_back_with_one_warning(monkeypatch):
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    with pytest.warns(UserWarning, match="cpu does not compute in bf16: using fp32") as warnings:
        fast = fuse(PERTURBED["DeepPro"], "bf16")
    assert len(warnings) == 1
    clip = torch.randn(1, 1, 5, 8, 8)
    assert torch.equal(fast(clip), fuse(PERTURBED["DeepPro"])(clip))


@pytest.mark.parametrize("name", STAGED)
def test_one_detector_takes_clips_of_changing_sizes_and_batches(name):
    model = PERTURBED[name]
    fast = fuse(model)
    for batch, height, width in [(1, 21, 27), (2, 40, 33), (1, 9, 64), (1, 21, 27), (1, 90, 80)]:
        clip = torch.randn(batch, 1, 5, height, width)
        with torch.no_grad():
            torch.testing.assert_close(fast(clip), model(clip), atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("name", STAGED)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_copy_of_a_used_detector_works_by_itself(name, precision):
    clip = torch.randn(1, 1, 5, 21, 27)
    fast = fuse(PERTURBED[name], precision, force_precision=True)
    expected = fast(clip)
    fast(clip)
    copied = copy.deepcopy(fast)
    fast(torch.randn(1, 1, 5, 21, 27))
    assert torch.equal(copied(clip), expected)


@pytest.mark.parametrize("name", STAGED)
def test_threads_may_share_a_detector(name):
    fast = fuse(PERTURBED[name])
    clips = [torch.randn(1, 1, 5, *size) for size in ((21, 27), (40, 33), (33, 20))] * 4
    expected = [fast(clip) for clip in clips]
    with ThreadPoolExecutor(3) as pool:
        for found, logits in zip(pool.map(fast, clips), expected, strict=True):
            torch.testing.assert_close(found, logits, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", STAGED)
def test_autocast_and_inference_mode_change_nothing(name):
    fast, clip = fuse(PERTURBED[name]), torch.randn(1, 1, 5, 12, 16)
    expected = fast(clip)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert torch.equal(fast(clip), expected)
    assert torch.equal(fast(clip), expected)


def test_threads_started_later_have_torchs_number_of_threads():
    before = torch.get_num_threads()
    fuse(PERTURBED["DeepPro"])(torch.randn(1, 1, 5, 40, 40))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == before


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="'fp8': expected one of fp32, bf16, fp16"):
        fuse(PERTURBED["DeepPro"], "fp8")


def test_memory_sizes():
    sizes = {"1GiB": 2**30, "1.5 GiB": 3 * 2**29, "500MB": 5 * 10**8, "64m": 2**26, 7: 7, "7": 7}
    assert {text: parse_memory(text) for text in sizes} == sizes
    assert parse_memory(None) is None
    for text in ("", "GiB", "-1GiB", "0", "0.1", "1 parsec", 400 * "9"):
        with pytest.raises(ValueError, match="expected a size such as"):
            parse_memory(text)


MEASURE = """
import sys, torch
from models import build_model
from models.fused import fuse

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

torch.set_num_threads(int(sys.argv[2]))
height, width, smallest = map(int, sys.argv[3:])
model = build_model(sys.argv[1]).eval()
clip = torch.randn(1, 1, 40, height, width)
fuse(model)(torch.randn(1, 1, 40, 8, 8))  # what the libraries take
budget = None
if smallest:
    try:
        fuse(model, memory=1)(clip)
    except ValueError as error:
        budget = int(str(error).split(" need ")[1].split()[0])
fast = fuse(model, memory=budget)
if budget is None:
    rows, tile = fast.plan(height, width)
    budget = fast.engine.bytes(rows, width, tile, torch.get_num_threads())
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
logits = fast(clip)
print(budget, status("VmHWM") - before - logits.numel() * 4)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured as on Linux")
@pytest.mark.parametrize("name", STAGED)
@pytest.mark.parametrize("threads", [2, 8])
@pytest.mark.parametrize("case", [(40, 320, 1), (200, 100, 0)])
def test_the_budget_is_kept(name, threads, case):
    command = [sys.executable, "-c", MEASURE, name, *map(str, (threads, *case))]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    budget, peak = (int(word) for word in ended.stdout.split())
    assert 0.2 * budget < peak < 1.05 * budget + 4e6
