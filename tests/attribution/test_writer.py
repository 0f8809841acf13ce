"""The writer of attributions: which targets, what is written of them, what is said."""

import csv

import numpy as np
import pytest
from scipy.io import loadmat

from models import build_model
from tests.report.scored import MAIN, Bright, feed, in_processes, sequence_of
from utils.attribution.figures import draw_influence_of
from utils.attribution.maps import normalised_map
from utils.attribution.targets import Choice, ScoredTarget, find_candidates
from utils.attribution.writer import AttributionOptions, Attributions
from utils.process import Group

T = 8


class LastFrame(Bright):
    predicts = "last"

    def detect(self, clip):
        return super().detect(clip)[:, :, -1:]


def writer_of(folder, detector=None, threshold=0.5, **options):
    options = AttributionOptions(**{"points": 4, **options})
    return Attributions(folder, detector or Bright(), "cpu", threshold, options, MAIN)


def scored(rng, frames=20, targets=1):
    """(scores, masks): in every frame so many targets of two pixels, the first the best scored."""
    scores = 0.1 * rng.random((frames, 24, 30), np.float32)
    masks = np.zeros(scores.shape, np.uint8)
    for index in range(targets):
        scores[:, 4 + 5 * index, 7:9] = 0.9 - 0.1 * index
        masks[:, 4 + 5 * index, 7:9] = 1
    return scores, masks


def lines_of(folder):
    with (folder / "attribution.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("detector", [Bright(), LastFrame()])
def test_arrays_figure_and_line_of_each_target(tmp_path, rng, detector):
    scores, masks = scored(rng, targets=2)
    writer = writer_of(tmp_path, detector, frames=2)
    sequence = sequence_of("s", scores, masks)
    feed([writer], sequence, scores)
    writer.share(Group())
    assert writer.close() == [tmp_path]
    names = ["00005", "00005_2", "00015", "00015_2"]
    for name, line in zip(names, lines_of(tmp_path), strict=True):
        assert line["file"] == f"s/{name}" and line["frame"] == str(int(name[:5]))
        assert (tmp_path / f"s/{name}.png").stat().st_size > 10_000
        with np.load(tmp_path / f"s/{name}.npz") as file:
            found = dict(file)
        frame = int(np.flatnonzero(found["numbers"] == found["frame"])[0])
        row = 9 if "_" in name else 4
        assert found["pixels"].tolist() == [[row, 7], [row, 8]]
        attribution = found["attribution"]
        # The logit of a pixel is 6 (x - 2) of that grey level alone.
        around = attribution.copy()
        around[frame, row, 7:9] = 0
        assert not around.any() and attribution[frame, row, 7:9].all()
        published = loadmat(tmp_path / f"s/{name}.mat")["map_attribution"]
        np.testing.assert_allclose(published, normalised_map(attribution), rtol=1e-6)
        assert float(line["own_at"]) == pytest.approx(1)
        assert "row" in str(found["axes"])
    with np.load(tmp_path / "influence.npz") as file:
        assert file["influence"][file["offsets"] == 0] == 1
        assert np.diag(file["counts"]).sum() == 4
    assert (tmp_path / "influence.png").exists()


@pytest.mark.usefixtures("drawn")
def test_the_summary_says_where_the_influence_lies_and_whether_it_is_true(tmp_path, rng):
    scores, masks = scored(rng)
    writer = writer_of(tmp_path, points=None)
    feed([writer], sequence_of("s", scores, masks), scores)
    feed([writer], sequence_of("none", scores, 0 * masks), scores)
    writer.share(Group())
    writer.close()
    head, empty, line = writer.attribution_lines()
    assert "100 % of the influence on their own profiles (0 % before, 100 % in, 0 %" in head
    assert "agrees in 1 of 1 detected" in head and "1 sequences without" in empty
    assert (
        line.startswith("    s/00010: score 2.000 of 2 pixels, ") and "completeness error" in line
    )
    found = writer.as_dict()
    assert found["backward_passes"] == found["targets"][0]["points"] and len(found["targets"]) == 1
    assert found["influence"][found["offsets"].index(0)] == 1
    section = writer.section()
    assert [path.name for path, _ in section.figures] == ["influence.png", "00010.png"]
    draw_influence_of(tmp_path / "band.png", [{"model": "a", "attribution": found}] * 2)
    assert (tmp_path / "band.png").stat().st_size > 1000


def test_nothing_to_attribute_is_said_and_nothing_written(tmp_path, rng):
    scores = 0.1 * rng.random((9, 20, 20), np.float32)
    writer = writer_of(tmp_path)
    feed([writer], sequence_of("low", scores), scores)
    writer.share(Group())
    assert writer.close() == [tmp_path] and list(tmp_path.iterdir()) == []
    assert writer.attribution_lines() == [
        "  attribution: no targets in any of 1 sequences, nothing is written"
    ]
    assert writer.as_dict() is None and writer.section().figures == []


@pytest.mark.parametrize("size", [1, 3])
def test_several_processes_write_what_one_writes(tmp_path, rng, size):
    scores, masks = scored(rng)
    sequences = [sequence_of(f"s{index}", scores, masks) for index in range(4)]

    def work(group):
        writer = writer_of(tmp_path / str(size))
        for sequence in group.shard(sequences):
            feed([writer], sequence, scores)
        writer.share(group)
        if group.is_main:
            writer.close()
        return writer.attribution_lines() if group.is_main else None

    lines = in_processes(size, work)[0]
    assert [line["sequence"] for line in lines_of(tmp_path / str(size))] == ["s0", "s1", "s2", "s3"]
    assert len(lines) == 5 and "of 4 targets" in lines[0]


def test_what_cannot_be_attributed_is_said_and_stops_nothing(tmp_path, rng):
    scores, masks = scored(rng)
    writer = writer_of(tmp_path)
    odd, good = (sequence_of(name, scores, masks) for name in ("odd", "good"))
    for sequence in (odd, good):
        feed([writer], sequence, scores)
    odd.normalisation = (np.nan, 1.0)
    writer.share(Group())
    lines = writer.attribution_lines()
    assert lines[-1].startswith("    not attributed: odd: a score is NaN") and len(lines) == 3
    assert [row["sequence"] for row in writer.rows] == ["good"]


def test_a_filter_is_refused_before_the_scan(tmp_path):
    with pytest.raises(ValueError, match="TopHat cannot be attributed: its scores have no"):
        writer_of(tmp_path, build_model("TopHat"))


def candidates(what, scores, masks=None, frames=None, threshold=0.5):
    sequence = sequence_of("s", scores, masks, frames)
    (block,) = blocks(sequence, scores)
    return find_candidates(block, what, threshold, MAIN)


def blocks(sequence, scores):
    taken = []

    class Take:
        add = taken.append
        end = staticmethod(lambda sequence: None)

    feed([Take], sequence, scores, len(scores))
    return taken


def test_targets_are_components_of_masks_and_detections_where_there_are_none(rng):
    scores, masks = scored(rng, frames=3, targets=2)
    found = candidates("targets", scores, masks)
    assert [(t.frame, t.kind, len(t.pixels)) for t in found] == [
        (frame, "target", 2) for frame in range(3) for _ in range(2)
    ]
    assert [t.score for t in found[:2]] == pytest.approx([0.9, 0.8])
    detections = candidates("targets", scores, threshold=0.85)
    assert [(t.frame, t.kind) for t in detections] == [(f, "detection") for f in range(3)]


def test_alarms_are_detections_that_the_protocol_calls_false(rng):
    scores, masks = scored(rng, frames=3)
    scores[1, 18, 20:23] = 0.7
    scores[2, 4, 9] = 0.9  # beside the target: guarded
    (alarm,) = candidates("alarms", scores, masks)
    assert (alarm.frame, alarm.kind, len(alarm.pixels)) == (1, "false alarm", 3)
    assert len(candidates("alarms", scores)) == 4  # where nothing is known all may be false


def test_a_pixel_is_named_by_its_frame_s_number(rng):
    scores, masks = scored(rng, frames=3)
    (found,) = candidates((2, 23, 29), scores, masks)
    assert (found.frame, found.kind, found.pixels.tolist()) == (1, "pixel", [[23, 29]])
    assert candidates((9, 0, 0), scores, masks) == []
    with pytest.raises(ValueError, match="row 24, column 0: expected a pixel of frames of 24x30"):
        candidates((2, 24, 0), scores, masks)


def test_the_choice_is_spread_and_prefers_what_is_detected():
    def target(score, frame=0):
        return ScoredTarget(frame, np.zeros((1, 2), int), score=score)

    choice = Choice(frames=3, targets=2, threshold=0.5)
    for frame in range(30):
        found = [target(0.3), target(0.2), target(0.1)]
        if frame < 10 and frame not in (4, 5):
            found.append(target(0.6))
        if 10 <= frame < 20:
            found = [target(frame / 100)]
        choice.add(frame, 30, found if frame < 20 else [])
    chosen = choice.chosen()
    assert [(t.frame, t.score) for t in chosen] == [(3, 0.6), (3, 0.3), (19, 0.19)]


def test_targets_of_resized_frames_are_found_in_them():
    target = ScoredTarget(0, np.array([[4, 6], [5, 7], [9, 9]]))
    assert target.scaled((10, 10), (5, 20)).pixels.tolist() == [[2, 12], [2, 14], [4, 18]]
    assert target.scaled((10, 10), (10, 10)) is target
