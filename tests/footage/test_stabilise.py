"""Moving cameras: frames are laid on each other for the network, and its scores moved back."""

import numpy as np
import pytest
import torch
from scipy import ndimage

import test as test_script
from models import build_model
from models.detector import Detector
from models.registration import follow_view
from tests.builders import call, write_image
from tests.training.runs import refused
from utils.checkpoint import save
from utils.scan import Stabiliser, open_scan, run_clip


class Level(Detector):
    """The logit of a pixel is its grey level."""

    def __init__(self, seqlen=8, predicts="all"):
        super().__init__(seqlen)
        self.predicts = predicts

    def detect(self, clip):
        return clip if self.predicts == "all" else clip[:, :, -1:]


class AboveItsMean(Detector):
    """The logit of a pixel is what it has above its mean over the clip, less 3."""

    def detect(self, clip):
        return 4 * (clip - clip.mean(2, keepdim=True) - 3)


def moving(rng, moves, size=(48, 56)):
    """Frames (T, H, W) of a fixed scene, seen at these (row, column) places."""
    reach = 40
    whole = ndimage.gaussian_filter(rng.normal(size=[side + 2 * reach for side in size]), 0.7) * 5
    views = [whole[reach + row :, reach + column :][: size[0], : size[1]] for row, column in moves]
    return np.stack(views).astype(np.float32)


def stabilised(frames, detector):
    """(scores of all frames, the stabiliser) of a scan with it."""
    stabiliser = Stabiliser(follow_view)
    scan = open_scan(detector, detector, stabiliser=stabiliser)
    scan.begin(0.0, 1.0)
    blocks = scan.push(frames) + scan.finish()
    return np.concatenate([block.scores for block in blocks]), stabiliser


def in_view(moves, size):
    """Which pixels of frames (T, H, W) show a place that a quarter of the frames show."""
    rows, columns = np.indices(size)
    places = [(rows + row, columns + column) for row, column in moves]
    counts = []
    for r, c in places:
        inside = [
            (r >= row) & (r < row + size[0]) & (c >= column) & (c < column + size[1])
            for row, column in moves
        ]
        counts.append(np.sum(inside, axis=0))
    return np.array(counts) >= len(moves) / 4


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


MOVES = [(0, 0), (1, -2), (3, -3), (2, -5), (4, -7), (5, -9), (7, -10), (8, -12)]


@pytest.mark.parametrize("frames", [3, 8])
def test_scores_return_to_where_the_frames_were(rng, frames):
    """Also of a sequence shorter than a clip, whose padding does not take part."""
    clip = moving(rng, MOVES[:frames])
    scores, stabiliser = stabilised(clip, Level())
    seen = in_view(MOVES[:frames], clip.shape[1:])
    assert np.allclose(scores, np.where(seen, sigmoid(clip), 0), atol=1e-6)
    assert stabiliser.unseen == np.count_nonzero(~seen) and stabiliser.pixels == seen.size
    expected = np.abs(np.subtract(MOVES[:frames], MOVES[frames // 2])).max(0)
    assert stabiliser.largest.tolist() == expected.tolist()
    path = np.hypot(*np.diff(MOVES[:frames], axis=0).T)
    assert f"{path.mean():.2f} px from one to the next" in stabiliser.line()
    assert "fit no other" not in stabiliser.line()


def test_a_still_camera_gets_the_scores_it_had(rng):
    clip = np.repeat(moving(rng, [(0, 0)]), 20, axis=0)
    clip += rng.normal(size=clip.shape).astype(np.float32)
    torch.manual_seed(1)
    detector = build_model("DeepPro", 8).eval()
    scan = open_scan(detector, detector)
    scan.begin(0.0, 1.0)
    plain = np.concatenate([block.scores for block in scan.push(clip) + scan.finish()])
    scores, stabiliser = stabilised(clip, detector)
    assert np.array_equal(scores, plain) and not stabiliser.largest.any()


def test_the_network_sees_a_scene_that_stands_still(rng):
    clip = moving(rng, MOVES)
    seen = []

    class Watching(Level):
        def detect(self, clip):
            seen.append(clip[0, 0].clone())
            return clip

    stabilised(clip, Watching())
    (canvas,) = seen
    middle = clip[4]
    views = canvas.numpy()
    places = [
        (r, c)
        for r in range(views.shape[1] - 47)
        for c in range(views.shape[2] - 55)
        if np.allclose(views[4, r : r + 48, c : c + 56], middle)
    ]
    assert len(places) == 1
    top, left = places[0]
    for frame in views:  # what no frame shows of it is the mean of those that do
        assert np.allclose(frame[top : top + 48, left : left + 56], middle, atol=1e-5)


def test_alarms_of_a_panning_camera_go_and_the_target_stays(rng):
    moves = [(0, 2 * t) for t in range(8)]
    clip = moving(rng, moves)
    for t in range(8):
        clip[t, 10 + 3 * t, 20] += 12
    detector = AboveItsMean(8)
    logits = run_clip(detector, torch.from_numpy(clip)[None, None], detector)[0]
    still, _ = stabilised(clip, detector)
    mine = np.zeros(clip.shape, bool)
    mine[np.arange(8), 10 + 3 * np.arange(8), 20] = True
    assert (torch.sigmoid(logits).numpy()[~mine] > 0.5).mean() > 20 * (still[~mine] > 0.5).mean()
    assert (still[mine] > 0.5).all()


def test_what_was_in_view_too_briefly_is_unseen(rng):
    """A view that steps aside by 16 columns for its last frame of 8: their scores there are 0."""
    clip = moving(rng, [(0, 0)] * 7 + [(0, 16)])
    scores, stabiliser = stabilised(clip + 9, Level())
    assert (scores[:7] > 0.5).all() and (scores[7, :, :40] > 0.5).all()
    assert not scores[7, :, 40:].any()
    assert stabiliser.unseen == 48 * 16 and stabiliser.pixels == clip.size
    assert f"{100 * 48 * 16 / clip.size:.2f} % of the pixels unseen" in stabiliser.line()


def test_the_canvas_grows_by_half_a_side_at_most(rng):
    def jump(frames):
        shifts = np.full((8, 2), (0, 50))
        shifts[4] = 0
        return shifts, np.arange(8) < 7

    clip = rng.normal(5, 1, (1, 1, 8, 48, 56)).astype(np.float32)
    sizes = []

    def run(canvas):
        sizes.append(tuple(canvas.shape[-2:]))
        return canvas[:, 0]

    stabiliser = Stabiliser(jump)
    logits = stabiliser.run(torch.from_numpy(clip), run)
    assert sizes == [(48, 84)] and logits.shape == (1, 8, 48, 56)
    assert torch.isneginf(logits[0, 0, :, 34:]).all()  # of a frame that lies beyond the canvas
    assert "; 14.29 % of the frames fit no other" in stabiliser.line()  # one of seven steps


def test_of_a_last_frame_it_is_the_last_frames_scores_that_return(rng):
    clip = moving(rng, MOVES)
    scores, _ = stabilised(clip, Level(4, "last"))
    assert np.allclose(scores, sigmoid(clip), atol=1e-6)


def test_a_stabilised_test_says_what_it_found(tmp_path, rng, capsys):
    clip = moving(rng, [(0, t) for t in range(12)])
    for number, frame in enumerate(np.clip(100 + 10 * clip, 0, 255).astype(np.uint8)):
        write_image(tmp_path / f"clip/{number:03d}.png", frame)
    words = f"--dataset Frames --datapath {tmp_path}/clip --output {tmp_path}/out --no-overlay"
    assert call(test_script, words, "--model TemporalZScore --gpu cpu --stabilise") == 0
    assert "on average 1.00 px from one to the next" in capsys.readouterr().out
    for number in range(12):
        write_image(
            tmp_path / f"labelled/masks/{number:03d}.png", np.eye(48, 56, dtype=np.uint8) * 255
        )
    (tmp_path / "clip").rename(tmp_path / "labelled/images")
    words = f"--dataset Frames --datapath {tmp_path}/labelled --output {tmp_path}/out --no-overlay"
    assert call(test_script, words, "--model TemporalZScore --gpu cpu --stabilise") == 0
    assert "on average 1.00 px from one to the next" in capsys.readouterr().out


def test_a_recurrent_network_is_refused(tmp_path, rng, capsys):
    write_image(tmp_path / "clip/000.png", rng.integers(0, 255, (20, 20), dtype=np.uint8))
    weights = tmp_path / "rfr.pth"
    save(weights, build_model("Res-U+RFR").state_dict())
    words = f"--dataset Frames --datapath {tmp_path}/clip --model Res-U+RFR --weights {weights}"
    refused(capsys, call(test_script, words, "--gpu cpu --stabilise"), "takes frame by frame")
