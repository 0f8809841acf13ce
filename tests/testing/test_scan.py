"""Scans: what they give is the definition's result, in final blocks, however frames come in."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from models.detector import Detector
from utils.scan import (
    MOST_NARROW,
    ClipNetwork,
    Queue,
    Streamed,
    open_scan,
    padded_size,
    run_clip,
    window_overlap,
    window_starts,
)

MEAN, STD = 100.0, 20.0
LENGTHS = (1, 39, 40, 41, 76, 77, 100, 137)


class WholeClip(Detector):
    """A score that depends on every frame of the clip, and on which of them it is."""

    def __init__(self, seqlen=40):
        super().__init__(seqlen)
        torch.manual_seed(46)
        self.mix = nn.Linear(seqlen, seqlen)

    def detect(self, clip):
        return self.mix(clip.movedim(2, -1)).movedim(-1, 2)


class LastOfFive(Detector):
    seqlen, predicts, pads_to, side_multiple = 5, "last", 16, 8

    def detect(self, clip):
        assert clip.shape[3:] == (16, 16) or clip.shape[3] % 8 == clip.shape[4] % 8 == 0
        weights = torch.arange(1.0, 6).view(5, 1, 1)
        return (clip * weights).sum(2, keepdim=True)


class StreamOfFive(LastOfFive):
    """The same with a stream, whose state is the four frames before."""

    streams = True

    def stream(self, frame, state=None, earlier=None):
        if state is None:
            state = frame[:, :, None].expand(-1, -1, 4, -1, -1) if earlier is None else earlier
        clip = torch.cat([state, frame[:, :, None]], dim=2)
        return self(clip)[:, 0], clip[:, :, 1:]


class Averaging(Detector):
    seqlen, recurrent, side_multiple = 6, True, 4

    def forward(self, frame, state):
        assert frame.shape[2] % 4 == frame.shape[3] % 4 == 0
        state = frame if state is None else 0.5 * (state + frame)
        return state[:, 0], state


def random_frames(count, height=6, width=7):
    return np.random.default_rng(46).integers(60, 140, (count, height, width), dtype=np.uint8)


def scan_of(detector, batch_size=1):
    scan = open_scan(detector, detector.eval(), "cpu", batch_size)
    scan.begin(MEAN, STD)
    return scan


def blocks_of(scan, frames, step):
    blocks = []
    for start in range(0, len(frames), step):
        blocks += scan.push(frames[start : start + step])
    return blocks + scan.finish()


def joined(blocks):
    """The blocks as one array; they have to follow each other."""
    stop = 0
    for start, scores in blocks:
        assert start == stop and scores.dtype == np.float32 and len(scores)
        stop += len(scores)
    return np.concatenate([scores for _, scores in blocks])


def published_stitching(detector, frames):
    """The published test protocol, written out for a whole sequence."""
    seqlen, count = detector.seqlen, len(frames)
    clip = (torch.from_numpy(frames.astype(np.float32)) - MEAN) / STD
    scores = np.zeros(frames.shape, np.float32)
    overlap = int(0.1 * seqlen)
    for window in range(max(-(-(count - overlap) // (seqlen - overlap)), 1)):
        start = max(min(window * (seqlen - overlap), count - seqlen), 0)
        part = clip[start : start + seqlen]
        part = torch.cat([part, torch.zeros(seqlen - len(part), *part.shape[1:])])
        with torch.no_grad():
            found = torch.sigmoid(detector(part[None, None]))[0].numpy()
        span = scores[start : start + seqlen]
        np.maximum(span, found[: len(span)], out=span)
    return scores


def frame_by_frame(detector, frames):
    """A detector of last frames, called for each; the first frame stands for those before it."""
    clip = (torch.from_numpy(frames.astype(np.float32)) - MEAN) / STD
    clip = torch.cat([clip[:1].expand(detector.seqlen - 1, -1, -1), clip])
    scores = []
    for start in range(len(frames)):
        logits = run_clip(detector, clip[None, None, start : start + detector.seqlen], detector)
        scores.append(torch.sigmoid(logits[0, -1]).detach().numpy())
    return np.stack(scores)


@pytest.mark.parametrize("count", LENGTHS)
@pytest.mark.parametrize("step, batch_size", [(1, 1), (16, 1), (137, 1), (16, 3), (1, 2)])
def test_windows_give_the_published_result_however_frames_come_in(count, step, batch_size):
    detector, frames = WholeClip(), random_frames(count)
    scores = joined(blocks_of(scan_of(detector, batch_size), frames, step))
    # Clips in batches are multiplied in another order than one by one.
    np.testing.assert_allclose(scores, published_stitching(detector, frames), atol=2e-7)


@pytest.mark.parametrize("kind", (LastOfFive, StreamOfFive))
@pytest.mark.parametrize("count", (1, 4, 5, 23))
@pytest.mark.parametrize("step, batch_size", [(1, 1), (7, 1), (7, 3)])
def test_a_last_frame_detector_is_called_for_every_frame(kind, count, step, batch_size):
    detector, frames = kind(), random_frames(count)
    scan = scan_of(detector, batch_size)
    assert isinstance(scan, Streamed) == (detector.streams and batch_size == 1)
    scores = joined(blocks_of(scan, frames, step))
    np.testing.assert_allclose(scores, frame_by_frame(detector, frames), rtol=1e-6)


@pytest.mark.parametrize("kind", (LastOfFive, StreamOfFive))
@pytest.mark.parametrize("known", (1, 4, 6))
def test_earlier_frames_stand_before_the_first(kind, known):
    detector, frames = kind(), random_frames(12)
    scan = scan_of(detector)
    scan.begin(MEAN, STD, frames[6 - known : 6])
    whole = np.concatenate([np.repeat(frames[6 - known : 7 - known], 4, 0), frames[6 - known :]])
    expected = frame_by_frame(detector, whole)[-6:]
    np.testing.assert_allclose(joined(blocks_of(scan, frames[6:], 5)), expected, rtol=1e-6)


@pytest.mark.parametrize("step", (1, 5))
def test_a_recurrent_detector_keeps_its_state_within_a_sequence_only(step):
    detector, frames = Averaging(), random_frames(11)
    scan = scan_of(detector)
    first = joined(blocks_of(scan, frames, step))
    np.testing.assert_array_equal(joined(blocks_of(scan, frames, step)), first)
    clip = (torch.from_numpy(frames.astype(np.float32)) - MEAN) / STD
    with torch.no_grad():
        unrolled = torch.sigmoid(run_clip(detector, clip[None, None], detector))[0].numpy()
    np.testing.assert_allclose(first, unrolled, atol=1e-7)


@pytest.mark.parametrize("detector", (WholeClip(), LastOfFive(), Averaging()), ids=repr)
def test_blocks_wait_no_longer_than_the_delay_and_never_change(detector):
    frames = random_frames(150)
    scan, given, copies = scan_of(detector), [], []
    for count, frame in enumerate(frames, start=1):
        given += scan.push(frame)
        copies += [block.scores.copy() for block in given[len(copies) :]]
        assert count - sum(map(len, copies)) <= scan.delay
    given += scan.finish()
    for block, copy in itertools.zip_longest(given[: len(copies)], copies):
        np.testing.assert_array_equal(block.scores, copy)


def test_a_scan_keeps_no_more_frames_of_a_long_sequence_than_of_a_short_one():
    scan, kept = scan_of(WholeClip(10)), []
    scan.push(random_frames(10))
    for _ in range(100):
        scan.push(random_frames(9))
        kept.append(len(scan.frames.store) + len(scan.scores.store))
    assert max(kept[10:]) == max(kept[:10])


def test_frames_of_last_clips_are_let_go():
    scan = scan_of(LastOfFive(), batch_size=3)
    for _ in range(100):
        scan.push(random_frames(7))
    assert scan.frames.length <= 4 + 2 and len(scan.frames.store) < 60


@pytest.mark.parametrize("kind", (WholeClip, LastOfFive, StreamOfFive, Averaging))
def test_the_type_of_frames_may_change_within_a_sequence(kind):
    detector, frames = kind(), random_frames(60).astype(np.uint16)
    frames[10:] += 300  # more than the first type can hold
    scan, blocks = scan_of(detector), []
    for start, dtype in zip(range(0, 60, 10), ("u1", ">u2", "f4", "u2", "i4", "f8"), strict=True):
        blocks += scan.push(frames[start : start + 10].astype(dtype))
    expected = joined(blocks_of(scan_of(detector), frames, 60))
    np.testing.assert_array_equal(joined(blocks + scan.finish()), expected)


@pytest.mark.parametrize("kind", (LastOfFive, StreamOfFive))
def test_earlier_frames_are_of_one_sequence_only_and_may_be_none(kind):
    frames = random_frames(12)
    scan = scan_of(kind())
    expected = joined(blocks_of(scan, frames, 5))
    scan.begin(MEAN, STD, frames[6:9])
    scan.push(frames)
    scan.finish()
    np.testing.assert_array_equal(joined(blocks_of(scan, frames, 5)), expected)
    scan.begin(MEAN, STD, frames[:0])
    np.testing.assert_array_equal(joined(blocks_of(scan, frames, 5)), expected)


@pytest.mark.parametrize("kind", (LastOfFive, StreamOfFive))
def test_earlier_frames_of_another_size_are_refused(kind):
    scan = scan_of(kind())
    scan.begin(MEAN, STD, random_frames(3, 5, 7))
    with pytest.raises(ValueError, match=r"before the first one of shape \(3, 5, 7\)"):
        scan.push(random_frames(4))


@pytest.mark.parametrize("kind", (WholeClip, LastOfFive, StreamOfFive, Averaging))
def test_a_sequence_in_which_the_network_failed_does_not_go_on(kind):
    detector, frames = kind(), random_frames(50)
    scan = open_scan(detector, None)
    scan.begin(MEAN, STD)
    with pytest.raises((TypeError, AttributeError)):
        scan.push(frames)
    for go_on in (lambda: scan.push(frames), scan.finish):
        with pytest.raises(ValueError, match="expected `begin` first"):
            go_on()
    scan.network = detector.eval()
    scan.begin(MEAN, STD)
    expected = joined(blocks_of(scan_of(detector), frames, 9))
    np.testing.assert_array_equal(joined(blocks_of(scan, frames, 9)), expected)


@pytest.mark.parametrize("kind", (WholeClip, LastOfFive, StreamOfFive, Averaging))
def test_a_sequence_goes_on_without_frames_that_were_refused(kind):
    detector, frames = kind(), random_frames(50)
    scan, blocks = scan_of(detector), []
    for start in range(0, 50, 5):
        blocks += scan.push(frames[start : start + 5])
        with pytest.raises(ValueError, match="NaN"):
            scan.push(np.full((3, 6, 7), np.nan))
    expected = joined(blocks_of(scan_of(detector), frames, 5))
    np.testing.assert_array_equal(joined(blocks + scan.finish()), expected)


def test_logits_are_of_the_size_of_the_clip_whatever_the_canvas():
    clip = torch.rand(2, 1, 5, 9, 11)
    assert run_clip(LastOfFive(), clip, LastOfFive()).shape == (2, 1, 9, 11)
    assert padded_size(LastOfFive(), 9, 11) == (16, 16)
    assert padded_size(LastOfFive(), 7, 8, canvas=False) == (8, 8)
    assert padded_size(LastOfFive(), 9, 17) == (16, 24)  # does not fit on the canvas
    assert padded_size(WholeClip(), 9, 17) == (9, 17)


def test_a_clip_network_is_one_module_that_trains():
    detector = WholeClip(4)
    network = ClipNetwork(detector, detector)
    assert len(list(network.parameters())) == 2
    network(torch.rand(1, 1, 4, 3, 3)).sum().backward()
    assert detector.mix.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "frames, message",
    [
        (np.zeros((2, 5, 7)), "5x7 pixels, but the sequence has 6x7"),
        (np.full((2, 6, 7), np.nan), "frame 1: a grey level is NaN"),
        (np.full((2, 6, 7), 1e300), "frame 1: a grey level is NaN or infinite in float32"),
        (np.zeros((6, 7), complex), "expected real numbers"),
        (np.zeros((1, 2, 6, 7)), r"expected \(height, width\)"),
        (np.array([["a", "b"]]), "expected real numbers|6x7"),
    ],
)
def test_frames_that_cannot_be_meant_are_refused(frames, message):
    scan = scan_of(WholeClip())
    scan.push(random_frames(1))
    with pytest.raises(ValueError, match=message):
        scan.push(frames)


def test_a_colour_image_is_not_taken_for_frames():
    with pytest.raises(ValueError, match="one grey level a pixel"):
        scan_of(WholeClip()).push(np.zeros((60, 70, 3), np.uint8))


@pytest.mark.parametrize("width", (3, 4))
def test_narrow_frames_are_no_colour_image(width):
    frames = np.random.default_rng(0).random((MOST_NARROW, 9, width), dtype=np.float32)
    scan_of(WholeClip()).push(frames)
    with pytest.raises(ValueError, match="at most 16 at a time"):
        scan_of(WholeClip()).push(np.repeat(frames, 2, 0))


@pytest.mark.parametrize(
    "mean, std", [(0, 0), (np.nan, 1), (0, np.inf), (0, -1), (0, np.nan), (0, 1e-60), (1e60, 1)]
)
def test_a_normalisation_that_gives_no_numbers_is_refused(mean, std):
    with pytest.raises(ValueError, match="std above 0"):
        scan_of(WholeClip()).begin(mean, std)


@pytest.mark.parametrize(
    "form",
    [
        lambda frames: frames.astype(">u2"),
        lambda frames: frames[:, ::-1].copy()[:, ::-1],
        lambda frames: torch.from_numpy(frames),
        lambda frames: list(frames),
        lambda frames: frames.astype(np.float64),
    ],
    ids=("big-endian", "flipped view", "tensor", "list", "float64"),
)
def test_frames_of_any_form_give_the_same_scores(form):
    detector, frames = WholeClip(), random_frames(45)
    expected = joined(blocks_of(scan_of(detector), frames, 45))
    np.testing.assert_array_equal(joined(blocks_of(scan_of(detector), form(frames), 45)), expected)


def test_levels_far_from_zero_keep_their_differences():
    frames = random_frames(45).astype(np.float64)
    detector, scan = WholeClip(), scan_of(WholeClip())
    expected = joined(blocks_of(scan_of(detector), frames, 45))
    scan.begin(MEAN + 1e9, STD)
    np.testing.assert_allclose(joined(blocks_of(scan, frames + 1e9, 45)), expected, atol=1e-6)


def test_a_queue_gives_back_what_was_put_in(rng):
    queue, everything = Queue(), np.zeros((0, 2, 2), np.float32)
    for _ in range(60):
        new = rng.random((rng.integers(1, 6), 2, 2), np.float32)
        queue.append(new)
        everything = np.concatenate([everything, new])
        queue.drop(int(rng.integers(queue.first, queue.stop + 1)))
        np.testing.assert_array_equal(
            queue.slice(queue.first, queue.stop), everything[queue.first :]
        )


@pytest.mark.parametrize("seqlen", (1, 5, 10, 40))
@pytest.mark.parametrize("frames", (1, 5, 39, 40, 41, 76, 100, 137))
def test_window_starts_cover_every_frame(frames, seqlen):
    starts = window_starts(frames, seqlen)
    covered = {i for start in starts for i in range(start, min(start + seqlen, frames))}
    assert covered == set(range(frames))
    stride = seqlen - window_overlap(seqlen)
    assert len(starts) == max(-(-(frames - window_overlap(seqlen)) // stride), 1)


def test_windows_of_the_published_length():
    assert window_starts(100, 40) == [0, 36, 60]
    assert window_starts(40, 40) == [0]
    assert window_starts(7, 40) == [0]
    with pytest.raises(ValueError, match="at least 1"):
        window_starts(0, 40)
