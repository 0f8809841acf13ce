"""Integrated gradients: closed forms, completeness of every network, the published numbers."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat
from torch import nn

from models import MODELS, build_model
from models.detector import Detector
from tests.builders import NUDT_NORMALISATION, perturbed
from utils.attribution.integrated_gradients import integrate
from utils.attribution.maps import normalised_map
from utils.attribution.paths import path_start
from utils.attribution.quadrature import Adaptive, Equidistant
from utils.attribution.scores import TargetScores
from utils.attribution.targets import ScoredTarget
from utils.checkpoint import load, load_weights
from utils.scan import normalised, run_clip

T = 5
FILTERS = [name for name in MODELS if next(build_model(name).parameters(), None) is None]


class Linear(Detector):
    """The logit of every pixel is one weighted sum of its clip; the second half weighs nothing."""

    def __init__(self, shape=(T, 6, 8), last=False):
        super().__init__(shape[0])
        self.predicts = "last" if last else "all"
        self.weights = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        self.weights[..., shape[2] // 2 :] = 0

    def detect(self, clip):
        logits = (self.weights * clip).sum((2, 3, 4), keepdim=True) * torch.ones_like(clip)
        return logits[:, :, -1:] if self.predicts == "last" else logits


class Recurring(nn.Module):
    """The logit of a pixel is the sum of all its grey levels so far."""

    seqlen, predicts, recurrent = T, "all", True
    pads_to, side_multiple = None, 4

    def forward(self, frame, state):
        state = frame[:, 0] if state is None else state + frame[:, 0]
        return state, state


def random_clip(shape=(T, 6, 8), seed=2):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def attribute(detector, clip, targets, quadrature=None, start=None):
    start = np.zeros_like(clip) if start is None else start
    return integrate(TargetScores(detector, targets), clip, start, quadrature)


def place(frame, *pixels):
    return ScoredTarget(frame, np.array(pixels))


@pytest.mark.parametrize("last", [False, True])
def test_a_linear_detector_has_the_closed_form(last):
    detector, clip = Linear(last=last), random_clip()
    weighted = detector.weights.numpy() * clip
    z = weighted.sum()
    target = place(T - 1, (2, 1), (2, 2))
    (found,) = attribute(detector, clip, [target], Adaptive(1e-5))
    rise = 2 / (1 + np.exp(-z)) - 1  # of both pixels, from a score of one half each
    assert found.difference == pytest.approx(rise, rel=1e-6)
    assert abs(found.error) <= 1e-5
    np.testing.assert_allclose(
        found.attribution, weighted * rise / z, atol=2e-5 * abs(weighted).max()
    )
    shares = found.attribution / found.attribution.sum()
    np.testing.assert_allclose(shares, weighted / z, atol=1e-6 * abs(weighted / z).max())
    assert not found.attribution[..., 4:].any()  # nothing depends on it


def most_changed(detector, clip, start):
    """The two pixels of the last frame whose scores change most along the path."""
    with torch.no_grad():
        ends = torch.from_numpy(np.stack([clip, start]))[:, None]
        scores = run_clip(detector, ends, detector).sigmoid().numpy()
    change = np.abs(scores[0] - scores[1])[-1]
    return ScoredTarget(len(clip) - 1, np.argwhere(change >= np.sort(change, axis=None)[-2]))


@pytest.mark.parametrize("name", [n for n in MODELS if n not in (*FILTERS, "Res-UNet+DTUM")])
def test_every_network_is_complete(name):
    frames = 3 if build_model(name).recurrent else T
    detector, clip = perturbed(name, frames), 3 * random_clip((frames, 8, 16))
    detector.pads_to = None  # a canvas of 512 takes long
    target = most_changed(detector, clip, 0 * clip)
    (found,) = attribute(detector, clip, [target], Adaptive(most=150))
    assert abs(found.error) <= 0.01 and found.jumps == 0
    assert found.attribution.shape == clip.shape and np.isfinite(found.attribution).all()
    assert all(parameter.requires_grad for parameter in detector.parameters())


def test_dtum_is_complete_but_for_the_jumps_of_its_motion_code(shared):
    detector = build_model("Res-UNet+DTUM").eval()
    path = shared / "released/dtum/ResUNet_DTUM_para.pth"
    load_weights(detector, load(path), "Res-UNet+DTUM", path)
    detector.pads_to = None
    root = shared / "nudt_frames/Sequence85"
    target = np.argwhere(np.array(Image.open(root / "masks/00001.png")) > 0)
    top, left = np.maximum(target.mean(axis=0).astype(int) - 16, 0) // 8 * 8
    frames = loadmat(root / "Mix/00001.mat")["Mix"][:, top : top + 32, left : left + 32]
    clip = np.ascontiguousarray(normalised(frames, *NUDT_NORMALISATION))
    target = ScoredTarget(T - 1, target - (top, left))
    (found,) = attribute(detector, clip, [target], Adaptive(0.02, most=80))
    assert found.difference > 0.9 * len(target.pixels)
    assert abs(found.error) <= 0.02 + abs(found.jumps) and abs(found.jumps) < 0.05


@pytest.mark.parametrize("name", FILTERS)
def test_what_has_no_gradient_is_refused_in_one_line(name):
    detector = build_model(name)
    clip = random_clip((detector.seqlen, 9, 9))
    with pytest.raises(ValueError, match=f"{name} cannot be attributed: its scores") as error:
        attribute(detector, clip, [place(0, (4, 4))])
    assert "\n" not in str(error.value)


def test_a_recurrent_detector_is_unrolled_and_padded():
    clip = random_clip((T, 6, 7))
    (found,) = attribute(Recurring(), clip, [place(2, (5, 6))], Adaptive(1e-4))
    z = clip[:3, 5, 6].sum()
    rise = 1 / (1 + np.exp(-z)) - 0.5
    expected = np.zeros_like(clip)
    expected[:3, 5, 6] = clip[:3, 5, 6] * rise / z
    np.testing.assert_allclose(found.attribution, expected, atol=1e-4)


@pytest.mark.parametrize("points, ends", [(2, True), (7, True), (6, False)])
def test_equidistant_points_weigh_the_same(points, ends):
    detector, clip = perturbed("DeepPro", T), random_clip((T, 9, 10))
    targets = [place(3, (4, 4)), place(0, (1, 7), (2, 7))]
    found = attribute(detector, clip, targets, Equidistant(points, ends))
    for target, integral in zip(targets, found, strict=True):
        total = 0
        for index in range(points):
            a = index / (points - 1) if ends else (index + 0.5) / points
            x = torch.from_numpy(a * clip)[None, None].requires_grad_()
            scores = detector(x).sigmoid()[0, target.frame]
            sum(scores[tuple(pixel)] for pixel in target.pixels).backward()
            total = total + x.grad[0, 0].numpy() * clip / points
        np.testing.assert_allclose(integral.attribution, total, atol=1e-5 * abs(total).max())
        assert integral.points == points


def test_targets_that_share_passes_get_what_they_get_alone():
    detector, clip = perturbed("DeepPro-Plus", T).double(), random_clip((T, 9, 10))
    targets = [place(0, (4, 4)), place(4, (1, 7), (2, 7)), place(2, (8, 9))]
    scores = TargetScores(detector, targets)
    together = integrate(scores, clip, 0 * clip, Adaptive(0.1))
    alone = [attribute(detector, clip, [target], Adaptive(0.1))[0] for target in targets]
    for one, other in zip(together, alone, strict=True):
        scale = abs(one.attribution).max()
        np.testing.assert_allclose(one.attribution, other.attribution, atol=1e-9 * scale)
    assert scores.passes.backward == sum(each.points for each in together)


@pytest.mark.parametrize("name", ["zero", "mean", "black"])
def test_the_sum_is_right_from_every_start(name):
    detector, clip = perturbed("DeepPro", T), 3 * random_clip((T, 8, 8))
    start = path_start(name, clip, (3.0, 2.0))
    (found,) = attribute(detector, clip, [most_changed(detector, clip, start)], start=start)
    assert abs(found.error) <= 0.01 and abs(found.difference) > 1e-3


class Damaged(Linear):
    def detect(self, clip):
        return super().detect(clip.abs().sqrt())  # of infinite slope where the path starts


@pytest.mark.parametrize(
    "detector, shape, targets, quadrature, message",
    [
        (Linear(), (T, 6, 8), [], None, "no target to attribute"),
        (Linear(), (T - 1, 6, 8), [place(0, (0, 0))], None, "clip of 4 frames: expected 5"),
        (Linear(), (T, 6, 8), [place(0, (6, 0))], None, "row 6, column 0 of frame 0: expected"),
        (Linear(last=True), (T, 6, 8), [place(2, (0, 0))], None, "predicts the last one only"),
        (
            Damaged(),
            (T, 6, 8),
            [place(2, (0, 0))],
            Equidistant(3),
            "the gradient of a score is NaN",
        ),
        (Linear(), (T, 6, 8), [place(2, (0, 0))], Equidistant, "1 points of a path"),
    ],
)
def test_bad_input_is_one_line(detector, shape, targets, quadrature, message):
    with pytest.raises(ValueError, match=message) as error:
        quadrature = Equidistant(1) if quadrature is Equidistant else quadrature
        attribute(detector, random_clip(shape), targets, quadrature)
    assert "\n" not in str(error.value)


def test_a_score_that_is_no_number_is_said():
    with pytest.raises(ValueError, match="a score is NaN"):
        attribute(Linear(), np.full((T, 6, 8), np.nan, np.float32), [place(0, (0, 0))])


@pytest.fixture(params=["DeepPro", "DeepPro-Plus"])
def golden(request, shared, released):
    """(golden arrays, released network, clip, {frame: target}) of `golden/attribution`."""
    with np.load(shared / f"golden/attribution/integrated_gradients_{request.param}.npz") as file:
        arrays = dict(file)
    detector = build_model(request.param)
    detector.load_state_dict(released(str(arrays["run"]))["model_state_dict"])
    clip = normalised(arrays["frames"], *NUDT_NORMALISATION)
    label = arrays["label"]
    targets = {int(t): ScoredTarget(int(t), np.argwhere(label[t])) for t in arrays["output_frames"]}
    return arrays, detector.eval(), clip, targets


def attribute_within_reach(detector, clip, target, quadrature=None):
    """(the integral, its attribution in the whole clip), from the pixels the target depends on."""
    top, left, bottom, right, network = detector.excerpt(clip.shape[1:], target.box())
    part = np.s_[:, top:bottom, left:right]
    scores = TargetScores(detector, [target.moved(0, top, left)], network)
    (integral,) = integrate(scores, clip[part].copy(), 0 * clip[part], quadrature)
    whole = np.zeros(clip.shape)
    whole[part] = integral.attribution
    return integral, whole


def test_fifty_points_give_the_published_attributions(golden):
    # In float32 a ReLU near zero may switch by rounding; the normalised map, a square root, shows
    # it as 4e-3 of its maximum.
    arrays, detector, clip, targets = golden
    some = None if detector.stages().is_temporal() else 1  # of Plus: passes of seconds
    detector.double()
    for frame, target in list(targets.items())[:some]:
        _, found = attribute_within_reach(detector, clip, target, Equidistant(50))
        expected = arrays[f"published_{frame}"]
        assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
        expected = arrays[f"published_normalised_{frame}"]
        assert np.abs(normalised_map(found) - expected).max() <= 1e-3


@pytest.mark.parametrize("golden", ["DeepPro"], indirect=True)  # of Plus: 200 passes of seconds
def test_two_hundred_midpoints_give_the_fine_attributions(golden):
    arrays, detector, clip, targets = golden
    frame = min(targets)
    points = Equidistant(200, ends=False)
    _, found = attribute_within_reach(detector, clip, targets[frame], points)
    expected = arrays[f"fine_{frame}"]
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


def test_the_default_is_complete_where_the_published_points_are_not(golden):
    arrays, detector, clip, targets = golden
    for frame, target in targets.items():
        integral, _ = attribute_within_reach(detector, clip, target)
        difference = float(arrays[f"difference_{frame}"])
        assert integral.difference == pytest.approx(difference, rel=1e-4)
        assert integral.attribution.sum() == pytest.approx(difference, rel=0.01)
        assert integral.points < 200
