"""Overlays as videos: every frame, its marks, and trails of the tracks that are kept."""

import sys

import numpy as np
import pytest
from PIL import Image

import test as test_script
from data.formats.encoder import VideoFile
from data.formats.video import VideoFrames
from data.remarks import Remarks
from tests.builders import call, write_image
from tests.report.scored import MAIN, blocks_of, feed, sequence_of
from tests.training.runs import refused
from utils.report.marks import ALARM, DETECTION, FOUND, MISSED
from utils.report.overlay import COLOURS, enlargement, with_legend
from utils.tracks.options import TrackOptions
from utils.tracks.video import TRAIL_COLOUR, OverlayVideos
from utils.tracks.writer import Tracks

pytest.importorskip("av")


class Kept:
    """A video that is a list of its pictures."""

    def __init__(self, file, rate):
        self.file, self.rate, self.pictures, self.closed = file, rate, [], False

    def add(self, picture):
        self.pictures.append(picture)

    def close(self):
        self.closed = True


def draw(folder, sequence, scores, size=7, **options):
    """The pictures of a sequence's video."""
    opened = []

    def open_video(*given):
        opened.append(Kept(*given))
        return opened[-1]

    writer = OverlayVideos(folder, 0.5, MAIN, TrackOptions(**options), open_video)
    feed([writer], sequence, scores, size)
    (video,) = opened
    assert video.closed and writer.count == 1 and writer.close() == [folder]
    return video.pictures


def has(picture, colour):
    """Whether a picture has this colour below its legend."""
    return bool((picture[48:] == colour).all(-1).any())


@pytest.fixture
def moving():
    """Scores of a target that moves through 12 frames, one alarm; and the centroids."""
    scores, centroids = np.zeros((2, 12, 40, 44), np.float32)
    for t in range(12):
        scores[t, 10 + t, 2 * t + 5] = 0.9
        centroids[t, 10 + t, 2 * t + 5] = 1
    scores[6, 35, 40] = 0.8
    return scores, centroids.astype(np.uint8)


@pytest.mark.parametrize("size", [1, 5, 12])
def test_every_frame_has_its_marks_and_the_trail_so_far(tmp_path, moving, size):
    scores, centroids = moving
    pictures = draw(tmp_path, sequence_of("x", scores, centroids), scores, size)
    assert len(pictures) == 12
    for index, picture in enumerate(pictures):
        assert has(picture, COLOURS[FOUND]) and not has(picture, COLOURS[MISSED])
        assert has(picture, COLOURS[ALARM]) == (index == 6)
        assert has(picture, TRAIL_COLOUR)  # at least its number
    whole = draw(tmp_path, sequence_of("x", scores, centroids), scores, 4)
    assert all(map(np.array_equal, pictures, whole))


def test_the_trail_runs_along_the_places_of_before(tmp_path, moving):
    scores, centroids = moving
    last = draw(tmp_path, sequence_of("x", scores, centroids), scores)[-1]
    scale = enlargement(40, 44)
    left = (last.shape[1] - 44 * scale) // 2
    for t in range(9):  # nearer ones lie under the marks
        row, column = round((10 + t + 0.5) * scale) + 48, round((2 * t + 5.5) * scale) + left
        near = last[row - 2 : row + 3, column - 2 : column + 3]
        assert (near == TRAIL_COLOUR).all(-1).any(), t


def test_what_belongs_to_no_track_is_not_drawn_and_finds_nothing(tmp_path, moving):
    scores, centroids = moving
    centroids[6, 35, 40] = 1  # now a target, found in one frame
    pictures = draw(tmp_path, sequence_of("x", scores, centroids), scores, min_track=3)
    assert [has(picture, COLOURS[MISSED]) for picture in pictures] == [t == 6 for t in range(12)]


def test_a_track_that_is_never_sure_is_not_drawn(tmp_path, moving):
    scores, centroids = moving
    scores[9] *= 1.05  # 0.945, once
    sequence = sequence_of("x", scores, centroids)
    pictures = draw(tmp_path, sequence, scores, min_track=3, min_score=0.92)
    assert all(has(picture, COLOURS[FOUND]) for picture in pictures)
    for picture in draw(tmp_path, sequence, scores, min_track=3, min_score=0.96):
        assert has(picture, COLOURS[MISSED]) and not has(picture, TRAIL_COLOUR)


def test_marks_end_where_they_may_reach(tmp_path):
    scores, centroids = np.zeros((2, 3, 40, 44), np.float32)
    scores[:, 20, 5:30] = 0.9
    scores[:, 20, 17] = 0.95
    centroids[:, 20, 17] = 1
    sequence = sequence_of("x", scores, centroids)
    for reach, alarms in ((None, True), (5, True), (4, False)):  # the guard is 4 pixels
        for picture in draw(tmp_path, sequence, scores, mark_reach=reach):
            assert has(picture, COLOURS[FOUND]) and has(picture, COLOURS[ALARM]) == alarms


def test_without_masks_detections_are_drawn(tmp_path, moving):
    pictures = draw(tmp_path, sequence_of("x", moving[0]), moving[0])
    assert all(has(picture, COLOURS[DETECTION]) for picture in pictures)
    assert not any(has(picture, COLOURS[FOUND]) for picture in pictures)


def test_letters_that_the_font_lacks_are_written_out_wherever_a_legend_is_drawn():
    picture, kinds = Image.new("RGB", (40, 30)), (DETECTION,)
    pages = [with_legend(picture, name, "2", kinds) for name in ("红外", r"\u7ea2\u5916", "a")]
    page, written_out, other = (np.asarray(each) for each in pages)
    assert np.array_equal(page, written_out) and not np.array_equal(page, other)


def test_numbers_are_those_of_the_tracks_that_are_written(tmp_path, moving):
    scores, _ = moving
    sequence, options = sequence_of("x", scores), TrackOptions()
    videos = OverlayVideos(tmp_path, 0.5, MAIN, options, Kept)
    tracks = Tracks(tmp_path, 0.5, MAIN, options)
    for start in (0, 6):
        block = next(b for b in blocks_of(sequence, scores, 6) if b.start == start)
        videos.add(block)
        tracks.add(block)
    drawn = videos.sequence.numbers
    written = {t: t.number for t in tracks.sequence.kept}
    drawn, written = (
        sorted((track.first, track.last, number) for track, number in found.items())
        for found in (drawn, written)
    )
    assert drawn == written and len(drawn) == 2


def test_frames_wait_no_longer_than_a_track_can_take(tmp_path, rng):
    scores = (rng.random((120, 20, 20)) > 0.99).astype(np.float32)
    sequence = sequence_of("x", scores)
    options = TrackOptions(min_track=3, gap=2)
    writer = OverlayVideos(tmp_path, 0.5, MAIN, options, Kept)
    for block in blocks_of(sequence, scores, 6):
        writer.add(block)
        assert len(writer.sequence.waiting) <= (options.min_track - 1) * (options.gap + 1) + 1
        assert all(len(trail) <= 30 for trail in writer.sequence.trails.values())


@pytest.mark.parametrize("shape", [(31, 33), (32, 48)])
def test_a_video_file_gives_back_its_pictures(tmp_path, shape):
    ramp = np.linspace(20, 230, shape[1]).astype(np.uint8)
    with (tmp_path / "x.mp4").open("wb") as file:
        video = VideoFile(file, 25)
        for level in range(10):
            grey = np.broadcast_to(ramp, shape) + np.uint8(2 * level)
            video.add(np.repeat(grey[..., None], 3, axis=2))
        video.close()
    read = VideoFrames(tmp_path / "x.mp4", Remarks()).read(0, 20)
    assert read.shape[0] == 10 and read.shape[1:] == tuple(side + side % 2 for side in shape)
    rise = read[:, : shape[0], : shape[1]].mean((1, 2))
    assert np.diff(rise).mean() == pytest.approx(2 * 219 / 255, abs=0.5)  # video levels


def test_a_test_writes_videos(tmp_path, rng):
    frames = rng.integers(90, 110, (12, 24, 24), dtype=np.uint8)
    for number, frame in enumerate(frames):
        write_image(tmp_path / f"clip/{number:03d}.png", frame)
    words = f"--dataset Frames --datapath {tmp_path}/clip --model TemporalZScore --gpu cpu"
    output = tmp_path / "out"
    assert call(test_script, words, f"--overlay_video --no-overlay --output {output}") == 0
    assert len(VideoFrames(output / "visual/clip.mp4", Remarks())) == 12


def test_without_an_encoder_it_is_one_line_before_anything_is_computed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    refused(capsys, call(test_script, "--dataset Synthetic --overlay_video"), "pip install av")
