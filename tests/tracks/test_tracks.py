"""Tracks: assignment against brute force, linking by hand, and what is written and counted."""

import csv
import itertools
import math
from pathlib import PurePosixPath

import numpy as np
import pytest

from tests.builders import ArraySequence
from utils.evaluation import ScoredBlock
from utils.metrics import ScoredFrames, find_targets
from utils.protocols import MAIN, OPERATING_POINT, PROTOCOLS, operating_point
from utils.report.results import part_of_results
from utils.tracks.linking import Linker, assign
from utils.tracks.options import TrackOptions
from utils.tracks.writer import Tracks, linked_frames

SIZE = (40, 50)


def best_by_trial(predicted, positions, gates):
    """(number of pairs, total distance) of the best of all one-to-one assignments."""
    best = (0, 0.0)
    places = range(len(positions))
    for count in range(1, min(len(predicted), len(positions)) + 1):
        for rows in itertools.combinations(range(len(predicted)), count):
            for columns in itertools.permutations(places, count):
                distances = [
                    np.hypot(*(predicted[r] - positions[c]))
                    for r, c in zip(rows, columns, strict=True)
                ]
                if all(d <= gates[r] for d, r in zip(distances, rows, strict=True)):
                    best = max(best, (count, -sum(distances)))
    return best


def test_assignment_is_the_best_of_all(rng):
    for _ in range(300):
        predicted, positions = (rng.uniform(0, 12, (rng.integers(1, 5), 2)) for _ in range(2))
        gates = rng.uniform(1, 6, len(predicted))
        pairs = assign(predicted, positions, gates)
        rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
        assert len(set(rows)) == len(rows) and len(set(columns)) == len(columns)
        distances = [np.hypot(*(predicted[r] - positions[c])) for r, c in pairs]
        assert all(d <= gates[r] for d, r in zip(distances, rows, strict=True))
        count, total = best_by_trial(predicted, positions, gates)
        assert (len(pairs), -sum(distances)) == (count, pytest.approx(total))


def test_a_track_goes_on_after_a_gap_and_ends_after_a_longer_one():
    linker = Linker(gate=3, gap=2)
    seen = [[[5, 5 + t]] if t not in (3, 4, 8, 9, 10) else [] for t in range(13)]
    tracks = [linker.step(positions) for positions in seen]
    first, later = tracks[0][0], tracks[11][0]
    assert [t for t, found in enumerate(tracks) if first in found] == [0, 1, 2, 5, 6, 7]
    assert first.ended and first.count == 6 and later is not first and not later.ended
    linker.finish()
    assert later.ended


def test_targets_that_cross_keep_their_tracks():
    linker = Linker(gate=4, gap=2)
    for t in range(21):
        tracks = linker.step([[10 + t, 2 * t], [30 - t, 2 * t + 0.1]])
        if t == 0:
            begun = tracks
    assert tracks == begun


def test_a_target_is_met_where_it_should_be_after_a_gap():
    linker = Linker(gate=2, gap=4)
    for t in range(6):
        (track,) = linker.step([[20.0, 3.0 * t]]) if t % 6 < 1 else linker.step([[20.0, 1.5 * t]])
    for _ in range(4):
        linker.step([])
    assert linker.step([[20.0, 15.0]]) == [track]


def test_noise_far_apart_is_not_linked(rng):
    linker = Linker(gate=2, gap=3)
    tracks = [linker.step(rng.uniform(0, 1000, (3, 2))) for _ in range(30)]
    assert all(track.count == 1 for found in tracks for track in found)


def scene(rng, frames=30, alarms=2):
    """Scores with two moving targets, seen in most frames, and false alarms; and the truth."""
    scores = rng.uniform(0, 0.3, (frames, *SIZE)).astype(np.float32)
    centroids = np.zeros((frames, *SIZE), np.uint8)
    for t in range(frames):
        for row, column in ((8 + 0.4 * t, 5 + t), (30, 45 - 0.8 * t)):
            r, c = round(row) % SIZE[0], round(column) % SIZE[1]
            centroids[t, r, c] = 1
            if rng.random() < 0.85:
                scores[t, r : r + 2, c : c + 2] = rng.uniform(0.55, 0.99)
        for r, c in rng.integers(0, SIZE, (rng.integers(0, alarms + 1), 2)):
            scores[t, r, c] = rng.uniform(0.5, 0.9)
    return scores, centroids


def run(folder, sequences, options=None, block=7, protocol=MAIN):
    """The writer after the scores of some sequences: [(sequence, scores)]."""
    writer = Tracks(folder, 0.5, PROTOCOLS[protocol], options or TrackOptions())
    for sequence, scores in sequences:
        for start in range(0, len(scores), block):
            part = sequence.read(start, min(start + block, len(scores)))
            span = scores[start : start + block]
            truth = part.masks, part.centroids
            writer.add(ScoredBlock(sequence, start, part.frames, span, *truth))
        writer.end(sequence)
    return writer


def sequence_of(scores, centroids=None, name="one"):
    frames = (255 * scores).astype(np.uint8)
    return ArraySequence(name, frames, centroids), scores


def read_lines(path):
    return np.loadtxt(path, delimiter=",", ndmin=2)


def kept_pixels(scores, options):
    """Which pixels belong to detections of kept tracks, by linking the whole sequence at once."""
    linker = Linker(options.gate, options.gap)
    places, centroids, seen = [], [], []
    for frame in scores:
        found = find_targets(frame[None] >= 0.5)
        members = [found.pixels[found.owner == k, 1:] for k in range(found.count)]
        members = [pixels for pixels in members if len(pixels) >= options.min_area]
        weights = [frame[tuple(pixels.T)].astype(float) for pixels in members]
        centres = [w @ pixels / w.sum() for w, pixels in zip(weights, members, strict=True)]
        places.append(members)
        centroids.append(centres)
        seen.append(linker.step(centres))
        for pixels, track in zip(members, seen[-1], strict=True):
            track.peak = max(track.peak, float(frame[tuple(pixels.T)].max()))
    kept = np.zeros(scores.shape, np.float32)
    for frame, members, middles, tracks in zip(kept, places, centroids, seen, strict=True):
        for pixels, centre, track in zip(members, middles, tracks, strict=True):
            if track.count >= options.min_track and track.peak >= options.min_score:
                frame[tuple(pixels[marked(pixels, centre, options.mark_reach)].T)] = 1
    return kept


def marked(pixels, centre, reach):
    """Which pixels of a detection are marked, from that nearest to its centroid on, one by one."""
    distances = [math.dist(pixel, centre) for pixel in pixels]
    nearest = distances.index(min(distances))
    near = [reach is None or distance <= reach for distance in distances]
    found, last = {nearest}, None
    while found != last:
        last, steps = found, range(len(pixels))
        found = {*found} | {
            k
            for k in steps
            if near[k] and any(max(abs(pixels[k] - pixels[other])) <= 1 for other in found)
        }
    return sorted(found)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "limits",
    [(1, 1), (2, 1), (1, 4), (3, 3), (1, 3, 0.95), (2, 1, 0.9), (1, 1, 0, 0), (2, 3, 0, 0.5)],
)
def test_pixels_are_counted_as_those_of_kept_tracks(protocol, limits, rng, tmp_path):
    options = TrackOptions(*limits)
    scores, centroids = scene(rng)
    writer = run(tmp_path, [sequence_of(scores, centroids)], options, protocol=protocol)
    chosen = PROTOCOLS[protocol]
    place = operating_point(chosen.thresholds)
    block = ScoredFrames(kept_pixels(scores, options), centroids, centroids)
    expected = chosen.figures(chosen.count(block))
    figures = writer.figures()[protocol]
    assert all(figures[key] == expected[key][place] for key in figures)


@pytest.mark.parametrize("reach", [1, 4.2, 6, 8])
def test_a_detection_is_marked_as_one_however_it_is_shaped(reach, rng, tmp_path):
    angle = np.arange(0, 2 * np.pi, 0.05)
    scores = np.zeros((3, *SIZE), np.float32)
    for frame in scores:
        for row, column, radius in ((15, 12, 6), (25, 34, 8)):
            y, x = (row + radius * np.sin(angle)).round(), (column + radius * np.cos(angle)).round()
            frame[y.astype(int), x.astype(int)] = rng.uniform(0.5, 1, len(angle))
    options = TrackOptions(mark_reach=reach)
    expected = kept_pixels(scores, options)
    (block,) = [ScoredBlock(sequence_of(scores)[0], 0, scores, scores)]
    found = np.zeros_like(expected)
    for frame in linked_frames(block, 0.5, options, Linker(5, 5)):
        found[frame.index].ravel()[frame.pixels] = 1
    assert np.array_equal(found, expected) and find_targets(found > 0).count == 6


def test_short_tracks_and_small_detections_are_left_out(rng, tmp_path):
    scores, centroids = scene(rng)
    sequence = sequence_of(scores, centroids)
    every = run(tmp_path / "a", [sequence]).figures()
    few = run(tmp_path / "b", [sequence], TrackOptions(min_track=10)).figures()
    large = run(tmp_path / "c", [sequence], TrackOptions(min_area=3)).figures()
    assert every["tracks"] > 10 and few["tracks"] == large["tracks"] == 2
    for figures in (few, large):
        assert figures["target_tracks"] == figures["found_tracks"] == 2
        assert figures["false_tracks"] == 0 and figures[MAIN]["fa"] == 0
        assert 0.7 < figures[MAIN]["pd"] <= every[MAIN]["pd"]
    assert 10 < every["false_tracks"] <= every["tracks"] - 2
    minutes = 30 / 30 / 60
    assert every["false_tracks_a_minute"] == pytest.approx(every["false_tracks"] / minutes)


def test_the_files_do_not_depend_on_the_blocks(rng, tmp_path):
    sequences = [sequence_of(*scene(rng), name=name) for name in ("one", "two")]
    written = []
    for block in (1, 7, 30):
        writer = run(tmp_path / str(block), sequences, TrackOptions(min_track=3), block)
        assert writer.close() == [tmp_path / str(block)]
        names = "one.txt", "two.txt", "tracks.csv"
        written.append([(tmp_path / str(block) / name).read_bytes() for name in names])
        assert {path.name for path in (tmp_path / str(block)).iterdir()} == set(names)
    assert written[0] == written[1] == written[2]


def test_lines_are_boxes_by_frame_from_1_with_the_score(tmp_path):
    scores = np.zeros((4, *SIZE), np.float32)
    scores[1, 5:7, 10:13] = 0.75
    scores[3, 5:7, 11:13] = 0.5
    sequence = sequence_of(scores)
    sequence[0].numbers = (10, 20, 30, 40)
    writer = run(tmp_path, [sequence], TrackOptions(min_track=2))
    writer.close()
    expected = "2,1,11,6,3,2,0.75,-1,-1,-1\n4,1,12,6,2,2,0.5,-1,-1,-1\n"
    assert (tmp_path / "one.txt").read_text() == expected
    with (tmp_path / "tracks.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        **{"sequence": "one", "id": "1", "first_frame": "20", "last_frame": "40"},
        **{"detections": "2", "mean_score": "0.625", "false": ""},
    }


def test_without_truth_only_tracks_are_counted(rng, tmp_path):
    scores, centroids = scene(rng)
    writer = run(tmp_path, [sequence_of(scores)], TrackOptions(min_track=10))
    assert writer.figures()["tracks"] == 2 and "found_tracks" not in writer.figures()
    assert len(writer.lines()) == 1
    both = [sequence_of(scores), sequence_of(scores, centroids, "two")]
    writer = run(tmp_path, both, TrackOptions(min_track=10))
    assert writer.figures()["tracks"] == 4 and writer.figures()["found_tracks"] == 2
    assert writer.counts.frames.total() == 30 and len(writer.lines()) == 3


def test_a_missed_target_is_a_track_that_was_not_found(rng, tmp_path):
    scores, centroids = scene(rng, alarms=0)
    scores[:, 25:] = 0
    figures = run(tmp_path, [sequence_of(scores, centroids)]).figures()
    assert (figures["target_tracks"], figures["found_tracks"], figures["false_tracks"]) == (2, 1, 0)


def test_frames_wait_no_longer_than_a_track_can_take(rng, tmp_path):
    scores, _ = scene(rng, frames=200, alarms=4)
    sequence, scores = sequence_of(scores)
    options = TrackOptions(min_track=3, gap=2)
    writer = Tracks(tmp_path, 0.5, PROTOCOLS[MAIN], options)
    for start in range(0, 200, 5):
        block = sequence.read(start, start + 5)
        writer.add(ScoredBlock(sequence, start, block.frames, scores[start : start + 5]))
        assert len(writer.sequence.waiting) <= (options.min_track - 1) * (options.gap + 1) + 1


@pytest.mark.parametrize("step", [1, 7, 40, 300])
def test_a_faint_track_is_kept_from_100_frames_before_it_was_bright(tmp_path, step):
    scores = np.zeros((300, 8, 8), np.float32)
    scores[:, 4, 4] = 0.6
    scores[250, 4, 4] = 0.99
    sequence, scores = sequence_of(scores)
    writer = Tracks(tmp_path, 0.5, PROTOCOLS[MAIN], TrackOptions(min_track=3, min_score=0.9))
    for start in range(0, 300, step):
        block = sequence.read(start, min(start + step, 300))
        writer.add(ScoredBlock(sequence, start, block.frames, scores[start : start + step]))
        assert len(writer.sequence.waiting) <= 100
    writer.end(sequence)
    writer.close()
    assert read_lines(tmp_path / "one.txt")[:, 0].tolist() == [*range(151, 301)]
    (row,) = (tmp_path / "tracks.csv").read_text().splitlines()[1:]
    assert row.split(",")[2:5] == ["151", "300", "150"]
    first, second = writer.lines()
    assert "their highest score 0.9 or more" in first
    assert second.startswith("150 detections of these are left out: they came more than 100 frames")
    assert writer.figures()["left_out"] == 150


class OfTwo:
    """The group of the first of two processes; the other sends what it is told."""

    size, is_main = 2, True

    def __init__(self, sent):
        self.sent = iter(sent)

    def gather(self, items):
        joined = [None] * (len(items) + len(other := next(self.sent)))
        joined[::2], joined[1::2] = items, other
        return joined


def test_processes_share_what_they_counted(rng, tmp_path):
    sequences = [sequence_of(*scene(rng), name=name) for name in ("one", "two", "three")]
    options = TrackOptions(min_track=2)
    alone = run(tmp_path / "alone", sequences, options)
    first, second = (run(tmp_path / "both", sequences[rank::2], options) for rank in (0, 1))
    first.share(OfTwo([[second.counts], second.rows]))
    assert first.figures() == alone.figures()
    for writer in (first, alone):
        writer.close()
    for name in ("tracks.csv", "one.txt", "two.txt", "three.txt"):
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


@pytest.mark.parametrize(
    "bad",
    [
        "min_area=0",
        "min_track=0",
        "gap=-1",
        "gate=0",
        "frame_rate=nan",
        "frame_rate=2000000.0",
        "frame_rate=0.0001",
    ],
)
def test_options_out_of_range_are_refused(bad):
    name, value = bad.split("=")
    with pytest.raises(ValueError, match=f"--{name} {value}"):
        TrackOptions(**{name: float(value) if name in ("gate", "frame_rate") else int(value)})


def test_motmetrics_reads_the_tracks(rng, tmp_path):
    motmetrics = pytest.importorskip("motmetrics")
    scores, centroids = scene(rng, alarms=0)
    for t in range(len(scores)):
        for r, c in np.argwhere(centroids[t]):
            scores[t, r : r + 2, c : c + 2] = 0.9
    run(tmp_path, [sequence_of(scores, centroids)], TrackOptions(min_track=3))
    found = motmetrics.io.loadtxt(tmp_path / "one.txt", fmt="mot15-2D", min_confidence=0.5)
    assert len(found) == 60 and found.X.min() == read_lines(tmp_path / "one.txt")[:, 2].min() - 1
    accumulator = motmetrics.MOTAccumulator()
    for t in range(len(scores)):
        seen = found.loc[t + 1]
        rows, columns = np.argwhere(centroids[t]).T
        apart = np.hypot(
            rows[:, None] - seen.Y.to_numpy()[None], columns[:, None] - seen.X.to_numpy()[None]
        )
        objects = np.where(rows < 25, 1, 2) if len(rows) == 2 else np.ones(len(rows))
        accumulator.update(objects, seen.index, np.where(apart <= 3, apart, np.nan), frameid=t)
    metrics = motmetrics.metrics.create()
    summary = metrics.compute(accumulator, metrics=["mota", "num_switches", "num_unique_objects"])
    assert summary.iloc[0].tolist() == [1.0, 0, 2]


def test_a_protocol_without_figures_at_one_threshold_has_no_line(rng, tmp_path):
    lines = run(tmp_path, [sequence_of(*scene(rng))], protocol="roc3d").lines()
    assert len(lines) == 2 and all("detections of tracks" not in line for line in lines)


def test_tracks_of_an_earlier_test_go_with_its_numbers():
    for name, part in (("tracks", "results"), ("tracks_epoch-5", "results_epoch-5")):
        assert part_of_results(PurePosixPath(name, "one.txt")) == part
        assert part_of_results(PurePosixPath(name.replace("tracks", "metrics") + ".json")) == part
    assert part_of_results(PurePosixPath("visual/one.mp4")) == "results/visual"


def test_half_of_its_frames_make_a_target_found(tmp_path):
    centroids = np.zeros((8, *SIZE), np.uint8)
    centroids[:, 20, 20] = 1
    for shown, found in ((3, 0), (4, 1)):
        scores = np.zeros((8, *SIZE), np.float32)
        scores[:shown, 20, 20] = 1
        figures = run(tmp_path, [sequence_of(scores, centroids)]).figures()
        assert figures["found_tracks"] == found
        assert figures[MAIN]["pd"] == shown / 8
    assert OPERATING_POINT == 0.5
