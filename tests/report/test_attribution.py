"""Attribution: gradient times input, and which pixel and clip it is of."""

import numpy as np
import pytest
import torch

from models import build_model
from models.detector import Detector
from tests.report.scored import Bright, feed, sequence_of
from utils.attribution.gradient_times_input import gradient_times_input
from utils.attribution.writer import Attributions


class Linear(Detector):
    """The logit of every pixel is one weighted sum of its clip."""

    def __init__(self, shape):
        super().__init__(shape[0])
        self.weights = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def detect(self, clip):
        return (self.weights * clip).sum() * torch.ones_like(clip)


class LastFrame(Bright):
    predicts = "last"


def test_gradient_times_input_of_a_linear_detector_adds_up_to_the_logit():
    detector = Linear((5, 6, 7))
    clip = torch.randn(1, 1, 5, 6, 7, generator=torch.Generator().manual_seed(2))
    attribution = gradient_times_input(detector, clip, 3, 2, 1)
    np.testing.assert_allclose(attribution, (detector.weights * clip)[0, 0], rtol=1e-6)


def written(folder, detector, sequence, scores, threshold=2.0):
    """What is written of a sequence: the arrays of its npz by name; None if nothing is."""
    feed([Attributions(folder, detector, "cpu", threshold)], sequence, scores, size=3)
    path = folder / f"{sequence.name}.npz"
    if not path.exists():
        return None
    assert (folder / f"{sequence.name}.png").stat().st_size > 1000
    with np.load(path) as result:
        return dict(result)


@pytest.mark.parametrize("frames", [1, 5, 8, 11, 30])
def test_the_best_scored_target_pixel_is_attributed_in_the_clip_around_it(tmp_path, rng, frames):
    scores = rng.random((frames, 20, 90), np.float32)
    masks = (rng.random(scores.shape) < 0.01).astype(np.uint8)
    sequence = sequence_of("s", scores, masks)
    found = written(tmp_path / "a", Bright(), sequence, scores)
    frame, row, column = int(found["frame"]) - 1, int(found["row"]), int(found["column"])
    assert scores[frame, row, column] == scores[masks > 0].max() and masks[frame, row, column] == 1
    count = min(frames, 8)
    span = found["numbers"] - 1
    assert list(span) == list(range(span[0], span[0] + count)) and frame in span
    assert span[0] in (0, frames - count, frame - 4)
    np.testing.assert_array_equal(found["levels"], sequence.frames[span, row, column])
    np.testing.assert_array_equal(found["scores"], scores[span, row, column])
    # The logit is 6 (x - limit) of that pixel alone.
    levels = (sequence.frames[frame, row, column].astype(np.float32) - 100) / 20
    expected = np.zeros(count)
    expected[frame - span[0]] = 6 * levels
    np.testing.assert_allclose(found["pixel_attribution"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["frame_attribution"], expected, rtol=1e-5)
    local = found["maps"][:, row - found["top"], column - found["left"]]
    np.testing.assert_array_equal(local, found["pixel_attribution"])


@pytest.mark.parametrize("row", [0, 31, 66, 96, 98])
def test_the_patch_holds_the_pixel_wherever_it_is(tmp_path, row):
    scores = np.zeros((9, 99, 101), np.float32)
    scores[4, row, 100] = 0.9
    found = written(tmp_path, Bright(), sequence_of("s", scores), scores, threshold=0.9)
    assert (int(found["row"]), int(found["column"]), int(found["frame"])) == (row, 100, 5)
    assert found["maps"][4, row - found["top"], 100 - found["left"]] != 0
    assert found["top"] % 4 == found["left"] % 4 == 0 and min(found["maps"].shape[1:]) >= 61


def test_nothing_is_written_where_nothing_is_found_or_frames_are_resized(tmp_path, rng):
    scores = rng.random((9, 20, 20), np.float32)
    assert written(tmp_path, Bright(), sequence_of("low", scores), scores, 2.0) is None
    resized = sequence_of("s", scores, (scores > 0.99).astype(np.uint8), scores[:, :10].copy())
    assert written(tmp_path, Bright(), resized, scores) is None
    # The writer forgets: a sequence without a target has nothing of the one before.
    writer = Attributions(tmp_path, Bright(), "cpu", 2.0)
    feed([writer], sequence_of("with", scores, (scores > 0.99).astype(np.uint8)), scores)
    feed([writer], sequence_of("without", scores), scores)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["with.npz", "with.png"]
    assert writer.close() == [tmp_path]


def test_a_detector_of_last_frames_is_refused_before_the_test(tmp_path):
    with pytest.raises(ValueError, match="LastFrame predicts the last frame") as error:
        Attributions(tmp_path, LastFrame(), "cpu", 0.5)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ("TopHat", "TemporalZScore"))
def test_a_filter_without_gradient_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="has no gradient"):
        Attributions(tmp_path / "a", build_model(name), "cpu", 0.5)
    assert not (tmp_path / "a").exists()
