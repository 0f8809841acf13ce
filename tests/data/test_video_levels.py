"""What a video's pixels become: levels of full and limited range, frames that are damaged."""

import warnings

import numpy as np
import pytest

from data.formats.video import VideoFrames
from data.remarks import DataWarning, Remarks
from tests.builders import write_video

av = pytest.importorskip("av", reason="no decoder for videos; pip install av")
LIMITED, FULL = 1, 2


def read(path):
    """(all frames, the remarks made)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frames = VideoFrames(path, Remarks()).read(0, 1000)
    return frames, [str(one.message) for one in caught if one.category is DataWarning]


def stretched(levels):
    """Limited levels as grey ones, the nearest."""
    return np.clip((levels.astype(float) - 16) * 255 / 219, 0, 255)


@pytest.mark.parametrize("low", (0, 228))
def test_levels_beyond_the_limited_range_are_kept_where_nothing_says_that_they_are_none(
    tmp_path, rng, low
):
    frames = rng.integers(low, low + 28, (5, 16, 32), dtype=np.uint8)
    found, remarks = read(write_video(tmp_path / "dark.mkv", frames))
    np.testing.assert_array_equal(found, frames)
    (remark,) = remarks
    assert "dark.mkv: its levels go beyond 16 to 235" in remark


@pytest.mark.parametrize("said", (0, LIMITED))
def test_limited_levels_are_stretched_and_what_is_cut_off_is_told(tmp_path, rng, said):
    frames = rng.integers(16, 236, (5, 16, 32), dtype=np.uint8)
    frames[:, 0, 0] = 5  # noise beyond black
    found, remarks = read(write_video(tmp_path / "plain.mkv", frames, said))
    assert np.abs(found - stretched(frames)).max() <= 1 and remarks == []
    frames[3, :2] = 250
    found, (remark,) = read(write_video(tmp_path / "later.mkv", frames, said))
    assert np.abs(found - stretched(frames)).max() <= 1
    assert "later.mkv, frame 4: 12% of the pixels lie beyond" in remark


def test_a_full_range_that_is_said_is_read_as_it_is(tmp_path, rng):
    frames = rng.integers(0, 256, (5, 16, 32), dtype=np.uint8)
    found, remarks = read(write_video(tmp_path / "full.mkv", frames, FULL))
    np.testing.assert_array_equal(found, frames)
    assert remarks == []


def test_a_range_read_again_has_the_same_levels(tmp_path, rng):
    frames = rng.integers(0, 30, (6, 16, 32), dtype=np.uint8)
    frames[3:] += 100
    path = write_video(tmp_path / "again.mkv", frames)
    with pytest.warns(DataWarning, match="beyond"):
        video = VideoFrames(path, Remarks())
        np.testing.assert_array_equal(video.read(3, 6), frames[3:])
        np.testing.assert_array_equal(video.read(1, 4), frames[1:4])
        np.testing.assert_array_equal(video.fresh().read(4, 6), frames[4:])
        np.testing.assert_array_equal(list(video.stream()), frames)


def test_frames_that_are_not_to_be_shown_are_not_missing(tmp_path, rng):
    frames = rng.integers(60, 200, (12, 16, 32), dtype=np.uint8)
    path = write_video(tmp_path / "cut.mp4", frames, first=-3, bf="0")
    with av.open(str(path)) as video:
        assert video.streams.video[0].frames == 12
    found, remarks = read(path)
    assert np.abs(found - stretched(frames[3:])).max() <= 1 and remarks == []


def test_a_damaged_frame_that_the_decoder_made_up_is_told(tmp_path, rng):
    frames = rng.integers(60, 200, (12, 64, 64), dtype=np.uint8)
    path = write_video(tmp_path / "cut.mp4", frames, bf="0")
    assert read(path)[1] == []
    with av.open(str(path)) as video:
        packets = [(p.pos, p.size) for p in video.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    start = packets[7][0] + packets[7][1] // 2
    content[start : start + 40] = rng.bytes(40)
    path.write_bytes(content)
    found, remarks = read(path)
    assert not np.array_equal(found[7], np.rint(stretched(frames[7])))
    (remark,) = remarks
    assert "cut.mp4, frame 8: damaged" in remark
