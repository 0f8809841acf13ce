"""False tracks a minute: of the footage, whatever was left out of it."""

import pytest

from tests.tracks.test_tracks import run, scene, sequence_of
from utils.tracks.options import TrackOptions


@pytest.mark.parametrize(
    ("own", "stride", "asked", "rate"),
    [
        (None, 1, None, 30),
        (None, 3, None, 10),
        (12.5, 1, None, 12.5),
        (12.5, 3, None, 12.5),  # of the frames that are there
        (12.5, 3, 24, 8),
    ],
)
def test_what_is_counted_a_minute_is_so_of_the_footage(tmp_path, rng, own, stride, asked, rate):
    sequence, scores = sequence_of(*scene(rng))
    sequence.frame_rate, sequence.stride = own, stride
    writer = run(tmp_path, [(sequence, scores)], TrackOptions(frame_rate=asked))
    figures = writer.figures()
    minutes = len(scores) / rate / 60
    assert figures["false_tracks_a_minute"] == pytest.approx(figures["false_tracks"] / minutes)
    assert figures["false_tracks"] > 0 and figures["frame_rate"] == pytest.approx(rate)
    assert f"false tracks a minute at {rate:g} frames a second" in writer.lines()[-1]


def test_footage_of_several_rates_is_counted_by_its_time(tmp_path, rng):
    both = [sequence_of(*scene(rng), name=name) for name in "ab"]
    both[0][0].frame_rate, both[1][0].frame_rate = 10, 25
    writer = run(tmp_path, both)
    minutes = sum(len(scores) / s.frame_rate for s, scores in both) / 60
    figures = writer.figures()
    assert figures["false_tracks_a_minute"] == pytest.approx(figures["false_tracks"] / minutes)
    assert "at 10 to 25 frames a second" in writer.lines()[-1]
