"""Every detector of MODELS keeps what it promises, saves and loads, and fuses or falls back."""

import copy
import io
import warnings

import pytest
import torch

from models import MODELS, build_model
from models.detector import PROMISES, Detector
from models.engine.training.network import FastTraining
from models.fused import FusedDetector, fuse
from tests.builders import perturb
from utils.scan import run_clip


def build(name):
    """Of 3 frames where it takes clips of any length."""
    torch.manual_seed(46)
    try:
        return perturb(build_model(name, 3))
    except ValueError:
        return perturb(build_model(name))


@pytest.fixture(params=MODELS, scope="module")
def detector(request):
    return build(request.param)


@pytest.fixture(scope="module")
def clip(detector):
    """A clip of sides that are awkward, if the detector takes such without padding."""
    multiple = detector.side_multiple
    side = -(-max(9, detector.smallest_side) // multiple) * multiple
    return torch.randn(1, 1, detector.seqlen, side, side + multiple)


@pytest.fixture(scope="module")
def expected(detector, clip):
    return logits_of(detector, clip)


@torch.no_grad()
def logits_of(network, clip):
    return run_clip(network, clip, network) if network.recurrent else network(clip)


def test_promises_are_of_their_kind(detector):
    assert isinstance(detector, Detector) and detector.predicts in ("all", "last")
    assert detector.seqlen >= 1 and detector.side_multiple >= 1 and detector.smallest_side >= 1
    assert detector.pads_to is None or detector.pads_to % detector.side_multiple == 0
    assert not detector.streams or (detector.predicts == "last" and not detector.recurrent)


def test_logits_are_of_the_last_frames_as_promised(detector, clip, expected):
    frames = detector.seqlen if detector.predicts == "all" else 1
    assert expected.shape == (1, frames, *clip.shape[3:]) and expected.dtype == torch.float32
    assert expected.isfinite().all()


def test_two_copies_in_a_batch_equal_one(detector, clip, expected):
    two = logits_of(detector, clip.expand(2, -1, -1, -1, -1))
    torch.testing.assert_close(two, expected.expand_as(two), atol=1e-4, rtol=1e-4)


def test_the_smallest_frames_are_taken_after_padding(detector):
    side = detector.smallest_side
    clip = torch.randn(1, 1, detector.seqlen, side, side + 1)
    off_canvas = copy.copy(detector)
    off_canvas.pads_to = None  # which takes long
    with torch.no_grad():
        assert run_clip(detector, clip, off_canvas).shape[2:] == clip.shape[3:]


def test_it_saves_and_loads_strictly(detector, clip, expected):
    file = io.BytesIO()
    torch.save(detector.state_dict(), file)
    file.seek(0)
    weights = torch.load(file, weights_only=True)
    other = type(detector)(detector.seqlen)
    other.load_state_dict(weights)
    assert torch.equal(logits_of(other.eval(), clip), expected)
    assert type(detector).clip_length(weights) in (None, detector.seqlen)
    with pytest.raises(RuntimeError, match="another"):
        other.load_state_dict({**weights, "another": torch.zeros(1)})


def test_every_parameter_learns_if_promised(detector):
    model = copy.deepcopy(detector).train()
    if model.recipe is None:
        assert not list(model.parameters())
        return
    logits = run_clip(model, torch.randn(2, 1, model.seqlen, 32, 32), model, canvas=False)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters()) == model.learns_all


def test_fused_it_is_the_same_detector(detector, clip, expected):
    before = copy.deepcopy(detector.state_dict())
    fast = fuse(detector)
    assert isinstance(fast, FusedDetector) == (detector.stages() is not None)
    for name in PROMISES:
        assert getattr(fast, name) == getattr(detector, name)
    torch.testing.assert_close(logits_of(fast, clip), expected, atol=2e-5, rtol=1e-5)
    after = detector.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before | after)
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    with pytest.raises(RuntimeError, match="for evaluation only"):
        fast.train()


@pytest.mark.parametrize("name", [name for name, kind in MODELS.items() if kind.streams])
def test_streamed_it_is_the_same_when_fused(name):
    detector = build(name)
    fast, state, expected_state = fuse(detector), None, None
    for frame in torch.randn(3, 1, 1, 16, 24):
        logits, state = fast.stream(frame, state, None)
        with torch.no_grad():
            expected, expected_state = detector.stream(frame, expected_state, None)
        torch.testing.assert_close(logits, expected)


def test_without_an_engine_it_says_once_what_it_cannot_honour(detector):
    for asked in ({"precision": "bf16", "force_precision": True}, {"memory": "1GiB"}):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            fuse(detector, **asked)
        assert len(said) == (detector.stages() is None)
        assert all("has no fast engine: it runs as trained" in str(w.message) for w in said)
    with pytest.raises(ValueError, match="'fp8': expected one of"):
        fuse(detector, "fp8")
    with pytest.raises(ValueError, match="expected a size such as"):
        fuse(detector, memory="much")


def test_training_takes_the_fast_pass_where_stages_describe_the_network(detector, clip):
    model = copy.deepcopy(detector).train()
    inputs = (clip[:, :, 0], None) if model.recurrent else (clip,)
    is_fast = model.stages() is not None
    assert FastTraining(model).is_fast(inputs[0]) == is_fast
    if not is_fast:  # then it is the network
        plain = copy.deepcopy(model)
        found, expected = [], []
        for network, out in ((FastTraining(model), found), (plain, expected)):
            torch.manual_seed(1)
            out.append(network(*inputs))
        torch.testing.assert_close(found, expected, atol=0, rtol=0)
