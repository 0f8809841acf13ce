"""Labels there and back in every form, and what is wrong with them in one line."""

import json

import numpy as np
import pytest

from data.convert.boxes import (
    Box,
    Problems,
    SequenceShape,
    boxes_of_masks,
    choose_stride,
    link,
    median_speed,
)
from data.convert.exports import write_exports, write_mot
from data.convert.forms import LabelOptions
from data.convert.labels import guess_form, read_boxes

SIZE = (96, 128)


def shape_of(name="clip", count=30, file_names=None, numbers=None):
    numbers = tuple(numbers or range(1, count + 1))
    return SequenceShape(name, count, SIZE, numbers, file_names)


def random_boxes(rng, count=30, tracks=3):
    """Boxes of targets that drift, each with its own size, within the frame."""
    boxes = []
    for track in range(1, tracks + 1):
        height, width = rng.uniform(1, 14, 2)
        row, column = rng.uniform(2, 60, 2)
        step = rng.uniform(-0.05, 0.9, 2)
        for frame in range(count):
            top, left = row + frame * step[0], column + frame * step[1]
            boxes.append(Box(frame, top, left, height, width, track))
    return sorted(boxes, key=lambda box: box.frame)


def corners(boxes):
    """Sorted (frame, top, left, bottom, right) of boxes."""
    return np.array(
        sorted((b.frame, b.top, b.left, b.top + b.height, b.left + b.width) for b in boxes)
    )


def read(path, kind=None, shape=None, **options):
    shape = shape or shape_of()
    return read_boxes(path, kind or guess_form(path, shape), shape, LabelOptions(**options))


def complaint(path, kind=None, shape=None, **options):
    """The message about labels that make no sense: one line."""
    with pytest.raises(ValueError) as refused:
        read(path, kind, shape, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_coco(path, annotations, images=None, categories=(1,)):
    images = images or [{"id": n, "file_name": f"{n:05d}.png"} for n in range(1, 31)]
    content = {
        "images": images,
        "annotations": [{"id": i, "category_id": 1} | a for i, a in enumerate(annotations, 1)],
        "categories": [{"id": n, "name": f"kind{n}"} for n in categories],
    }
    return write(path, json.dumps(content))


@pytest.mark.parametrize("kind", ["mot", "yolo", "coco"])
@pytest.mark.parametrize("named", [True, False])
def test_boxes_come_back_within_a_hundredth_of_a_pixel(kind, named, rng, tmp_path):
    names = tuple(f"shot{3 * n:03d}.bmp" for n in range(30)) if named else None
    shapes = [shape_of("one", file_names=names), shape_of("two", file_names=names)]
    boxes = [random_boxes(rng), random_boxes(rng)]
    write_exports(kind, tmp_path, list(zip(shapes, boxes, strict=True)))
    for shape, expected in zip(shapes, boxes, strict=True):
        found = read(tmp_path, shape=shape, several=True)
        np.testing.assert_allclose(corners(found), corners(expected), atol=0.01)
        if kind != "yolo":  # it knows no tracks
            one, other = (
                sorted((b.frame, b.track, round(b.left, 1)) for b in each)
                for each in (found, expected)
            )
            np.testing.assert_allclose(one, other, atol=0.11)


def test_points_come_back_as_boxes_of_the_size_given(rng, tmp_path):
    boxes = random_boxes(rng)
    write_exports("points", tmp_path, [(shape_of(), boxes)])
    found = read(tmp_path / "points.csv", point_size=5)
    assert {(box.height, box.width) for box in found} == {(5, 5)}
    centres = [sorted((b.frame, *b.centre) for b in each) for each in (found, boxes)]
    np.testing.assert_allclose(centres[0], centres[1], atol=1e-3)


def test_a_point_at_a_pixel_lies_in_its_middle(tmp_path):
    path = write(tmp_path / "p.csv", "frame,x,y\n1,7,4\n")
    (box,) = read(path, point_size=1)
    assert (box.frame, box.top, box.left, box.centre) == (0, 4, 7, (4, 7))


def test_mot_counts_frames_and_pixels_from_1(tmp_path):
    (box,) = read(write(tmp_path / "clip.txt", "1,5,1,1,4,3,1,-1,-1,-1\n"))
    assert box == Box(0, 0, 0, 3, 4, 5)
    (box,) = read(tmp_path / "clip.txt", first_pixel=0)
    assert (box.top, box.left) == (1, 1)


def test_what_mot_says_is_not_to_be_considered_is_not(tmp_path):
    path = write(tmp_path / "clip.txt", "1,1,5,5,4,3,0,1,1\n2,1,5,5,4,3,1,1,1\n")
    assert [box.frame for box in read(path)] == [1]


def test_labels_of_a_folder_are_found_where_benchmarks_have_them(rng, tmp_path):
    boxes = random_boxes(rng)
    for place in ("a/clip.txt", "b/clip/gt/gt.txt", "c/clip/gt.txt"):
        write_mot(tmp_path / place, boxes)
    for folder in "abc":
        assert len(read(tmp_path / folder)) == len(boxes)
    with pytest.raises(FileNotFoundError, match="other: no labels; expected"):
        read(tmp_path / "a", "mot", shape_of("other"))


def test_boxes_are_cut_at_the_border_of_the_frame(tmp_path):
    path = write(tmp_path / "clip.txt", "1,1,-4,90,10,30,1\n")
    (box,) = read(path)
    assert (box.top, box.left, box.height, box.width) == (89, 0, 7, 5)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2,1,20,20,0,5,1", "line 2: a box of 0x5 pixels"),
        ("2,1,20,20,5,-3,1", "line 2: a box of 5x-3 pixels"),
        ("2,1,200,20,5,5,1", "columns 199 to 204, rows 19 to 24 lie outside the frame of 128x96"),
        (
            "0,1,20,20,5,5,1",
            "frame 0, but clip has 30 frames, 1 to 30: do the labels count from 0?",
        ),
        ("31,1,20,20,5,5,1", "frame 31, but clip has 30 frames, 1 to 30;"),
        ("95,1,20,20,5,5,1", "frame 95, but clip has 30 frames, 1 to 30"),
        ("2,1,20", "line 2: '2,1,20'; expected numbers: frame,id,left,top,width,height"),
        ("2,1,nan,20,5,5,1", "line 2: '2,1,nan,20,5,5,1'; expected"),
        ("x,1,20,20,5,5,1", "line 2: 'x,1,20,20,5,5,1'; expected"),
    ],
)
def test_a_bad_mot_label_is_one_line_or_left_out(line, expected, tmp_path):
    path = write(tmp_path / "clip.txt", f"1,1,20,20,5,5,1\n{line}\n")
    message = complaint(path)
    assert expected in message and str(path) in message and "--skip_bad" in message
    problems = Problems(skip=True)
    assert len(read(path, problems=problems)) == 1
    assert len(problems.found) == 1 and expected.rstrip(";") in problems.found[0]


def test_another_first_frame_is_proposed_where_all_labels_fit(tmp_path):
    lines = "".join(f"{n},1,20,20,5,5,1\n" for n in range(2, 32))
    message = complaint(write(tmp_path / "clip.txt", lines))
    assert "1 to 30: do the labels count from 2? Then give --first_frame 2" in message


def test_labels_that_count_from_0_or_2_can_be_read(tmp_path):
    for first in (0, 1, 2):
        lines = [f"{n},1,20,20,5,5,1" for n in range(first, first + 30)]
        path = write(tmp_path / "clip.txt", "\n".join(lines))
        for told in (first, "auto"):
            assert [box.frame for box in read(path, first_frame=told)] == list(range(30))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 0.5 0.5 0 0.1", "a box of 0x9.6 pixels"),
        ("0 1.4 0.5 0.1 0.1", "lie outside the frame"),
        ("0 50 40 10 12", "expected shares of the frame"),
        ("7 0.5 0.5 0.1 0.1", "class 7 of 2"),
        ("bird 0.5 0.5 0.1 0.1", "expected class centre_x centre_y width height"),
    ],
)
def test_a_bad_yolo_label_is_one_line(line, expected, tmp_path):
    write(tmp_path / "classes.txt", "drone\nbird\n")
    write(tmp_path / "labels" / "00003.txt", f"1 0.5 0.5 0.1 0.1\n{line}\n")
    message = complaint(tmp_path, "yolo")
    assert expected in message and "00003.txt, line 2" in message


def test_yolo_files_of_a_video_count_from_0_if_there_is_a_0(tmp_path):
    for number in (0, 4):
        write(tmp_path / "zero" / f"frame_{number:06d}.txt", "0 0.5 0.5 0.1 0.1\n")
        write(tmp_path / "one" / f"clip_{number + 1}.txt", "0 0.5 0.5 0.1 0.1\n")
    for folder in ("zero", "one"):
        assert [box.frame for box in read(tmp_path / folder, "yolo")] == [0, 4]


def test_yolo_files_of_other_frames_are_one_line(tmp_path):
    shape = shape_of(count=2, file_names=("a1.png", "a2.png"))
    write(tmp_path / "a1.txt", "0 0.5 0.5 0.1 0.1\n")
    write(tmp_path / "b2.txt", "0 0.5 0.5 0.1 0.1\n")
    assert "of a frame that clip does not have" in complaint(tmp_path, "yolo", shape)


def test_only_the_classes_asked_for_are_targets(tmp_path):
    write(tmp_path / "classes.txt", "drone\nbird\n")
    write(tmp_path / "1.txt", "0 0.5 0.5 0.1 0.1\n1 0.2 0.2 0.1 0.1\n")
    for wanted in ("bird", "1"):
        (box,) = read(tmp_path, "yolo", classes=(wanted,))
        assert box.left < 64
    path = write_coco(
        tmp_path / "c.json",
        [
            {"image_id": 1, "bbox": [1, 2, 3, 4]},
            {"image_id": 1, "bbox": [5, 6, 7, 8], "category_id": 2},
        ],
        categories=(1, 2),
    )
    (box,) = read(path, classes=("kind2",))
    assert (box.left, box.top, box.width, box.height) == (5, 6, 7, 8)
    assert "no category 'plane'" in complaint(path, classes=("plane",))


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ({"bbox": [1, 2, 0, 4]}, "annotation 1: a box of 0x4 pixels"),
        ({"bbox": [1, 200, 3, 4]}, "lie outside the frame"),
        ({"bbox": [1, 2, 3]}, "expected a bbox"),
        ({}, "expected a bbox"),
        ({"bbox": [1, 2, 3, 4], "category_id": 9}, "category 9 is unknown"),
        ({"bbox": [1, 2, 3, 4], "image_id": 77}, "image_id 77 is of no image"),
    ],
)
def test_a_bad_coco_label_is_one_line(annotation, expected, tmp_path):
    path = write_coco(tmp_path / "c.json", [{"image_id": 2} | annotation])
    assert expected in complaint(path)


def test_coco_images_as_an_annotation_tool_names_frames_of_a_video(tmp_path):
    images = [{"id": n + 1, "file_name": f"frame_{n:06d}.PNG"} for n in range(30)]
    annotation = {"image_id": 5, "bbox": [1, 2, 3, 4], "attributes": {"track_id": 6}}
    (box,) = read(write_coco(tmp_path / "c.json", [annotation], images))
    assert (box.frame, box.track) == (4, 6)


def test_coco_files_that_do_not_fit_are_one_line(tmp_path):
    path = write(tmp_path / "c.json", "[]")
    assert "no list of images" in complaint(path)
    path = write(tmp_path / "d.json", "{")
    assert "cannot be read as JSON" in complaint(path)
    for images, expected in (([{"id": 1}], "no file_name"), ([3], "number 1 of images")):
        assert expected in complaint(write_coco(tmp_path / f"{expected}.json", [], images))
    images = [{"id": 1, "file_name": "clip/00001.png", "width": 640, "height": 512}]
    path = write_coco(tmp_path / "e.json", [], images)
    assert "of 640x512 pixels, but clip has 128x96" in complaint(path)
    with pytest.raises(FileNotFoundError, match="none of its images is a frame of other"):
        read(path, shape=shape_of("other"), several=True)


@pytest.mark.parametrize(
    "key, name",
    [
        ("images", "id"),
        ("images", "file_name"),
        ("images", "height"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("annotations", "bbox"),
        ("categories", "id"),
    ],
)
@pytest.mark.parametrize("value", [None, True, 1.5, [1], {"a": 1}, [[1], 2, 3, 4], ["x", 2, 3, 4]])
def test_odd_types_in_a_coco_file_are_one_line(tmp_path, key, name, value):
    content = {
        "images": [{"id": 1, "file_name": "clip/00001.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "drone"}],
    }
    content[key][0][name] = value
    path = write(tmp_path / "c.json", json.dumps(content))
    assert str(path) in complaint(path)


def test_a_table_of_boxes_says_what_it_is_read_as(tmp_path):
    def table(header):
        return write(tmp_path / f"{header}.csv", f"frame,{header}\n1,10,20,9,5\n")

    def found(header):
        problems = Problems()
        (box,) = read(table(header), problems=problems)
        return (box.top, box.left, box.height, box.width), problems.doubts

    assert found("left,top,width,height") == ((20, 10, 5, 9), [])
    assert found("left,top,w,h") == ((20, 10, 5, 9), [])
    assert found("column,row,width,height") == ((18, 6, 5, 9), [])
    for header in ("left,top,right,bottom", "xmin,ymin,xmax,ymax", "x1,y1,x2,y2", "x,y,x2,y2"):
        path = write(tmp_path / "corners.csv", f"frame,{header}\n1,10,20,19,25\n")
        (box,) = read(path)
        assert (box.top, box.left, box.height, box.width) == (20, 10, 5, 9), header
    place, (doubt,) = found("x,y,box_w,box_h")
    assert place == (18.5 + 0.5, 8.5 + 0.5, 3, 3) and "columns box_w, box_h are not read" in doubt
    for header in ("x,y,w,h", "x,y,width,height"):
        place, (doubt,) = found(header)
        assert place == (18, 6, 5, 9) and "x are taken as the centres" in doubt
    for header in ("left,row,width,height", "x,top,w,h"):
        assert "row, column (of a centre) or frame, top, left" in complaint(table(header))
    assert "expected height and width or none" in complaint(table("x,y,w,score"))


def test_a_table_of_points_needs_its_columns_and_numbers(tmp_path):
    assert "frame, row, column" in complaint(write(tmp_path / "a.csv", "a,b\n1,2\n"))
    path = write(tmp_path / "b.csv", "frame,row,column\n1,2,\n")
    assert "line 2: expected numbers" in complaint(path)
    path = write(tmp_path / "c.csv", "frame,row,column\n0,2,3\n")
    assert "Then give --first_frame 0" in complaint(path)


def test_points_go_by_the_numbers_of_the_frames(tmp_path):
    shape = shape_of(count=3, numbers=(10, 20, 30))
    path = write(tmp_path / "a.csv", "sequence,frame,row,column\nclip,20,4,5\nother,10,1,1\n")
    (box,) = read(path, shape=shape)
    assert box.frame == 1


def test_boxes_of_masks_cover_each_component():
    masks = np.zeros((2, 9, 11), np.uint8)
    masks[1, 2:4, 3:7] = 1
    masks[1, 4, 7] = 1  # touches by a corner
    masks[1, 8, 0] = 1
    found = boxes_of_masks(masks, 5)
    assert sorted((b.frame, b.top, b.left, b.height, b.width) for b in found) == [
        (6, 2, 3, 3, 5),
        (6, 8, 0, 1, 1),
    ]


def test_targets_keep_their_track_from_frame_to_frame(rng):
    boxes = random_boxes(rng, tracks=2)
    anonymous = [Box(b.frame, b.top, b.left, b.height, b.width) for b in boxes]
    apart = all(
        np.hypot(*np.subtract(a.centre, b.centre)) > 3
        for a, b in zip(boxes[::2], boxes[1::2], strict=True)
    )
    assert apart
    pairs = {(old.track, new.track) for old, new in zip(boxes, link(anonymous), strict=True)}
    assert len(pairs) == 2


@pytest.mark.parametrize(("speed", "stride"), [(0.5, 1), (0.1, 5), (0.06, 8), (0.01, 10), (3, 1)])
def test_the_stride_chosen_makes_targets_move_half_a_pixel(speed, stride, rng):
    boxes = [Box(n, 20 + rng.uniform(-0.2, 0.2), 20 + n * speed, 5, 5, 1) for n in range(400)]
    assert median_speed(boxes) == pytest.approx(speed, abs=0.03)
    assert choose_stride(boxes, 400) == stride


def test_where_no_speed_is_known_every_frame_is_kept():
    assert median_speed([Box(3, 1, 1, 2, 2)]) is None
    assert choose_stride([], 400) == 1
