"""The other systems of the published table against their released weights and golden outputs."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat
from torch.nn import functional

from models import build_model
from models.baselines.deformable_conv import DeformableConv2d
from models.baselines.dtum import motion_code
from models.baselines.filters import TOP_HAT_SIDE
from models.baselines.rfr import dct_basis
from models.baselines.stdmanet import find_shifts, register
from models.baselines.unet import ResidualUNet
from tests.builders import NUDT_NORMALISATION
from utils.scan import normalised, run_clip

WITHOUT_GRADIENT = 20


def golden(shared, name):
    return np.load(shared / "golden" / "baselines" / f"{name}.npz")


def keys_of(shared, name):
    """(name, shape, type) of each tensor of the published state dict."""
    lines = (shared / "golden" / "baselines" / f"{name}_keys.txt").read_text().splitlines()
    return [tuple(line.split("\t")) for line in lines]


def described(model):
    return [(k, str(tuple(v.shape)), str(v.dtype)) for k, v in model.state_dict().items()]


def weights_at(path):
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def dtum(shared):
    model = build_model("Res-UNet+DTUM")
    model.load_state_dict(weights_at(shared / "released" / "dtum" / "ResUNet_DTUM_para.pth"))
    return model.eval()


def assert_as_published(logits, expected):
    """Max-pool winners flip where a processor rounds otherwise; then few logits differ much."""
    difference = np.abs(logits.detach().numpy() - expected)
    assert (difference <= 1e-2).mean() >= 0.98
    assert np.array_equal(logits.detach().numpy() >= 0, expected >= 0)


def test_the_networks_have_the_published_tensors(shared):
    assert described(build_model("Res-UNet+DTUM")) == keys_of(shared, "resunet_dtum")
    assert described(build_model("Res-U+RFR")) == keys_of(shared, "resunet_rfr")


@pytest.mark.parametrize("case", ["input", "scene"])
def test_released_dtum_gives_the_golden_logits(shared, dtum, case):
    expected = golden(shared, "resunet_dtum")
    clip = torch.from_numpy(expected[case])
    names = {
        "input": ("nudt_logits_w0", "nudt_logits_w1_window"),
        "scene": ("nudt_scene_logits_w0", "nudt_scene_logits_w1"),
    }
    with torch.inference_mode():
        for start, name in enumerate(names[case]):
            assert_as_published(dtum(clip[:, :, start : start + 5]), expected[name][0])


def test_streaming_dtum_equals_its_windows_exactly(shared, dtum):
    clip = torch.from_numpy(golden(shared, "resunet_dtum")["input"])
    with torch.inference_mode():
        first, state = dtum.stream(clip[:, :, 4], earlier=clip[:, :, :4])
        second, state = dtum.stream(clip[:, :, 5], state)
        assert state.shape == (1, 32, 4, 64, 96)
        assert torch.equal(first, dtum(clip[:, :, :5])[:, 0])
        assert torch.equal(second, dtum(clip[:, :, 1:])[:, 0])


def test_the_first_frame_of_a_stream_stands_for_the_four_before_it():
    model = build_model("Res-UNet+DTUM").eval()
    frame = torch.randn(2, 1, 16, 24)
    with torch.inference_mode():
        logits, _ = model.stream(frame)
        repeated = frame.unsqueeze(2).expand(-1, -1, 5, -1, -1)
        assert torch.equal(logits, model(repeated)[:, 0])


def test_dtum_has_the_published_gradients_and_twenty_tensors_without(shared, dtum):
    expected = golden(shared, "resunet_dtum")
    target = torch.from_numpy(expected["grad_target"])
    dtum.zero_grad()
    logits = dtum(torch.from_numpy(expected["input"][:, :, :5]))
    scores = torch.sigmoid(logits)
    intersection = (scores * target).sum()
    loss = 1 - (intersection + 1) / (scores.sum() + target.sum() - intersection + 1)
    loss.backward()
    assert loss.item() == pytest.approx(float(expected["grad_loss"]), abs=1e-6)
    # Where a processor rounds otherwise, winners of max-pools flip: in gradients as in logits.
    away = np.abs(logits.detach().numpy() - expected["nudt_logits_w0"][0]).max()
    tolerance = 1e-3 if away < 1e-3 else 5e-3
    parameters, without = dict(dtum.named_parameters()), []
    assert set(parameters) == set(expected["grad_names"].tolist())
    for name, norm in zip(expected["grad_names"].tolist(), expected["grad_norms"], strict=True):
        if norm < 0:  # recorded so where there is none
            assert parameters[name].grad is None, name
            without.append(name)
        else:
            assert parameters[name].grad.norm().item() == pytest.approx(norm, rel=tolerance), name
    assert len(without) == WITHOUT_GRADIENT
    assert sum(parameters[name].numel() for name in without) == 36_320


@pytest.mark.parametrize(
    "name, positive, on_target", [("Sequence1", 26, 26), ("Sequence85", 22, 20)]
)
def test_released_dtum_on_real_frames(shared, dtum, name, positive, on_target):
    folder = shared / "nudt_frames" / name
    frames = loadmat(folder / "Mix" / "00001.mat")["Mix"]
    clip = torch.from_numpy(normalised(frames, *NUDT_NORMALISATION))[None, None]
    with torch.inference_mode():
        logits = run_clip(dtum, clip, dtum)[0, 0]
    assert_as_published(logits, np.load(folder / "dtum_logits.npy"))
    found = logits.numpy() >= 0
    mask = np.asarray(Image.open(folder / "masks" / "00001.png")) > 0
    assert (found.sum(), (found & mask).sum()) == (positive, on_target)


def test_released_dtum_streams_from_any_frame_of_a_real_sequence(shared, dtum):
    expected = golden(shared, "dtum_real")
    paths = sorted((shared / "real" / str(expected["sequence"]) / "images").iterdir())[:10]
    frames = normalised(np.stack([np.asarray(Image.open(p)) for p in paths]), *NUDT_NORMALISATION)
    height, width = frames.shape[1:]
    canvas = functional.pad(torch.from_numpy(frames), (0, 512 - width, 0, 512 - height))
    with torch.inference_mode():
        first, _ = dtum.stream(canvas[None, :1])
        tenth, _ = dtum.stream(canvas[None, 9:], earlier=canvas[None, None, 5:9])
    assert_as_published(first[0, :height, :width], expected["logits_1"])
    assert_as_published(tenth[0, :height, :width], expected["logits_10"])


def test_the_motion_code_is_by_the_place_of_the_winner():
    x = torch.randn(2, 3, 5, 6, 8)
    factors = torch.tensor([[-1.5, -0.5], [0.5, 1.5]])
    expected = torch.empty(2, 3, 5, 3, 4)
    for place in np.ndindex(*expected.shape):
        row, column = 2 * place[3], 2 * place[4]
        cell = x[place[:3]][row : row + 2, column : column + 2]
        expected[place] = (cell * factors)[cell == cell.max()].item()
    assert torch.equal(motion_code(x), expected)


def test_dtum_takes_clips_of_five_frames_only():
    with pytest.raises(ValueError, match="5 frames, not of 40"):
        build_model("Res-UNet+DTUM", seqlen=40)
    with pytest.raises(ValueError, match="clips of 5 frames"):
        build_model("Res-UNet+DTUM")(torch.zeros(1, 1, 4, 16, 16))


def test_sides_that_the_pooling_does_not_divide_are_refused():
    for name in ("Res-UNet+DTUM", "STDMANet"):
        with pytest.raises(ValueError, match="18x16: .* multiples of"):
            build_model(name)(torch.randn(1, 1, 5, 18, 16))
    with pytest.raises(ValueError, match="18x16: .* multiples of 8"):
        build_model("Res-U+RFR")(torch.zeros(1, 1, 18, 16))
    with pytest.raises(ValueError, match=r"expected \(batch, 1, height, width\)"):
        build_model("Res-U+RFR")(torch.zeros(1, 1, 4, 16, 16))


def test_the_unet_keeps_the_size_and_sees_further_than_its_depth():
    unet = ResidualUNet(2, (4, 4, 4, 4), 3).eval()
    x = torch.randn(1, 2, 24, 16)
    changed = x.clone()
    changed[..., 0, 0] += 1
    with torch.inference_mode():
        assert unet(x).shape == (1, 3, 24, 16)
        assert not torch.equal(unet(changed)[..., 12, 8], unet(x)[..., 12, 8])


def test_rfr_gives_the_golden_logits_and_features_frame_by_frame(shared):
    expected = golden(shared, "resunet_rfr")
    model, state = build_model("Res-U+RFR").eval(), None
    folder = shared / "golden" / "baselines"
    model.load_state_dict(weights_at(folder / "resunet_rfr_perturbed.pth"))
    with torch.inference_mode():
        for index, frame in enumerate(torch.from_numpy(expected["input"]).unbind(2)):
            logits, state = model(frame, state)
            assert np.abs(logits.numpy() - expected["pert_logits"][:, 0, index]).max() <= 1e-5
            assert np.abs(state.numpy() - expected["pert_featprop"][:, :, index]).max() <= 1e-5


def test_the_buffer_of_cosines_is_that_of_the_released_code(shared):
    weights = weights_at(shared / "golden" / "baselines" / "resunet_rfr_perturbed.pth")
    name = next(key for key in weights if "dct" in key)
    assert torch.allclose(dct_basis(), weights[name], atol=1e-7)


def test_rfr_learns_through_its_recurrence():
    model = build_model("Res-U+RFR").train()
    clip = torch.randn(2, 1, 3, 32, 32, requires_grad=True)
    run_clip(model, clip, model)[:, -1].square().mean().backward()
    assert clip.grad[:, :, 0].abs().sum() > 0  # the last frame's logits depend on the first
    unused = {name for name, p in model.named_parameters() if p.grad is None}
    assert unused == {"model.fusion_align.weight", "model.fusion_align.bias"}


def test_a_deformable_convolution_starts_as_half_an_ordinary_one():
    conv = DeformableConv2d(8, groups_of_shifts=4)
    x = torch.randn(2, 8, 9, 7)
    expected = functional.conv2d(x, conv.weight / 2, conv.bias, padding=1)
    assert torch.allclose(conv(x, torch.randn_like(x)), expected, atol=1e-5)


def test_a_deformable_convolution_is_what_its_equation_says():
    conv = DeformableConv2d(4, groups_of_shifts=2).double()
    torch.nn.init.normal_(conv.conv_offset.weight, std=0.3)
    torch.nn.init.normal_(conv.conv_offset.bias)
    x, query = torch.randn(2, 1, 4, 6, 7, dtype=torch.float64)
    moves = conv.conv_offset(query)[0]
    shifts, weights = moves[:36].view(2, 9, 2, 6, 7), torch.sigmoid(moves[36:]).view(2, 9, 6, 7)

    def value(channel, row, column):
        inside = 0 <= row < 6 and 0 <= column < 7
        return x[0, channel, row, column].item() if inside else 0.0

    def bilinear(channel, row, column):
        top, left = int(np.floor(row)), int(np.floor(column))
        down, right = row - top, column - left
        return (
            (1 - down) * (1 - right) * value(channel, top, left)
            + (1 - down) * right * value(channel, top, left + 1)
            + down * (1 - right) * value(channel, top + 1, left)
            + down * right * value(channel, top + 1, left + 1)
        )

    found = conv(x, query)
    for row, column in [(0, 0), (3, 4), (5, 6), (0, 5)]:
        expected = conv.bias.clone()
        for channel in range(4):
            for tap in range(9):
                down, right = shifts[channel // 2, tap, :, row, column].tolist()
                at = (row + tap // 3 - 1 + down, column + tap % 3 - 1 + right)
                sample = weights[channel // 2, tap, row, column] * bilinear(channel, *at)
                expected += conv.weight[:, channel, tap // 3, tap % 3] * sample
        assert torch.allclose(found[0, :, row, column], expected)


def smooth_scene(rng, height, width):
    noise = torch.from_numpy(rng.normal(size=(1, 1, height, width))).float()
    return 5 * functional.avg_pool2d(noise, 5, stride=1, padding=2)[0, 0]


@pytest.mark.parametrize("padding", [0, 3])
def test_registration_undoes_whole_pixel_moves_and_leaves_zeros_where_it_knows_nothing(
    rng, padding
):
    scene, moves = smooth_scene(rng, 60, 70), [(3, -2), (-1, 4), (0, 0)]
    views = [scene[8 + down : 48 + down, 9 + right : 57 + right] for down, right in moves]
    clip = functional.pad(torch.stack(views)[None, None], (0, padding, 0, padding))
    assert find_shifts(clip)[0].tolist() == [list(move) for move in moves]
    registered = register(clip)[0, 0, :, :40, :48]
    for frame, (down, right) in zip(registered, moves, strict=True):
        rows, columns = (np.arange(n) - move for n, move in ((40, down), (48, right)))
        known = np.ix_((rows >= 0) & (rows < 40), (columns >= 0) & (columns < 48))
        assert torch.equal(frame[known], views[2][known])
        outside = np.ones((40, 48), bool)
        outside[known] = False
        assert not frame[outside].any()


def test_registration_moves_nothing_where_frames_have_nothing_in_common():
    clip = torch.randn(2, 1, 5, 24, 20)
    clip[1, :, 2] = 0
    moved = register(clip) != clip
    assert not find_shifts(clip).any() and not moved.any()


def test_what_registration_moves_keeps_its_gradient(rng):
    scene = smooth_scene(rng, 40, 40)
    clip = torch.stack([scene[3:35, 2:34], scene[:32, :32]])[None, None].requires_grad_()
    register(clip)[0, 0, 0].sum().backward()
    assert clip.grad[0, 0, 0].sum() == 29 * 30  # one for each pixel that is still inside


def test_stdmanet_is_within_one_percent_of_the_published_size():
    parameters = sum(p.numel() for p in build_model("STDMANet").parameters())
    assert parameters == pytest.approx(11_879_424, rel=0.01)
    assert "reconstruction" in type(build_model("STDMANet")).__doc__.lower()


def test_stdmanet_predicts_the_last_frame_for_any_length_of_clip_and_learns():
    for seqlen in (2, 5, 7):
        model = build_model("STDMANet", seqlen=seqlen)
        assert type(model).clip_length(model.state_dict()) == seqlen
        logits = model(torch.randn(2, 1, seqlen, 8, 12))
        assert logits.shape == (2, 1, 8, 12)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_earlier_frames_that_are_zero_make_no_differences():
    model = build_model("STDMANet", seqlen=2).eval()
    seen = []
    model.differences.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    clip = torch.randn(1, 1, 2, 8, 8)
    clip[..., 0, :, :4] = 0
    with torch.inference_mode():
        model.detect(clip)
    difference = clip[0, :, 1] - clip[0, :, 0]
    assert torch.equal(seen[0][0, ..., 4:], difference[..., 4:]) and not seen[0][..., :4].any()


def test_the_top_hat_scores_a_spot_and_neither_an_edge_nor_a_slope():
    frame = torch.arange(40.0).repeat(30, 1) * 0.1
    frame[:, 25:] += 8
    frame[12:14, 8:10] += 2
    scores = torch.sigmoid(build_model("TopHat")(frame[None, None, None]))[0, 0]
    found = (scores >= 0.5).nonzero().tolist()
    assert found == [[12, 8], [12, 9], [13, 8], [13, 9]]


def test_the_top_hat_is_the_frame_less_its_opening(rng):
    frame = torch.from_numpy(rng.normal(size=(1, 1, 30, 34))).float()
    lowest = -functional.max_pool2d(-frame, TOP_HAT_SIDE, stride=1)
    opened = functional.max_pool2d(lowest, TOP_HAT_SIDE, stride=1)
    inner = slice(TOP_HAT_SIDE - 1, 1 - TOP_HAT_SIDE)  # where the border has no part
    hat = (frame[..., inner, inner] - opened).flatten()
    logits = build_model("TopHat")(frame[:, :, None])[..., inner, inner].flatten()
    order = logits.argsort()
    order = order[logits[order] > logits.min()]  # the least ones are alike
    assert len(order) > 100 and (hat[order].diff() >= -1e-5).all()


@pytest.mark.parametrize("frames", [6, 7])
def test_the_temporal_score_is_what_its_formula_says(rng, frames):
    clip = rng.normal(size=(frames, 5, 4)).astype(np.float32)
    clip[2, 1, 1] += 9
    padded = np.concatenate([clip, np.zeros((9 - frames, 5, 4), np.float32)])
    deviation = clip - np.median(clip, axis=0)
    z = deviation / (1.4826 * np.median(np.abs(deviation), axis=0) + 0.02)
    z = np.maximum(z, 0.01)
    expected = z**4 / (z**4 + 5**4)
    model = build_model("TemporalZScore", seqlen=9)
    scores = torch.sigmoid(model(torch.from_numpy(padded)[None, None]))[0].numpy()
    np.testing.assert_allclose(scores[:frames], expected, rtol=1e-3)
    assert scores[frames:].max() < 1e-9 and scores[2, 1, 1] > 0.5


@pytest.mark.parametrize("name", ["TopHat", "TemporalZScore"])
def test_filters_score_between_zero_and_one_whatever_the_clip(name):
    model = build_model(name, seqlen=4)
    assert not list(model.parameters())
    for clip in (torch.zeros(1, 1, 4, 6, 7), torch.randn(2, 1, 4, 6, 7), torch.ones(1, 1, 4, 2, 1)):
        logits = model(clip)
        assert logits.shape == (len(clip), 4, *clip.shape[-2:]) and torch.isfinite(logits).all()
        scores = torch.sigmoid(logits)
        assert (scores > 0).all() and (scores < 1).all()
