"""Attributions of sequences: their windows, excerpts, and whether there is memory for them."""

import numpy as np
import pytest
import torch
from torch import nn

from models import build_model
from models.detector import Detector
from tests.builders import ArraySequence, perturbed
from utils.attribution.explain import Explainer, cut_clip
from utils.attribution.memory import check_memory, clip_bytes
from utils.attribution.quadrature import Equidistant
from utils.attribution.targets import ScoredTarget
from utils.memory import memory_left


class Kind(Detector):
    def __init__(self, seqlen=6, predicts="all", recurrent=False):
        super().__init__(seqlen)
        self.predicts, self.recurrent = predicts, recurrent


def counted(frames, earlier=None):
    """A sequence whose grey level tells the frame's number."""
    levels = np.arange(1, frames + 1, dtype=np.uint8)[:, None, None]
    sequence = ArraySequence("s", np.broadcast_to(levels, (frames, 8, 8)).copy())
    sequence.earlier = earlier
    return sequence


@pytest.mark.parametrize(
    "frame, numbers",
    [(0, (1, 6)), (3, (1, 6)), (5, (1, 6)), (9, (7, 12)), (12, (8, 13))],
)
def test_a_frame_is_attributed_in_the_test_s_window_that_has_it_in_the_middle(frame, numbers):
    window = cut_clip(counted(13), frame, Kind())
    assert window.numbers[[0, -1]].tolist() == list(numbers)
    assert (window.frames[:, 0, 0] == window.numbers).all()
    assert window.real == slice(0, 6) and window.first == numbers[0] - 1
    np.testing.assert_allclose(window.clip, (window.frames - 100.0) / 20, rtol=1e-6)


def test_a_short_sequence_is_padded_with_zeros_at_its_end():
    window = cut_clip(counted(4), 1, Kind())
    assert window.numbers.tolist() == [1, 2, 3, 4, 5, 6] and window.real == slice(0, 4)
    assert not window.clip[4:].any() and window.clip[:4].all()


@pytest.mark.parametrize("earlier, before", [(None, [1, 1, 1]), ([51, 52], [51, 51, 52])])
def test_the_last_frame_comes_after_those_before_it(earlier, before):
    if earlier is not None:
        earlier = np.broadcast_to(np.array(earlier, np.uint8)[:, None, None], (2, 8, 8))
    sequence = counted(9, earlier)
    window = cut_clip(sequence, 2, Kind(predicts="last"))
    assert window.frames[:, 0, 0].tolist() == [*before, 1, 2, 3]
    assert window.real == slice(3, 6) and window.first == -3
    assert window.numbers.tolist() == [-2, -1, 0, 1, 2, 3]
    late = cut_clip(sequence, 8, Kind(predicts="last"))
    assert late.frames[:, 0, 0].tolist() == [4, 5, 6, 7, 8, 9] and late.real == slice(0, 6)


@pytest.mark.parametrize("frame, numbers", [(2, (1, 6)), (7, (3, 8)), (8, (4, 9))])
def test_a_recurrent_detector_gets_the_frames_up_to_the_attributed_one(frame, numbers):
    window = cut_clip(counted(9), frame, Kind(recurrent=True))
    assert window.numbers[[0, -1]].tolist() == list(numbers) and window.real == slice(0, 6)


def test_an_excerpt_gives_what_the_whole_frame_gives(rng, monkeypatch):
    detector = perturbed("DeepPro", 5)
    frames = rng.integers(60, 150, (5, 40, 44), dtype=np.uint8)
    sequence = ArraySequence("s", frames)
    targets = [
        ScoredTarget(1, np.array([[20, 21], [21, 21]])),
        ScoredTarget(3, np.array([[2, 40]])),
    ]
    explainer = Explainer(detector, "zero", Equidistant(4), interventions=False)
    parts = list(explainer.explain(sequence, targets))
    monkeypatch.setattr(type(detector), "excerpt", lambda self, shape, box: None)
    whole = list(explainer.explain(sequence, targets))
    for part, other in zip(parts, whole, strict=True):
        assert part.frames.size < other.frames.size == frames.size
        expected = other.integral.attribution
        scale = np.abs(expected).max()
        np.testing.assert_allclose(part.whole(), expected, atol=1e-4 * scale)
        assert (part.number, part.sequence) == (other.number, other.sequence)
        pixels = part.target.pixels + (part.top, part.left)
        np.testing.assert_array_equal(pixels, other.target.pixels)
        assert part.shares.profile == pytest.approx(other.shares.profile, rel=1e-3)
    assert explainer.passes.backward == 16


def test_memory_is_asked_for_before_it_is_used():
    detector = perturbed("DeepPro", 5)
    with pytest.raises(ValueError, match=r"5 frames of 4000x5000 needs about \d+\.\d GiB") as error:
        check_memory(detector, (4000, 5000), free=8 << 30)
    assert "\n" not in str(error.value)
    check_memory(detector, (400, 500), free=64 << 30)
    assert memory_left(torch.device("cpu")) is None or memory_left(torch.device("cpu")) > 0


def test_what_is_kept_for_the_way_back_grows_with_the_frames_alone():
    class Two(Detector):
        def __init__(self):
            super().__init__(3)
            self.layers = nn.Sequential(nn.Conv3d(1, 4, 1), nn.ReLU(), nn.Conv3d(4, 1, 1))

        def detect(self, clip):
            return self.layers(clip)

    device, network = torch.device("cpu"), Two()
    sizes = [clip_bytes(network, network, (side, side), device) for side in (16, 32)]
    # The clip and the map of four channels between the convolutions.
    assert sizes[1] - sizes[0] == (1 + 4) * 4 * 3 * (32 * 32 - 16 * 16)
    recurrent = build_model("Res-U+RFR")
    assert clip_bytes(recurrent, recurrent, (32, 32), device) > 1 << 20
