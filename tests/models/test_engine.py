"""The engines' parts against what they are parts of; threads; what stands in for operators."""

import copy
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.engine import onednn
from models.engine.interpolation import Interpolation
from models.engine.precision import Arithmetic
from models.engine.rows.blocks import FirstHalf
from models.engine.rows.convolutions import (
    POINTS,
    RowConv,
    WinogradConv,
    best_conv,
    winograd_matrices,
)
from models.engine.rows.segments import ConvSegment, StemSegment
from models.engine.tiles.packed import PackedTemporalNetwork
from models.engine.tiles.temporal import TemporalNetwork
from models.engine.workers import Workers
from models.folding import fold
from models.fused import fuse
from tests.builders import STAGED, perturbed, torch_threads
from tests.models.test_fused import PERTURBED, smallest_budget, without_onednn

SINGLE, DOUBLE = (
    Arithmetic(dtype, torch.device("cpu")) for dtype in (torch.float32, torch.float64)
)
fuses = pytest.mark.skipif(
    not onednn.has_fused_convolution(torch.float32), reason="no such layer on this processor"
)


@pytest.mark.parametrize(("inside", "outside"), [(1, 7), (4, 9), (20, 41), (50, 101), (300, 5)])
def test_interpolation_is_torchs_with_its_rounding(inside, outside):
    # Large numbers show a weight that is rounded otherwise than torch rounds it.
    signal = torch.randn(1, 1, inside) * 1e4
    expected = functional.interpolate(signal, outside, mode="linear", align_corners=True)
    start = outside // 3
    first, weights = Interpolation(inside, outside).as_product(start, outside)
    found = weights @ signal[0, 0, first : first + weights.shape[1]]
    torch.testing.assert_close(found, expected[0, 0, start:], atol=5e-3, rtol=0)


@pytest.mark.parametrize(("inside", "outside"), [(1, 3), (4, 9), (53, 213), (75, 301)])
def test_outputs_that_are_possible_need_no_further_input(inside, outside):
    rows = Interpolation(inside, outside)
    for inputs in range(inside + 1):
        count = rows.outputs_from(inputs)
        assert count == outside or rows.after[count] >= inputs
        assert count == 0 or rows.after[:count].max() < inputs
    assert rows.outputs_from(inside) == outside


class Rows:
    """A segment that keeps the rows it is given."""

    def start(self, rows, frames, width):
        self.rows = []

    def append(self, rows):
        self.new = [None] * rows
        self.rows.append(self.new)

    def write(self, top, rows):
        self.new[top : top + len(rows)] = [row.clone() for row in rows]

    def run(self, workers):
        pass

    def all(self):
        return torch.stack([row for new in self.rows for row in new])


def through(segment, clip, bands):
    """(C, T, H, W) through a segment, in bands of so many rows."""
    rows, kept = clip.permute(2, 1, 3, 0), Rows()
    segment.after = [kept]
    kept.start(bands, *rows.shape[1:3])
    segment.start(bands, *rows.shape[1:3])

    def run():
        for band in rows.split(bands):
            segment.append(len(band))
            segment.write(0, band)
            segment.run(workers)
        segment.finish()
        segment.run(workers)

    with Workers(SINGLE) as workers:
        workers.lead(run)
    return kept.all().permute(3, 1, 0, 2)


@pytest.mark.parametrize("with_onednn", [pytest.param(True, marks=fuses), False])
@pytest.mark.parametrize("size", [(1, 1), (9, 4), (12, 17), (7, 200)])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_layer_of_rows_is_one_of_the_image(monkeypatch, with_onednn, size, frames):
    if not with_onednn:
        without_onednn(monkeypatch)
    conv = nn.Conv3d(5, 6, 3, padding=(1, 2, 2), dilation=(1, 2, 2)).requires_grad_(False)
    clip = torch.randn(5, frames, *size)
    found = through(ConvSegment(RowConv(conv, SINGLE), SINGLE), clip, 4)
    torch.testing.assert_close(found, conv(clip).relu(), atol=1e-5, rtol=1e-5)


@fuses
@pytest.mark.parametrize("differences", [False, True])
@pytest.mark.parametrize("pixels_at_once", [1, 30, 10240])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("height", [3, 8, 21])
def test_rows_made_in_fours_are_those_of_the_image(
    monkeypatch, height, dilation, pixels_at_once, differences
):
    monkeypatch.setattr("models.engine.rows.convolutions.PIXELS_AT_ONCE", pixels_at_once)
    time = 2 if differences else 1
    geometry = {"padding": (time, dilation, dilation), "dilation": (time, dilation, dilation)}
    conv = nn.Conv3d(32, 33, 3, **geometry).double().requires_grad_(False)
    assert isinstance(best_conv(conv, SINGLE), WinogradConv)
    clip = torch.randn(32, 5, height, 9)
    kernel, expected = None, conv(clip.double()).relu()
    if differences:
        kernel, padding = conv.weight[:, :, :2], (0, dilation, dilation)
        expected = functional.conv3d(
            clip.double(), kernel, conv.bias, padding=padding, dilation=conv.dilation
        ).relu()

    def segment(made):
        return ConvSegment(made(conv, SINGLE, kernel), SINGLE)

    plain, fours = (through(segment(made), clip, 5) for made in (RowConv, WinogradConv))
    # Winograd's sums round a little more.
    error, plain_error = ((found - expected).square().mean().sqrt() for found in (fours, plain))
    assert 0 < error < 2.5 * plain_error
    for bands in (1, 3, height):  # the same rows are made in the same way
        assert torch.equal(fours, through(segment(WinogradConv), clip, bands))


def test_the_products_of_winograd_are_a_convolution():
    a, b, g = winograd_matrices((0, 1, -1, 2, -2))
    assert torch.equal(a[1], torch.tensor([0.0, 1, -1, 2, -2, 0]).double())
    assert torch.equal(b[0], torch.tensor([4.0, 0, -5, 0, 1, 0]).double())
    kernel, rows = torch.randn(3).double(), torch.randn(6).double()
    for matrices in ((a, b, g), winograd_matrices(POINTS)):
        a, b, g = matrices
        found = a @ ((b @ rows) * (g @ kernel))
        torch.testing.assert_close(found, rows.unfold(0, 3, 1) @ kernel)


def test_the_first_layer_of_plus_rounds_less_than_that_of_the_network_as_trained():
    model = PERTURBED["DeepPro-Plus"]
    clip = 0.2 * torch.randn(1, 5, 19, 23) + 5
    exact, as_trained = copy.deepcopy(model).double(), model
    with torch.no_grad():
        expected, trained = exact.conv_in(clip[None].double())[0], as_trained.conv_in(clip[None])[0]
    segment = StemSegment(fold(model, torch.float64).conv_in, SINGLE)
    for bands in (3, 19):
        segment.centre(clip[0])
        found = through(segment, clip, bands)
        error = (found - expected).square().mean()
        assert 0 < error < 0.5 * (trained - expected).square().mean()


@pytest.mark.parametrize("name", STAGED)
def test_numbers_whose_sum_is_too_large_for_float32_are_still_numbers(name):
    clip = torch.rand(1, 1, 5, 16, 20) * 1e37
    with torch.no_grad():
        expected = PERTURBED[name](clip)
    assert clip.sum().isinf() and expected.isfinite().all()
    torch.testing.assert_close(
        fuse(PERTURBED[name])(clip) / 1e30, expected / 1e30, rtol=1e-4, atol=1
    )


@pytest.mark.parametrize("with_onednn", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["DeepPro-Plus", "DeepPro-Plus_forMovingScenes"])
def test_all_that_is_kept_for_rows_is_counted(monkeypatch, name, precision, with_onednn):
    if not with_onednn:
        without_onednn(monkeypatch)
    fast = fuse(perturbed(name, 40), precision, force_precision=True)
    with torch_threads(3):
        rows, tile = fast.plan(50, 20)
        fast(torch.randn(1, 1, 40, 50, 20))
    engine, workers = fast.runs.idle[0]
    kept, buffers = engine.memory_parts(rows, 20, tile, workers.threads)
    queues = [segment.queue for segment in engine.segments]
    queues += [half.inputs for half in engine.segments if isinstance(half, FirstHalf)]
    assert 0.85 * kept < sum(queue.data.nbytes for queue in queues) <= kept
    taken = Counter()
    for scratch in workers.scratches:
        taken.update({key: buffer.nbytes for key, buffer in scratch.buffers.items()})
    of_merge = {key for key in taken if key[0] in ("total", "wide")}
    assert taken.keys() - of_merge <= buffers.keys()
    assert all(taken[key] <= counted for key, counted in buffers.items())


def logits_of_calls(pool, pairs):
    return list(pool.map(lambda pair: pair[0](pair[1]), pairs))


def test_two_hundred_rounds_of_several_detectors_in_several_threads_change_nothing():
    detectors = [fuse(perturbed(name, 3)) for name in ("DeepPro", "DeepPro-Plus")]
    pairs = [(fast, torch.randn(1, 1, 3, 9, 64)) for fast in detectors]
    with torch_threads(2), ThreadPoolExecutor(4) as pool:
        expected = [fast(clip) for fast, clip in pairs]
        found = logits_of_calls(pool, pairs * 200)
    assert all(map(torch.equal, found, expected * 200))


def test_threads_may_share_detectors_for_clips_of_several_sizes():
    detectors = [fuse(PERTURBED[name]) for name in STAGED]
    clips = [torch.randn(1, 1, 5, *size) for size in ((21, 27), (40, 33), (16, 20))]
    pairs = [(fast, clip) for clip in clips for fast in detectors]
    with torch_threads(2):
        expected = [fast(clip) for fast, clip in pairs]
        for _ in range(3):
            with ThreadPoolExecutor(4) as pool:
                assert all(map(torch.equal, logits_of_calls(pool, pairs), expected))


@pytest.mark.parametrize("name", STAGED)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_number_of_threads_changes_nothing(name, precision):
    fast = fuse(PERTURBED[name], precision, force_precision=True)
    clip, found = torch.randn(1, 1, 5, 41, 70), []
    for count in (1, 2, 3):
        with torch_threads(count):
            found.append(fast(clip))
    assert all(torch.equal(logits, found[0]) for logits in found)


def threads_of_torch():
    torch.ones(1 << 16).add_(1)  # divided among as many
    return torch.get_num_threads()


def test_a_thread_for_tasks_computes_alone_though_torch_is_set_to_more_before_its_first_task():
    counts = []
    with torch_threads(2), Workers(SINGLE) as workers:
        torch.set_num_threads(3)
        workers.run(lambda item, scratch: counts.append(threads_of_torch()), range(8))
        counts.append(workers.lead(threads_of_torch))
    assert counts == [1] * 9


def test_calls_leave_torchs_number_of_threads_to_every_thread():
    fast, clip = fuse(PERTURBED["DeepPro"]), torch.randn(1, 1, 5, 40, 40)

    def in_a_new_thread(function):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(function).result()

    def call_with_four():
        torch.set_num_threads(4)
        fast(clip)
        return threads_of_torch()

    with torch_threads(3):
        with fast.runs.taken() as (_, workers), workers:  # as a call does
            assert workers.threads == 3
            assert in_a_new_thread(threads_of_torch) == threads_of_torch() == 3
            in_a_new_thread(lambda: fast(clip))
            assert fast.runs.idle[0][1].threads == 3
        assert in_a_new_thread(threads_of_torch) == threads_of_torch() == 3
        assert in_a_new_thread(call_with_four) == 4
        assert threads_of_torch() == 3


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
    assert small.plan(37, 43)[0] < fast.plan(37, 43)[0]
    assert (small(clip) - fast(clip)).abs().max() <= error.max()
    without_onednn(monkeypatch)
    other = fuse(model, "bf16", force_precision=True)
    assert isinstance(other.engine, TemporalNetwork)
    other_error = (other(clip) - expected).abs()
    assert error.mean() <= 1.2 * other_error.mean() and error.max() <= 1.5 * other_error.max()


def test_a_check_says_no_to_an_operator_that_is_missing_or_wrong(monkeypatch):
    monkeypatch.setattr("torch.ops.mkldnn", object())
    assert not onednn.has_fused_convolution.__wrapped__(torch.float32)  # what it remembers apart
    assert not onednn.has_packed_layers.__wrapped__()


def test_the_formula_of_relus_gradient_is_that_of_torchs_operator(monkeypatch):
    grad, of, out = torch.randn(7, 5), torch.randn(7, 5).relu(), torch.empty(7, 5)
    expected = onednn.relu_gradient(grad, of)
    assert onednn.relu_gradient(grad, of, out=out) is out
    monkeypatch.setattr("models.engine.onednn.has_operator", lambda name: False)
    assert torch.equal(onednn.relu_gradient(grad, of), expected)
    assert torch.equal(out, expected)
