"""Writers: files whole or as they were, several processes, bounded memory."""

import tracemalloc

import numpy as np
import pytest
from mpl_toolkits.mplot3d import Axes3D
from PIL import Image

from data.formats.encoder import VideoFile
from tests.report.scored import (
    MAIN,
    Bright,
    blocks_of,
    feed,
    in_processes,
    sequence_of,
)
from utils.attribution.writer import Attributions
from utils.report.highlights import Highlights
from utils.report.writers import (
    Detections,
    Normalisations,
    Overlays,
    ScoreMaps,
    Surfaces,
    Writer,
)
from utils.tracks.options import TrackOptions
from utils.tracks.video import OverlayVideos
from utils.tracks.writer import Tracks


@pytest.fixture
def scored(rng):
    """Five sequences of other lengths with their scores."""
    made = []
    for count in (9, 4, 1, 12, 6):
        scores = rng.random((count, 8, 9), np.float32)
        made.append((sequence_of(f"of {count}", scores), scores))
        made[-1][0].normalisation = 100.0 + count, 20.0
    return made


def test_score_maps_are_the_scores_in_grey(tmp_path, rng):
    scores = rng.random((10, 5, 6), np.float32)
    sequence = sequence_of("s", scores)
    sequence.numbers = range(0, 10)
    writer = ScoreMaps(tmp_path)
    feed([writer], sequence, scores, size=4)
    assert writer.close() == [tmp_path]
    for number, frame in enumerate(scores):
        with Image.open(tmp_path / f"s/{number:05d}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), np.rint(255 * frame))


def test_a_test_that_fails_leaves_the_files_of_the_one_before(tmp_path, scored):
    def test_all(threshold, fail):
        writers = [
            Detections(tmp_path / "detections.csv", threshold, tmp_path / "centroids"),
            Overlays(tmp_path / "visual", threshold, MAIN),
        ]
        for sequence, scores in scored[: 1 if fail else None]:
            for block in blocks_of(sequence, scores, 4):
                for writer in writers:
                    writer.add(block)
                if fail:
                    return
            for writer in writers:
                writer.end(sequence)
        for writer in writers:
            writer.close()

    def files():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    test_all(0.5, fail=False)
    before = files()
    assert len(before) == 1 + 2 * len(scored)
    test_all(0.9, fail=True)
    assert files() == before
    test_all(0.9, fail=False)
    assert files() != before and files().keys() == before.keys()


def test_several_processes_write_the_table_of_one(tmp_path, scored):
    def run(group):
        path = tmp_path / f"of_{group.size}.csv"
        detections, normalisations = Detections(path, 0.9), Normalisations()
        maps = ScoreMaps(tmp_path / "maps")
        writers = [detections, normalisations, maps]
        for sequence, scores in group.shard(scored):
            feed(writers, sequence, scores)
        for writer in writers:
            writer.share(group)
        if group.is_main:
            assert detections.close() == [path]
        return detections.count, normalisations.line(), maps.count

    alone = in_processes(1, run)[0]
    assert alone[0] > 10 and alone[1:] == ("mean 101.0000 to 112.0000, std 20.0000", 5)
    for size in (2, 3, 7):  # more than there are sequences, too
        assert in_processes(size, run)[0] == alone
        assert (tmp_path / f"of_{size}.csv").read_bytes() == (tmp_path / "of_1.csv").read_bytes()


def test_a_writer_that_collects_nothing_needs_no_more_than_its_base():
    writer = Writer()
    assert writer.close() == [] and writer.add(None) is writer.end(None) is None


def peak_of(writers, frames):
    """Most memory that Python and numpy held while the writers took so many frames, bytes."""

    class Long:
        file_names = None
        name, labelled, numbers, normalisation = "long", True, range(1, frames + 1), (100.0, 20.0)
        masks = centroids = None
        rng = np.random.default_rng(46)
        frames_of_block = rng.integers(0, 255, (20, 32, 32), dtype=np.uint8)

        def __len__(self):
            return frames

        def read(self, start, stop):
            count = stop - start
            return sequence_of("part", np.resize(self.frames_of_block, (count, 32, 32)) / 255)

    sequence = Long()
    scores = sequence.rng.random((20, 32, 32), np.float32)
    centroids = (scores > 0.999).astype(np.uint8)
    tracemalloc.start()
    for start in range(0, frames, 20):
        part = sequence_of("long", scores.copy(), centroids.copy(), sequence.frames_of_block.copy())
        (block,) = blocks_of(part, scores.copy(), 20)
        block.sequence, block.start, block.stop = sequence, start, start + 20
        for writer in writers:
            writer.add(block)
    for writer in writers:
        writer.end(sequence)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    "build",
    [
        lambda folder: ScoreMaps(folder),
        lambda folder: Overlays(folder, 0.999, MAIN),
        lambda folder: Detections(folder / "detections.csv", 0.999, folder / "centroids"),
        lambda folder: Highlights(0.999, MAIN),
        lambda folder: Normalisations(),
        lambda folder: Attributions(folder, Bright(), "cpu", 0.999),
    ],
    ids=["score maps", "overlays", "detections", "highlights", "normalisations", "attributions"],
)
def test_a_writer_keeps_no_more_of_a_long_sequence_than_of_a_short_one(tmp_path, build):
    peak_of([build(tmp_path)], 60)  # what is loaded once
    short = peak_of([build(tmp_path)], 300)
    # Frames and scores of the 2,700 frames more are 13.8 MB. Measured again where it was too much:
    # a thread of an earlier test may end meanwhile, and its memory counts, too.
    assert any(peak_of([build(tmp_path)], 3000) < short + 300_000 for _ in range(3))


@pytest.mark.usefixtures("drawn")
def test_writers_take_back_a_sequence_that_ends_early(tmp_path, rng):
    pytest.importorskip("av")
    made = {}
    for name in ("whole", "part"):  # the second one ends within its frames
        folder, scores = tmp_path / name, rng.random((20, 9, 30)).astype(np.float32)
        options, (table, place) = TrackOptions(), (folder / "detections.csv", folder / "visual")
        folder.mkdir()
        writers = [
            Detections(table, 0.9, folder / "centroids"),
            ScoreMaps(place),
            Overlays(place, 0.9, MAIN),
            Surfaces(folder / "surfaces", [3]),
            Tracks(folder / "tracks", 0.9, MAIN, options),
            OverlayVideos(place, 0.9, MAIN, options, VideoFile),
        ]
        feed(writers, sequence_of("a", np.ones_like(scores)), np.ones_like(scores))
        if name == "part":
            block = next(iter(blocks_of(sequence_of("b", scores), scores, 7)))
            for writer in writers:
                writer.add(block)
            assert (place / "b/00007.png").is_file()
        for writer in writers:
            writer.abandon()
            writer.close()
        made[name] = {p.relative_to(folder): p.stat().st_size for p in folder.rglob("*")}
        assert writers[0].count == 20 and table.read_text().count("\n") == 21
    assert made["part"].keys() == made["whole"].keys()


@pytest.mark.usefixtures("drawn")
def test_surfaces_are_drawn_of_the_frames_that_were_asked_for(tmp_path, rng, monkeypatch):
    scores = rng.random((20, 9, 300)).astype(np.float32) ** 4
    centroids = np.zeros(scores.shape, np.uint8)
    centroids[16, 4, 100:102] = 1
    drawn = []
    original = Axes3D.plot_surface
    monkeypatch.setattr(
        Axes3D, "plot_surface", lambda self, *a, **k: drawn.append(a) or original(self, *a, **k)
    )
    writer = Surfaces(tmp_path / "surfaces", [17, 3])
    feed([writer], sequence_of("a", scores, centroids), scores)
    feed([writer], sequence_of("b", scores[:4]), scores[:4])
    assert writer.close() == [tmp_path / "surfaces"]
    names = sorted(path.name for path in (tmp_path / "surfaces").iterdir())
    assert names == ["a_00003.png", "a_00017.png", "b_00003.png"]
    # Cells of 3 x 3 pixels, each as high as its largest score.
    columns, rows, heights = drawn[1]
    assert heights.shape == columns.shape == rows.shape == (3, 100)
    assert heights[1, 33] == scores[16, 3:6, 99:102].max()
    assert (rows[1, 33], columns[1, 33]) == (4, 100)


def test_a_frame_without_a_surface_is_said(tmp_path, rng):
    scores = rng.random((4, 6, 7)).astype(np.float32)
    writer = Surfaces(tmp_path / "surfaces", [9])
    feed([writer], sequence_of("a", scores), scores)
    with pytest.warns(UserWarning, match="--surface: no sequence has a frame 9"):
        assert writer.close() == []
