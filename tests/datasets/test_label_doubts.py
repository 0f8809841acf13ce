"""Labels that could be read in two ways, or of other footage: told or refused, never guessed."""

import numpy as np
import pytest

from data.convert.boxes import Box, Problems, link
from data.convert.targets import draw_targets_of
from data.remarks import DataWarning
from tests.builders import write_image
from tests.datasets.test_convert import convert, refusal, scene
from tests.datasets.test_labels import complaint, read, shape_of, write, write_coco

YOLO = "0 0.5 0.5 0.1 0.1\n"


@pytest.fixture
def two(tmp_path):
    """Two sequences of five frames, a and b."""
    for name in "ab":
        for number in range(1, 6):
            frame = np.full((40, 60), 10 * number, np.uint8)
            write_image(tmp_path / "two" / name / f"{number:05d}.png", frame)
    return tmp_path / "two"


def test_of_a_coco_file_only_the_folder_of_the_sequences_name_is_read(tmp_path):
    images = [
        {"id": 100 * k + n, "file_name": f"{name}/{n:05d}.png"}
        for k, name in enumerate(("clip", "other"))
        for n in range(1, 31)
    ]
    annotations = [{"image_id": 3, "bbox": [1, 2, 3, 4]}, {"image_id": 104, "bbox": [9, 9, 3, 4]}]
    path = write_coco(tmp_path / "c.json", annotations, images)
    (box,) = read(path)
    assert (box.frame, box.left) == (2, 1)
    message = complaint(path, shape=shape_of("video"))
    assert "both frame 1 of video" in message and "in a folder of that name" in message


def test_coco_images_of_one_id_are_refused(tmp_path):
    images = [{"id": 1, "file_name": f"{n:05d}.png"} for n in range(1, 4)]
    assert "same id" in complaint(write_coco(tmp_path / "c.json", [], images))


@pytest.mark.parametrize(
    "lines, kind",
    [
        ("1,1,10,10,5,5\n1,1,10,10,5,5\n", "box"),
        ("1,-1,10,10,5,5\n1,-1,10,10,5,5\n", "box"),
        ("1,7,10,10,5,5\n2,7,10,10,5,5\n2,7,30,10,5,5\n", "track"),
        ("1,7,10,10,5,5\n2,7,10,10,5,5\n2,8,30,10,5,5\n1,-1,9,9,5,5\n1,-1,19,9,5,5\n", None),
    ],
)
def test_what_a_frame_has_twice_is_told(tmp_path, lines, kind):
    problems = Problems()
    boxes = read(write(tmp_path / "clip.txt", lines), "mot", problems=problems)
    assert len(boxes) == lines.count("\n")
    told = [f"its frame has this {kind} already; both are taken"] * (kind is not None)
    assert [doubt.split(": ")[-1] for doubt in problems.doubts] == told


@pytest.mark.parametrize("kind", ["yolo", "coco"])
def test_labels_named_as_the_frames_stay_there_whatever_first_frame_says(kind, tmp_path):
    names = tuple(f"{n:05d}.png" for n in range(1, 31))
    shape = shape_of(file_names=names)
    if kind == "yolo":
        path = tmp_path
        for number in (5, 9):
            write(tmp_path / f"{number:05d}.txt", YOLO)
    else:
        given = [{"image_id": n, "bbox": [1, 2, 3, 4]} for n in (5, 9)]
        path = write_coco(tmp_path / "c.json", given)
    for told in (None, "auto"):
        assert [box.frame for box in read(path, kind, shape, first_frame=told)] == [4, 8]
    assert "expected no --first_frame" in complaint(path, kind, shape, first_frame=1)


def test_points_stay_at_the_numbers_of_the_frames_that_they_fit(tmp_path):
    path = write(tmp_path / "a.csv", "frame,row,column\n4,5,6\n5,5,6\n")
    for told in (None, "auto"):
        found = read(path, shape=shape_of(count=10, numbers=range(10)), first_frame=told)
        assert [box.frame for box in found] == [4, 5]


@pytest.mark.parametrize(
    ("numbers", "doubtful"), [((3, 9), True), ((0, 9), False), ((3, 30), False)]
)
def test_names_that_do_not_say_where_numbers_begin_are_told_once(numbers, doubtful, tmp_path):
    for number in numbers:
        write(tmp_path / f"frame_{number:06d}.txt", YOLO)
    problems = Problems()
    read(tmp_path, "yolo", problems=problems)
    assert len(problems.doubts) == doubtful
    if doubtful:
        assert "give --first_frame 0" in problems.doubts[0]


@pytest.mark.parametrize(
    "line",
    [
        "0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2",  # a polygon of four corners
        "0 0.1 0.1 0.2 0.1 0.15 0.3",  # of three
        "0 0.5 0.5 0.1 0.1 0.4 0.4 2 0.6 0.6 2",  # key points
    ],
)
def test_polygons_and_key_points_are_no_boxes(line, tmp_path):
    write(tmp_path / "00001.txt", f"{line}\n")
    assert "polygons are not read" in complaint(tmp_path, "yolo")


@pytest.mark.parametrize("more", ["", " 0.8", " 0.8 17"])
def test_a_yolo_box_may_have_a_confidence_and_a_track(more, tmp_path):
    write(tmp_path / "00001.txt", f"0 0.5 0.5 0.25 0.125{more}\n")
    (box,) = read(tmp_path, "yolo")
    assert (box.left, box.top, box.width, box.height) == (48, 42, 32, 12)


def test_an_empty_field_of_a_mot_line_moves_no_other(tmp_path):
    (box,) = read(write(tmp_path / "clip.txt", "6,,71.5,58.5,10,12,1\n"))
    assert (box.left, box.top, box.width, box.height, box.track) == (70.5, 57.5, 10, 12, None)
    assert "expected numbers: frame,id" in complaint(
        write(tmp_path / "clip.txt", "6,1,71.5,,10,12,1\n")
    )


def test_frames_are_whole_numbers(tmp_path):
    assert "expected numbers: frame,id" in complaint(
        write(tmp_path / "clip.txt", "1.6,1,7,5,10,12,1\n")
    )
    path = write(tmp_path / "a.csv", "frame,row,column\n1.9,5,6\n")
    assert "a whole one for the frame" in complaint(path)


def test_tracks_that_are_given_stay_when_another_has_none():
    crossing = [Box(n, 10, 10 + n, 3, 3, 1) for n in range(9)]
    crossing += [Box(n, 10, 18 - n, 3, 3, 2) for n in range(9)]
    linked = link([*crossing, Box(4, 40, 40, 3, 3)])
    assert {(b.left, b.frame, b.track) for b in linked[:-1] if b.top == 10} <= {
        (b.left, b.frame, b.track) for b in crossing
    }
    assert [b.track for b in linked if b.top == 40] == [3]
    assert [b.frame for b in linked] == sorted(b.frame for b in linked)


def test_points_have_the_classes_asked_for_or_none_are_known(tmp_path):
    path = write(tmp_path / "a.csv", "frame,row,column,class\n1,5,6,drone\n2,5,6,bird\n")
    (box,) = read(path, classes=("bird",))
    assert box.frame == 1
    path = write(tmp_path / "b.csv", "frame,row,column\n1,5,6\n")
    assert "no column class" in complaint(path, classes=("bird",))


def test_a_table_of_boxes_that_was_written_is_read(tmp_path):
    path = write(
        tmp_path / "boxes.csv",
        "sequence,frame,top,left,height,width,id,score\nclip,2,4.5,6,3,2,8,1\n",
    )
    assert read(path) == [Box(1, 4.5, 6, 3, 2, 8)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("b.txt", "1,1,20,20,5,5,1\n", "one file of labels for several sequences"),
        ("points.csv", "frame,row,column\n1,5,6\n", "no column sequence"),
        ("points.csv", "sequence,frame,row,column\na,1,5,6\nB,1,5,6\n", "but of B, which is no"),
        ("yolo/00001.txt", YOLO, "no label files"),
    ],
)
def test_labels_of_one_sequence_are_not_those_of_two(name, text, said, two, tmp_path, capsys):
    path = write(tmp_path / "labels" / name, text)
    labels = path.parent if "yolo" in name else path
    line = refusal((two, "--labels", labels, "--output", tmp_path / "out"), capsys)
    assert said in line
    assert not (tmp_path / "out").exists()


def test_points_of_sequences_that_are_not_there_are_told(two, tmp_path, capsys):
    text = "sequence,frame,row,column\na,1,5,6\nb,1,5,6\nc,1,5,6\n"
    path = write(tmp_path / "points.csv", text)
    convert(two, "--labels", path, "--output", tmp_path / "out")
    assert "points of c, which is not there, are left out" in capsys.readouterr().err


def test_masks_of_one_folder_are_not_those_of_two_sequences(two, tmp_path, capsys):
    for number in range(1, 6):
        write_image(tmp_path / "masks" / f"{number:05d}.png", np.eye(40, 60, dtype=np.uint8) * 255)
    line = refusal((two, "--labels", tmp_path / "masks", "--output", tmp_path / "out"), capsys)
    assert "a: no masks in" in line
    convert(two / "a", "--labels", tmp_path / "masks", "--output", tmp_path / "out")


def test_detections_of_other_footage_are_not_dropped(two, tmp_path, capsys):
    path = write(
        tmp_path / "detections.csv", "sequence,frame,row,column,pixels\nelse,1,5,6,4\na,1,5,6,4\n"
    )
    words = (path, "--to", "mot", "--frames", two, "--output", tmp_path / "out")
    line = refusal(words, capsys)
    assert "1 detections of else" in line and "it has a, b" in line


def test_frames_of_detections_keep_their_numbers_in_mot_files(tmp_path, capsys):
    head = "sequence,frame,row,column,pixels\n"
    path = write(tmp_path / "detections.csv", f"{head}a,3,5,6,4\nb,5,5,6,4\n")
    convert(path, "--to", "mot", "--output", tmp_path / "out")
    for name, frame in (("a", 3), ("b", 5)):
        assert (tmp_path / "out" / name / "gt" / "gt.txt").read_text().startswith(f"{frame},")
    path = write(tmp_path / "detections.csv", f"{head}a,0,5,6,4\nb,5,5,6,4\n")
    line = refusal((path, "--to", "mot", "--output", tmp_path / "other"), capsys)
    assert "counts from 1; give --frames" in line


@pytest.mark.parametrize("scale", [1 / 255, 257.0, 0.01])
def test_masks_do_not_depend_on_the_scale_of_grey_levels(scale, rng):
    frames, boxes = scene(rng, frames=4)
    for frame, box in zip(frames, boxes, strict=True):
        expected = draw_targets_of(frame, [box])
        scaled = draw_targets_of((frame * scale).astype(np.float32), [box])
        assert np.array_equal(expected.mask, scaled.mask)
        assert expected.refined == scaled.refined == 1


@pytest.mark.parametrize(
    "text", ["frame,row,column\n1,47,5,50,5\n", "frame,row,column\n7,1,47.5,50.5\n"]
)
def test_a_line_of_more_cells_than_names_is_refused(text, tmp_path):
    assert "line 2: " in (message := complaint(write(tmp_path / "a.csv", text)))
    assert "cells, but the first line names 3" in message
    path = write(tmp_path / "b.csv", "frame,row,column\n1,47,50,\n")
    assert read(path)[0].centre == (47, 50)
    assert read(write(tmp_path / "empty.csv", "")) == []


def test_decimals_with_commas_in_a_mot_file_are_doubted(tmp_path):
    problems = Problems()
    read(write(tmp_path / "clip.txt", "1,1,44,5,43,5,15,5,11,5\n"), problems=problems)
    assert "if their decimals have commas" in problems.doubts[0]
    assert "expected numbers: frame,id" in complaint(
        write(tmp_path / "b.txt", "1,1,4,5,3,5,5,5,1,5,1\n")
    )


def test_a_point_outside_the_frame_is_no_target(tmp_path):
    path = write(tmp_path / "a.csv", "frame,row,column\n1,-1,-1\n2,95.4,127.4\n")
    assert "line 2: row -1, column -1 lies outside the frame" in complaint(path)
    problems = Problems(skip=True)
    assert len(read(path, problems=problems)) == 1 == len(problems.found)


def test_shares_of_the_frame_are_no_pixels(tmp_path):
    path = write(tmp_path / "a.csv", "frame,x,y\n1,0.526,0.494\n2,0.53,0.49\n")
    assert "as shares of the frame would" in complaint(path)
    coco = write_coco(tmp_path / "c.json", [{"image_id": 1, "bbox": [0.4, 0.5, 0.05, 0.04]}])
    assert "as shares of the frame would" in complaint(coco)


def test_positions_of_both_corners_are_no_sizes(tmp_path):
    lines = "".join(f"{n},1,{20 + n},30,{29 + n},35\n" for n in range(1, 6))
    problems = Problems()
    read(write(tmp_path / "clip.txt", lines), problems=problems)
    assert any("positions of the other corner?" in doubt for doubt in problems.doubts)
    for lines in ("1,1,20,30,9,5\n2,1,20,30,9,5\n3,1,20,30,9,5\n", "1,1,5,5,9,9\n"):
        problems = Problems()
        read(write(tmp_path / "clip.txt", lines), problems=problems)
        assert not problems.doubts


@pytest.mark.parametrize(
    ("first", "last", "expected", "doubtful"),
    [
        (10, 39, 0, False),  # fits no other numbering
        (10, 20, 0, True),
        (12, 20, 11, True),
        (1, 9, 0, False),
    ],
)
def test_labels_numbered_as_the_files_are_told_from_those_from_1(
    first, last, expected, doubtful, tmp_path
):
    shape = shape_of(count=30, numbers=range(10, 40), file_names=None)
    lines = "".join(f"{n},1,20,20,5,5\n" for n in range(first, last + 1))
    problems = Problems()
    boxes = read(write(tmp_path / "clip.txt", lines), shape=shape, problems=problems)
    assert boxes[0].frame == expected and bool(problems.doubts) == doubtful
    assert all("give --first_frame" in doubt for doubt in problems.doubts)


def test_what_is_doubtful_about_footage_is_told_in_converting_it(tmp_path):
    np.save(tmp_path / "turned.npy", np.arange(40 * 50 * 10, dtype=np.uint16).reshape(40, 50, 10))
    write(tmp_path / "turned.csv", "frame,row,column\n1,5,5\n")
    words = f"{tmp_path / 'turned.npy'} --labels {tmp_path / 'turned.csv'}"
    with pytest.warns(DataWarning, match="arrays are read as .frames, height, width"):
        convert(*words.split(), "--output", tmp_path / "out")
