"""Points stay where they were labelled, targets that merge are told, scores are kept."""

import csv
import json

import numpy as np
import pytest

from data.convert.boxes import Box, median_speed
from data.convert.exports import write_exports
from data.convert.pictures import draw_tile
from data.convert.targets import MASK_REACH, draw_targets_of
from data.images import read_mask
from data.remarks import DataWarning
from data.specs import get_spec
from tests.builders import write_image, write_video
from tests.datasets.test_convert import convert, read_stack, refusal
from tests.datasets.test_labels import SIZE, read, shape_of, write
from utils.metrics import find_targets

ROWS, COLUMNS = 40, 50
SIDE = "a number of pixels above 0"
BORDER = [(0, 20), (39, 30), (15, 0), (25, 49), (0, 0), (39, 49), (20, 25)]


@pytest.fixture
def clip(tmp_path, rng):
    """Ten frames of noise, in which no target stands out, as a folder of images."""
    for number in range(1, 11):
        frame = rng.integers(90, 110, (ROWS, COLUMNS)).astype(np.uint8)
        write_image(tmp_path / "clip" / f"{number:03d}.png", frame)
    return tmp_path / "clip"


def write_points(path, points, frames=10):
    """A table of the same points (row, column) in all frames."""
    lines = [f"{n},{y},{x},{k}\n" for n in range(1, frames + 1) for k, (y, x) in enumerate(points)]
    return write(path, "frame,row,column,id\n" + "".join(lines))


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("size", [0.5, 3, 4, 9, 15])
def test_points_at_the_border_stay_the_centres_of_their_targets(size, clip, tmp_path):
    path = write_points(tmp_path / "points.csv", BORDER)
    words = ("--labels", path, "--point_size", size, "--split", "1")
    convert(clip, *words, "--output", tmp_path / "out")
    masks = read_stack(tmp_path / "out/clip/masks", read_mask)
    centroids = read_stack(tmp_path / "out/clip/masks_centroid", read_mask)
    assert (centroids <= masks).all()
    for centroid in centroids:
        assert sorted(map(tuple, np.argwhere(centroid).tolist())) == sorted(BORDER)
    for kind in ("points", "boxes"):
        convert(tmp_path / "out", "--to", kind, "--output", tmp_path / kind)
    back = [
        (float(row["row"]), float(row["column"]))
        for row in rows_of(tmp_path / "points" / "points.csv")
    ]
    np.testing.assert_allclose(sorted(back), sorted(10 * BORDER), atol=1e-3)
    for row in rows_of(tmp_path / "boxes" / "boxes.csv"):
        assert float(row["height"]) == float(row["width"]) == pytest.approx(size, abs=1e-3)


def test_the_mask_of_a_point_at_the_border_is_cut_and_nothing_else(rng):
    frame = rng.integers(90, 110, (ROWS, COLUMNS)).astype(np.uint8)
    middle = draw_targets_of(frame, [Box(0, 16, 16, 9, 9)], refine=False).mask
    corner = draw_targets_of(frame, [Box(0, -4, -4, 9, 9)], refine=False).mask
    np.testing.assert_array_equal(corner[:5, :5], middle[20:25, 20:25])
    assert corner.sum() == corner[:5, :5].sum()


def test_any_point_has_the_pixel_it_lies_in_as_its_centroid(rng, tmp_path):
    frame = np.full(SIZE, 100, np.uint8)
    for _ in range(300):
        point = rng.uniform(-0.49, SIZE[0] - 0.51), rng.uniform(-0.49, SIZE[1] - 0.51)
        size = rng.uniform(0.1, 20)
        path = write(tmp_path / "p.csv", "frame,row,column\n1,{:.6f},{:.6f}\n".format(*point))
        boxes = read(path, point_size=size)
        assert boxes[0].centre == pytest.approx(point, abs=1e-5)
        mask, centroids, *_ = draw_targets_of(frame, boxes)
        ((row, column),) = np.argwhere(centroids)
        assert np.abs(np.subtract((row, column), point)).max() <= 0.5 + 1e-5
        assert np.abs(np.argwhere(mask) - (row, column)).max() <= MASK_REACH


def test_the_speed_of_points_at_the_border_is_their_own(tmp_path):
    lines = "".join(f"{n},{0.2 * n - 0.2:.1f},10\n" for n in range(1, 31))
    boxes = read(write(tmp_path / "p.csv", f"frame,row,column\n{lines}"), point_size=15)
    assert median_speed(boxes) == pytest.approx(0.2)


def test_detections_at_the_border_come_back_as_points_where_they_were(clip, tmp_path):
    lines = "".join(f"clip,{n},{y},{x},30,0.9,0.8,\n" for n in (1, 9) for y, x in BORDER)
    head = "sequence,frame,row,column,pixels,peak_score,mean_score,file\n"
    path = write(tmp_path / "detections.csv", head + lines)
    for frames in ((), ("--frames", clip)):
        output = tmp_path / f"out{len(frames)}"
        convert(path, *frames, "--to", "points", "--output", output)
        back = [(float(row["row"]), float(row["column"])) for row in rows_of(output / "points.csv")]
        np.testing.assert_allclose(sorted(back), sorted(2 * BORDER), atol=1e-4)


def test_a_tile_of_a_point_on_the_edge_is_as_large_as_any():
    frame = np.zeros((ROWS, COLUMNS), np.uint8)
    points = (-0.5, -0.5), (ROWS - 0.5, COLUMNS - 0.5), (20, 20)
    boxes = [Box(0, y - 1, x - 1, 3, 3) for y, x in points]
    tiles = [draw_tile(frame, box, frame, "one") for box in boxes]
    assert len({tile.shape for tile in tiles}) == 1


@pytest.mark.parametrize(
    ("points", "targets", "shared"),
    [
        ([(20, 25), (20, 26)], 1, 2),  # touch
        ([(20, 25), (21, 26)], 1, 2),  # by a corner
        ([(20, 25), (20, 25), (5, 5)], 2, 2),  # coincide
        ([(20, 25), (20, 26), (20, 27), (5, 5), (5, 6)], 2, 5),
        ([(20, 25), (20, 27)], 2, 0),
    ],
)
def test_labels_that_share_a_target_are_told_and_counted_as_a_test_does(
    points, targets, shared, clip, tmp_path, capsys, recwarn
):
    path = write_points(tmp_path / "points.csv", points)
    words = ("--labels", path, "--split", "1", "--output", tmp_path / "out")
    convert(clip, *words)
    told = [str(one.message) for one in recwarn if one.category is DataWarning]
    if shared:
        (line,) = told
        begin = f"{10 * shared} of {10 * len(points)} labels share a target with another, first in "
        assert line.startswith(f"{begin}frame 1 of clip")
    else:
        assert told == []
    counted = find_targets(read_stack(tmp_path / "out/clip/masks_centroid", read_mask)).count
    record = json.loads((tmp_path / "out/dataset.json").read_text())["sequences"]["clip"]
    assert record["targets"] == counted == 10 * targets and record["shared"] == 10 * shared
    assert f"  {counted} targets\n" in capsys.readouterr().out


def test_the_first_frame_in_which_labels_share_a_target_has_its_own_number(clip, tmp_path):
    path = write(tmp_path / "points.csv", "frame,row,column\n2,5,5\n2,5,6\n7,5,5\n9,5,5\n9,5,6\n")
    words = ("--labels", path, "--stride", "2", "--split", "0.2", "--output", tmp_path / "out")
    with pytest.warns(DataWarning, match="2 of 3 labels share .*, first in frame 9 of clip"):
        convert(clip, *words)


def test_targets_that_the_image_tells_are_counted_once_where_they_share():
    frame = np.full((ROWS, COLUMNS), 100, np.uint8)
    frame[20:22, 20:22] = 200
    drawn = draw_targets_of(frame, [Box(0, 18, 18, 6, 6), Box(0, 19, 19, 5, 5), Box(0, 2, 2, 3, 3)])
    assert (drawn.count, drawn.refined, drawn.shared) == (2, 1, 2)


@pytest.mark.parametrize("place", ["clip/masks", "clip", "masks", "."])
def test_masks_are_found_where_they_may_lie(place, clip, tmp_path):
    for number in range(1, 11):
        mask = np.zeros((ROWS, COLUMNS), np.uint8)
        mask[number, 20] = 255
        write_image(tmp_path / "labels" / place / f"{number:03d}.png", mask)
    (tmp_path / "labels/clip/images").mkdir(parents=True, exist_ok=True)
    write(tmp_path / "labels/report.csv", "sequence,pd\nelse,1\n")
    write(tmp_path / "labels/clip.md", "")
    words = ("--labels", tmp_path / "labels", "--split", "0", "--output", tmp_path / "out")
    convert(clip, *words)
    masks = read_stack(tmp_path / "out/clip/masks", read_mask)
    assert np.argwhere(masks).tolist() == [[n, n + 1, 20] for n in range(10)]


def test_yolo_labels_beside_masks_are_read_as_before(clip, tmp_path):
    for number in range(1, 11):
        write_image(
            tmp_path / "labels/clip/masks" / f"{number:03d}.png", np.eye(ROWS, dtype=np.uint8)
        )
    write(tmp_path / "labels/clip/labels/003.txt", "0 0.5 0.5 0.1 0.1\n")
    convert(clip, "--labels", tmp_path / "labels", "--split", "0", "--output", tmp_path / "out")
    assert (tmp_path / "out/boxes/clip.txt").read_text().startswith("3,")


def test_centroids_beside_masks_keep_touching_targets_apart(clip, tmp_path):
    for number in range(1, 11):
        mask = np.zeros((ROWS, COLUMNS), np.uint8)
        mask[10, 10:18] = 255
        write_image(tmp_path / "labels/clip/masks" / f"{number:03d}.png", mask)
        mask[10, [10, 12, 13, 14, 15, 17]] = 0
        write_image(tmp_path / "labels/clip/masks_centroid" / f"{number:03d}.png", mask)
    convert(clip, "--labels", tmp_path / "labels", "--split", "0", "--output", tmp_path / "out")
    centroids = read_stack(tmp_path / "out/clip/masks_centroid", read_mask)
    assert np.argwhere(centroids[4]).tolist() == [[10, 11], [10, 16]]
    record = json.loads((tmp_path / "out/dataset.json").read_text())["sequences"]["clip"]
    assert record["targets"] == 20


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        *(("--point_size", value, SIDE) for value in ("nan", "inf", "0", "-3", "x")),
        *(("--workers", value, "a number from 1") for value in ("-2", "0", "1.5", "x")),
        *(("--seed", value, "a number from 0") for value in ("-1", "x")),
        *(("--first_frame", value, "auto, or a number from 0") for value in ("-1", "x")),
        ("--stride", "0", "auto, or a number from 1"),
    ],
)
def test_an_option_s_value_is_refused_as_such(option, value, said, clip, tmp_path, capsys):
    path = write_points(tmp_path / "points.csv", BORDER)
    words = (clip, "--labels", path, "--output", tmp_path / "out", option, value)
    line = refusal(words, capsys)
    assert line == f"error: argument {option}: '{value}': expected {said}"


@pytest.mark.parametrize("kind", ["boxes", "points", "mot", "coco"])
def test_scores_come_back(kind, tmp_path):
    boxes = [Box(n, 10 + n, 20, 3, 3, 1, score) for n, score in enumerate((0.25, 1.0, 0.875))]
    write_exports(kind, tmp_path, [(shape_of(), boxes)])
    file = {"boxes": "boxes.csv", "points": "points.csv", "coco": "annotations.json"}.get(kind)
    found = read(tmp_path / file if file else tmp_path)
    assert [(box.frame, box.track, box.score) for box in found] == [
        (box.frame, box.track, box.score) for box in boxes
    ]


@pytest.mark.parametrize("kind", ["boxes", "points", "mot", "yolo", "coco"])
def test_what_was_exported_is_read_without_a_doubt(kind, clip, tmp_path, capsys):
    path = write_points(tmp_path / "points.csv", [(10, 20), (30, 40)])
    path.write_text(
        "\n".join(f"{line},0.5" for line in path.read_text().split()).replace("id,0.5", "id,score")
    )
    convert(clip, "--labels", path, "--split", "1", "--output", tmp_path / "one")
    convert(tmp_path / "one", "--to", kind, "--output", tmp_path / "labels")
    words = ("--labels", tmp_path / "labels", "--split", "1")
    convert(clip, *words, "--first_frame", "auto", "--output", tmp_path / "two")
    assert "warning" not in capsys.readouterr().err
    if kind != "yolo":  # it has no scores
        assert (tmp_path / "two/boxes/clip.txt").read_text() == (
            tmp_path / "one/boxes/clip.txt"
        ).read_text()


def test_a_target_of_score_0_is_not_lost_in_a_mot_file(tmp_path):
    write_exports("mot", tmp_path, [(shape_of(), [Box(4, 10, 10, 3, 3, 1, 0.0)])])
    (box,) = read(tmp_path, "mot")
    assert box.frame == 4 and box.score < 1e-5
    (box,) = read(write(tmp_path / "a.txt", "5,1,10,10,3,3,-1,-1,-1,-1\n"), "mot")
    assert box.score == 1


def test_ids_may_be_names(tmp_path):
    lines = (
        "frame,row,column,id\n1,1,1,drone_b\n1,5,5,7\n2,1,2,drone_b\n2,5,6,7\n2,9,9,\n3,9,9,n/a\n"
    )
    boxes = read(write(tmp_path / "points.csv", lines))
    assert [box.track for box in boxes] == [1, 2, 1, 2, None, None]


def test_texts_beside_a_folder_of_masks_that_is_named_are_no_labels(tmp_path, rng):
    for number in (1, 2, 3):
        for part in ("images", "masks"):
            picture = 255 * rng.integers(0, 2, (9, 9)).astype(np.uint8)
            write_image(tmp_path / "clip" / part / f"{number}.png", picture)
    write(tmp_path / "clip/readme.txt", "notes")
    labels = tmp_path / "clip/masks"
    convert(tmp_path / "clip", "--labels", labels, "--output", tmp_path / "out", "--split", "1")
    masks = read_stack(tmp_path / "out/clip/masks", read_mask)
    np.testing.assert_array_equal(masks, read_stack(labels, read_mask))


@pytest.mark.parametrize("column", ["pixels", "score", "peak_score"])
def test_a_cell_that_is_no_number_is_no_default(column, clip, tmp_path, capsys):
    lines = f"frame,row,column,{column}\n1,10,20,\n2,10,20,x\n3,10,20,4\n"
    path = write(tmp_path / "points.csv", lines)
    words = (clip, "--labels", path, "--output", tmp_path / "out")
    assert f"points.csv, line 3: {column} 'x': expected a number" in refusal(words, capsys)
    convert(*words, "--split", "1", "--skip_bad")  # nothing in a cell is no fault
    masks = read_stack(tmp_path / "out/clip/masks_centroid", read_mask)
    assert masks.any(axis=(1, 2)).tolist() == [True, False, True] + 7 * [False]


@pytest.mark.parametrize("words", ["--labels x", "--stride 2", "--point_size 5", "--no_refine"])
def test_options_that_labels_would_ignore_are_refused(words, clip, tmp_path, capsys):
    given = (clip, "--to", "mot", *words.split(), "--output", tmp_path / "out")
    assert f"{words.split()[0]} with --to" in refusal(given, capsys)
    assert "--frames without --to" in refusal([*given[:1], *given[-2:], "--frames", clip], capsys)


@pytest.mark.parametrize("stride", [1, 3])
def test_the_record_tells_the_rate_of_a_video(stride, tmp_path, rng):
    frames = rng.integers(60, 200, (12, 16, 32), dtype=np.uint8)
    video = write_video(tmp_path / "clip.mkv", frames)  # of 10 frames a second
    path = write_points(tmp_path / "points.csv", [(8, 9)], frames=12)
    words = ("--labels", path, "--stride", stride, "--split", "1")
    convert(video, *words, "--output", tmp_path / "out")
    spec = get_spec("Converted")
    (sequence,) = spec.open(spec, tmp_path / "out")
    assert sequence.stride == stride and sequence.frame_rate == pytest.approx(10 / stride)
