"""A sequence pushed frame by frame scores as it does when cut and stitched as a whole."""

import numpy as np
import pytest
import torch

from data.clips import normalise
from models import build_model
from models.fused import fuse
from models.streaming import StreamingDetector
from utils.windows import cut, stitch, window_starts

MEAN, STD = 105.4025, 26.6452


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(46)
    return fuse(build_model("DeepPro").eval())


def offline(detector, frames, seqlen=40):
    starts = window_starts(len(frames), seqlen)
    windows = []
    for start in starts:
        clip = normalise(cut(frames, start, seqlen), MEAN, STD)
        clip = np.pad(clip, ((0, seqlen - len(clip)), (0, 0), (0, 0)))
        windows.append(torch.sigmoid(detector(torch.from_numpy(clip)[None, None]))[0].numpy())
    return stitch(windows, starts, len(frames))


def run(stream, frames):
    scores = np.full(frames.shape, np.nan, np.float32)
    blocks = [stream.push(frame) for frame in frames] + [stream.finish()]
    for block in blocks:
        if block is not None:
            scores[block.start : block.start + len(block.scores)] = block.scores.numpy()
    return scores


@pytest.mark.parametrize("count", [1, 39, 40, 41, 75, 76, 77, 100, 137])
def test_streaming_equals_offline(detector, rng, count):
    frames = rng.integers(60, 150, (count, 9, 7), dtype=np.uint8)
    stream = StreamingDetector(detector, 40, MEAN, STD)
    np.testing.assert_array_equal(run(stream, frames), offline(detector, frames))


def test_a_stream_starts_afresh_after_its_end_and_takes_16_bits(detector, rng):
    stream = StreamingDetector(detector, 40, MEAN, STD)
    run(stream, rng.integers(60, 150, (50, 8, 8), dtype=np.uint8))
    frames = rng.integers(60, 400, (44, 9, 7), dtype=np.uint16)
    np.testing.assert_array_equal(run(stream, frames), offline(detector, frames))


def test_a_block_comes_with_every_full_window(detector, rng):
    stream = StreamingDetector(detector, 40, MEAN, STD)
    frames = rng.integers(60, 150, (80, 8, 8), dtype=np.uint8)
    blocks = {i: stream.push(frame) for i, frame in enumerate(frames)}
    assert {i: block.start for i, block in blocks.items() if block} == {39: 0, 75: 36}


def test_an_empty_stream_has_no_block(detector):
    assert StreamingDetector(detector, 40, MEAN, STD).finish() is None


def test_a_frame_of_another_size_is_refused(detector):
    stream = StreamingDetector(detector, 40, MEAN, STD)
    stream.push(np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match="frame 1 of shape"):
        stream.push(np.zeros((8, 9), np.uint8))
