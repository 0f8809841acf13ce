"""What pictures mark of targets and detections, and the animated overlays."""

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from tests.report.scored import MAIN, block_of, feed, sequence_of
from utils.report.gif import GifStream
from utils.report.marks import ALARM, DETECTION, FOUND, MISSED, mark_frames
from utils.report.overlay import (
    COLOURS,
    MOST_PAGES,
    MOST_PIXELS,
    draw_frame,
    enlargement,
    page_pixels,
    plan_pages,
    report_scale,
)
from utils.report.writers import Overlays


@pytest.fixture
def scene():
    """Scores and centroids with a found target, a missed one and a false alarm."""
    scores = np.zeros((3, 40, 40), np.float32)
    centroids = np.zeros((3, 40, 40), np.uint8)
    centroids[1, 20, 20] = centroids[1, 30, 8] = 1
    scores[1, 20, 21] = scores[2, 10, 33] = 0.9
    return scores, centroids


def pages_of(path):
    with Image.open(path) as image:
        return [np.asarray(page.convert("RGB")) for page in ImageSequence.Iterator(image)]


def test_marks_tell_found_missed_detections_and_false_alarms(scene):
    marked = mark_frames(block_of(*scene), 0.5, MAIN)
    kinds = [sorted(mark.kind for mark in marks) for marks in marked.marks]
    assert kinds == [[], sorted([FOUND, MISSED, DETECTION]), [ALARM]]
    assert marked.targets.tolist() == [0, 2, 0] and marked.missed.tolist() == [0, 1, 0]
    assert marked.alarm_pixels.tolist() == [0, 0, 1]
    assert marked.detections.tolist() == [0, 1, 1]
    assert marked.caption(1) == "1 of 2 targets found, 0 false-alarm pixels"
    assert marked.caption(2) == "no target, 1 false-alarm pixels"
    unlabelled = mark_frames(block_of(scene[0]), 0.5, MAIN)
    kinds = [[mark.kind for mark in marks] for marks in unlabelled.marks]
    assert kinds == [[], [DETECTION], [DETECTION]]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_overlay_has_every_frame_with_marks_in_their_colours(tmp_path, scene, rng, size):
    scores, centroids = scene
    frames = rng.integers(0, 60000, scores.shape, dtype=np.uint16)
    writer = Overlays(tmp_path, 0.5, MAIN)
    feed([writer], sequence_of("x", scores, centroids, frames), scores, size)
    assert writer.close() == [tmp_path]
    pages = [page[60:] for page in pages_of(tmp_path / "x.gif")]
    assert len(pages) == 3 and min(pages[0].shape[:2]) >= 400
    seen = [[bool((page == COLOURS[kind]).all(-1).any()) for kind in COLOURS] for page in pages]
    # In the order of COLOURS: found, missed, detection, false alarm.
    assert seen == [[False] * 4, [True, True, True, False], [False, False, False, True]]


def test_frames_of_another_size_than_their_scores_are_drawn_at_that_of_the_scores(tmp_path, scene):
    scores, centroids = scene
    frames = np.zeros((3, 80, 60), np.uint8)
    writer = Overlays(tmp_path, 0.5, MAIN)
    feed([writer], sequence_of("x", scores, centroids, frames), scores)
    assert pages_of(tmp_path / "x.gif")[0].shape == (40 * 11 + 48, 560, 3)


def test_labelled_sequences_can_be_left_out(tmp_path, scene):
    scores, centroids = scene
    writer = Overlays(tmp_path / "visual", 0.5, MAIN, unlabelled_only=True)
    feed([writer], sequence_of("labelled", scores, centroids), scores)
    assert writer.close() == [] and not (tmp_path / "visual").exists()
    feed([writer], sequence_of("unlabelled", scores), scores)
    assert writer.close() == [tmp_path / "visual"]
    assert [path.name for path in (tmp_path / "visual").iterdir()] == ["unlabelled.gif"]


def test_of_a_long_sequence_every_nth_frame_is_drawn_and_keeps_its_time(tmp_path, rng):
    scores = rng.random((500, 12, 12), np.float32)
    writer = Overlays(tmp_path, 0.5, MAIN)
    feed([writer], sequence_of("x", scores), scores, size=16)
    with Image.open(tmp_path / "x.gif") as image:
        assert image.n_frames == 100 and image.info["duration"] == 5 * 80


def test_frames_are_enlarged_where_small_and_left_alone_where_large():
    assert enlargement(128, 164) == 4 and enlargement(200, 300) == 3 and enlargement(300, 480) == 2
    assert enlargement(420, 500) == enlargement(2000, 3000) == 1
    assert report_scale(128, 164) == 4 and report_scale(480, 640) == 1
    assert report_scale(3000, 4096) == 1 / 3 and report_scale(30, 2001) == 1 / 2


@pytest.mark.parametrize("frames", [1, 100, 3000, 1_000_000])
@pytest.mark.parametrize(
    "size", [(1, 1), (128, 128), (300, 480), (400, 9000), (1080, 1920), (9000, 9000)]
)
def test_the_pages_of_an_overlay_are_bounded(frames, size):
    step, scale = plan_pages(frames, *size)
    pages = len(range(0, frames, step))
    assert 1 <= pages <= MOST_PAGES and pages * page_pixels(*size, scale) <= MOST_PIXELS
    if frames <= 100 and max(size) < 500:  # as small frames always were
        assert (step, scale) == (1, enlargement(*size))


def test_a_frame_that_is_drawn_smaller_keeps_its_marks_in_place(scene):
    scores, centroids = (array.repeat(4, 1).repeat(4, 2) for array in scene)
    marks = mark_frames(block_of(scores, centroids), 0.5, MAIN).marks[1]
    whole, half = (draw_frame(scores[1], marks, (0, 1), scale) for scale in (1, 1 / 2))
    assert half.size == (80, 80)
    for kind in (FOUND, MISSED):
        centres = [
            np.argwhere((np.asarray(image) == COLOURS[kind]).all(-1)).mean(0)
            for image in (whole, half)
        ]
        np.testing.assert_allclose(centres[1], centres[0] / 2, atol=3)


def test_a_gif_gives_back_the_pages_that_were_added(rng):
    palette = Image.new("P", (1, 1))
    palette.putpalette(rng.integers(0, 255, 3 * 40).tolist())
    pages = []
    for index in range(6):
        pixels = np.zeros((20, 31), np.uint8) if index < 2 else pages[-1][0].copy()
        pixels[index : 2 * index, 3 : 3 + 2 * index] = rng.integers(0, 40, (index, 2 * index))
        image = Image.fromarray(pixels)
        page = palette.resize((31, 20))
        page.paste(Image.frombytes("P", (31, 20), image.tobytes()))
        pages.append((pixels, page))
    pages.insert(3, pages[2])  # nothing changes
    buffer = io.BytesIO()
    stream = GifStream(buffer.write, 80)
    for _, page in pages:
        stream.add(page)
    stream.close()
    shown = pages_of(buffer)
    assert len(shown) == len(pages)
    for (_, page), found in zip(pages, shown, strict=True):
        np.testing.assert_array_equal(found, np.asarray(page.convert("RGB")))
    with Image.open(buffer) as image:
        assert image.info["loop"] == 0 and image.info["duration"] == 80
