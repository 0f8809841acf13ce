"""Footage with labels to a data set, masks of boxes, and labels of masks and detections."""

import json

import numpy as np
import pytest
from PIL import Image

from data.convert.__main__ import main
from data.convert.boxes import Box
from data.convert.exports import write_mot
from data.convert.targets import MASK_REACH, central_pixels, draw_targets_of, target_pixels
from data.images import read_frame, read_mask
from data.lists import find_sequences
from data.record import read_normalisation
from data.specs import get_spec
from tests.builders import write_image
from utils.protocols import PROTOCOLS

SIZE = (60, 80)


def scene(rng, frames=12, row=20.0, column=15.0, step=0.5, height=3, level=90, dtype=np.uint8):
    """Frames with a bright target of 2 x 3 pixels in a loose box: (frames, boxes)."""
    images = rng.normal(100, 2, (frames, *SIZE))
    boxes = []
    for index in range(frames):
        r, c = round(row), round(column + step * index)
        images[index, r : r + 2, c : c + height] += level
        boxes.append(Box(index, r - 4.3, c - 5.2, 10, 12.5, 1))
    return np.rint(images).clip(0, 255).astype(dtype), boxes


@pytest.fixture
def footage(tmp_path, rng):
    """A folder of three sequences of images, with MOTChallenge labels beside."""
    for number in range(3):
        frames, boxes = scene(rng, row=15 + 10 * number)
        for index, frame in enumerate(frames):
            write_image(tmp_path / "footage" / f"seq{number}" / f"shot{index:03d}.png", frame)
        write_mot(tmp_path / "labels" / f"seq{number}.txt", boxes)
    return tmp_path / "footage"


def convert(*words):
    main([str(word) for word in words])


def refusal(words, capsys):
    """The one line that main leaves on stderr, but for the bar, before it exits with status 2."""
    with pytest.raises(SystemExit) as stop:
        convert(*words)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().replace("\r", "\n").splitlines()
    assert [line for line in lines if not line.startswith("Converting")] == lines[-1:]
    assert lines[-1].startswith("error: ")
    return lines[-1]


def read_stack(folder, reader=read_frame):
    return np.stack([reader(path) for path in sorted(folder.iterdir())])


def test_a_data_set_has_layout_lists_and_its_own_normalisation(footage, tmp_path):
    output = tmp_path / "mine"
    convert(footage, "--labels", tmp_path / "labels", "--output", output, "--split", "0.3")
    spec = get_spec("Converted")
    (test,) = find_sequences(spec, spec.test, output)
    train = find_sequences(spec, spec.train, output)
    assert sorted(files.name for files in (*train, test)) == ["seq0", "seq1", "seq2"]
    pixels = []
    for files in (*train, test):
        assert [path.name for path in files.images] == [f"{n:05d}.png" for n in range(1, 13)]
        assert len(files.masks) == len(files.centroids) == 12
        frames = read_stack(output / files.name / "images")
        np.testing.assert_array_equal(frames, read_stack(footage / files.name))
        if files is not test:
            pixels.append(frames)
    expected = np.mean(pixels), np.std(pixels)
    assert read_normalisation(spec, output) == pytest.approx(expected, rel=1e-9)
    (sequence,) = spec.open(spec, output)
    assert sequence.normalisation == read_normalisation(spec, output)
    assert spec.open(spec, output, (1, 2)).sequences[0].normalisation == (1, 2)


def test_masks_are_the_targets_own_pixels_with_one_centroid_each(footage, tmp_path):
    convert(footage, "--labels", tmp_path / "labels", "--output", tmp_path / "mine")
    for number in range(3):
        masks = read_stack(tmp_path / "mine" / f"seq{number}" / "masks", read_mask)
        centroids = read_stack(tmp_path / "mine" / f"seq{number}" / "masks_centroid", read_mask)
        row = 15 + 10 * number
        for index, (mask, centroid) in enumerate(zip(masks, centroids, strict=True)):
            column = round(15 + 0.5 * index)
            expected = np.zeros(SIZE, np.uint8)
            expected[row : row + 2, column : column + 3] = 1
            np.testing.assert_array_equal(mask, expected)
            assert centroid.sum() == 1 and (centroid <= mask).all()
    with Image.open(tmp_path / "mine/seq0/masks/00001.png") as image:
        assert image.mode == "L" and np.unique(np.asarray(image)).tolist() == [0, 255]


def test_the_boxes_given_are_kept_and_given_back(footage, tmp_path):
    convert(footage, "--labels", tmp_path / "labels", "--output", tmp_path / "mine", "--stride", 3)
    convert(tmp_path / "mine", "--to", "mot", "--output", tmp_path / "back")
    given = np.loadtxt(tmp_path / "labels" / "seq1.txt", delimiter=",")
    back = np.loadtxt(tmp_path / "back" / "seq1" / "gt" / "gt.txt", delimiter=",")
    np.testing.assert_allclose(back[:, 1:6], given[::3, 1:6], atol=1e-3)
    assert back[:, 0].tolist() == [1, 2, 3, 4]
    assert "seqLength=4" in (tmp_path / "back/seq1/seqinfo.ini").read_text()


@pytest.mark.parametrize("kind", ["mot", "yolo", "coco"])
def test_masks_to_labels_to_masks(kind, footage, tmp_path):
    labels = tmp_path / "labels"
    convert(footage, "--labels", labels, "--output", tmp_path / "one", "--split", "0")
    for path in (tmp_path / "one").glob("boxes/*.txt"):
        path.unlink()  # so that the masks are all there is
    convert(tmp_path / "one", "--to", kind, "--output", tmp_path / "back")
    words = ["--labels", tmp_path / "back", "--output", tmp_path / "two", "--split", "0"]
    convert(tmp_path / "one", *words)
    for number in range(3):
        one, two = (
            read_stack(tmp_path / name / f"seq{number}" / "masks", read_mask)
            for name in ("one", "two")
        )
        np.testing.assert_array_equal(one, two)


def test_detections_become_labels(footage, tmp_path):
    table = tmp_path / "detections.csv"
    head = "sequence,frame,row,column,pixels,peak_score,mean_score\n"
    table.write_text(f"{head}seq0,1,10.5,20.25,9,0.9,0.7\nseq2,2,5,6,4,0.8,0.7\n")
    convert(table, "--to", "mot", "--output", tmp_path / "mot")
    line = (tmp_path / "mot/seq0/gt/gt.txt").read_text()
    assert line == "1,1,20.250,10.500,3.000,3.000,0.9,1,1\n"
    for path in footage.rglob("*.png"):  # numbered from 0 till now, detections from 1
        path.rename(path.with_name(f"{int(path.stem[4:]) + 101}.png"))
    for path in footage.rglob("*.png"):
        path.rename(path.with_name(f"{int(path.stem) - 100}.png"))
    convert(table, "--to", "yolo", "--output", tmp_path / "yolo", "--frames", footage)
    assert (tmp_path / "yolo/seq2/2.txt").read_text() == "0 0.081250 0.091667 0.025000 0.033333\n"
    assert len(list((tmp_path / "yolo").glob("seq*/*.txt"))) == 36


def test_sizes_that_are_not_known_are_asked_for(tmp_path, capsys):
    (tmp_path / "d.csv").write_text("sequence,frame,row,column\na,1,2,3\n")
    line = refusal([tmp_path / "d.csv", "--to", "coco", "--output", tmp_path / "o"], capsys)
    assert "give --frames PATH" in line


def test_given_masks_are_kept_and_their_targets_found(tmp_path, rng):
    frames, _ = scene(rng, frames=6)
    masks = np.zeros_like(frames)
    masks[:, 10:13, 20:23] = 7
    masks[2, 40, 50] = 1
    for index, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        write_image(tmp_path / "clip" / f"{index}.png", frame)
        write_image(tmp_path / "labels" / f"{index}.png", mask)
    words = ["--labels", tmp_path / "labels", "--output", tmp_path / "out", "--split", "0"]
    convert(tmp_path / "clip", *words)
    np.testing.assert_array_equal(read_stack(tmp_path / "out/clip/masks", read_mask), masks > 0)
    centroids = read_stack(tmp_path / "out/clip/masks_centroid", read_mask)
    assert np.argwhere(centroids[2]).tolist() == [[11, 21], [40, 50]]
    assert (
        json.loads((tmp_path / "out/dataset.json").read_text())["sequences"]["clip"]["targets"] == 7
    )


def test_a_single_sequence_is_split_in_time(tmp_path, rng):
    frames, boxes = scene(rng, frames=20)
    np.save(tmp_path / "clip.npy", frames)
    write_mot(tmp_path / "clip.txt", boxes)
    labels = ["--labels", tmp_path / "clip.txt"]
    convert(tmp_path / "clip.npy", *labels, "--output", tmp_path / "out", "--stride", 2)
    first = read_stack(tmp_path / "out/clip_train/images")
    last = read_stack(tmp_path / "out/clip_test/images")
    np.testing.assert_array_equal(np.concatenate([first, last]), frames[::2])
    assert (len(first), len(last)) == (8, 2)
    assert (tmp_path / "out/test.txt").read_text().splitlines()[0] == "clip_test/images/00001.png"


def test_the_test_list_may_be_given_by_name(footage, tmp_path):
    (tmp_path / "val.txt").write_text("seq2\nseq0/images/00001.png\n")
    words = ["--labels", tmp_path / "labels", "--split", tmp_path / "val.txt"]
    convert(footage, *words, "--output", tmp_path / "out")
    names = {line.split("/")[0] for line in (tmp_path / "out/test.txt").read_text().split()}
    assert names == {"seq0", "seq2"}


def test_deep_frames_keep_their_depth(tmp_path, rng):
    frames, boxes = scene(rng)
    for dtype, suffix in ((np.uint16, ".png"), (np.float32, ".tif")):
        name = np.dtype(dtype).name
        np.save(tmp_path / "clip.npy", frames.astype(dtype) * 100)
        write_mot(tmp_path / "clip.txt", boxes)
        labels = ["--labels", tmp_path / "clip.txt", "--split", "0"]
        convert(tmp_path / "clip.npy", *labels, "--output", tmp_path / name)
        written = read_frame(tmp_path / name / "clip" / "images" / f"00001{suffix}")
        assert written.dtype == dtype
        np.testing.assert_array_equal(written, frames[0].astype(dtype) * 100)


def test_an_ellipse_stands_where_the_image_tells_nothing(rng):
    frame = rng.normal(100, 3, SIZE).astype(np.uint8)
    target = target_pixels(frame, Box(0, 20, 30, 5, 7))
    assert not target.refined and target.centroid == (22, 33)
    inside = {
        (r, c)
        for r in range(20, 25)
        for c in range(30, 37)
        if ((r - 22) / 2.5) ** 2 + ((c - 33) / 3.5) ** 2 <= 1
    }
    assert set(zip(target.rows.tolist(), target.columns.tolist(), strict=True)) == inside


@pytest.mark.parametrize("refine", [True, False])
def test_no_mask_reaches_over_the_guard_of_a_protocol_or_out_of_its_box(refine, rng):
    guard = min(protocol.guard for protocol in PROTOCOLS.values() if hasattr(protocol, "guard"))
    assert guard >= MASK_REACH
    for _ in range(200):
        frame = rng.normal(100, rng.choice([1, 10]), SIZE)
        row, column = rng.uniform(-3, 60), rng.uniform(-3, 80)
        box = Box(0, max(row, 0), max(column, 0), *rng.uniform(0.2, 20, 2))
        height, width = min(box.height, 60 - box.top), min(box.width, 80 - box.left)
        if min(height, width) <= 0:
            continue
        box = Box(0, box.top, box.left, height, width)
        r, c = (int(v) for v in rng.integers(0, SIZE))
        frame[r : r + 12, c : c + 12] += rng.choice([-60, 60])
        target = target_pixels(frame.clip(0, 255).astype(np.uint8), box, refine)
        places = np.stack([target.rows, target.columns], axis=1)
        assert len(places) >= 1 and target.centroid in set(map(tuple, places.tolist()))
        assert np.abs(places - target.centroid).max() <= MASK_REACH
        edges = np.array([box.top, box.left]), np.array([box.top + height, box.left + width])
        assert (places + 1 > edges[0] - 0.5).all() and (places < edges[1] + 0.5).all()


def test_dark_targets_and_targets_on_a_slope_are_found(rng):
    slope = 60 + 1.5 * np.arange(SIZE[1]) + rng.normal(0, 1, SIZE)
    for sign in (1, -1):
        frame = slope.copy()
        frame[30:32, 40:43] += sign * 25
        target = target_pixels(frame.astype(np.uint8), Box(0, 25, 35, 12, 13))
        assert target.refined
        places = set(zip(target.rows.tolist(), target.columns.tolist(), strict=True))
        assert places == {(r, c) for r in (30, 31) for c in (40, 41, 42)}


def test_a_large_target_is_cut_around_its_centroid():
    frame = np.full(SIZE, 50, np.uint8)
    frame[20:40, 20:50] = 200
    target = target_pixels(frame, Box(0, 18, 18, 24, 34))
    assert target.refined and len(target.rows) == 81
    assert np.abs(np.subtract(target.centroid, (29.5, 34.5))).max() <= 0.5


def test_every_box_has_a_centroid_of_its_own(rng):
    frame = rng.normal(100, 2, SIZE).astype(np.uint8)
    boxes = [Box(0, 10, 10, 4, 4), Box(0, 10, 16, 4, 4), Box(0, 50, 70, 1, 1)]
    mask, centroids, _, refined, _ = draw_targets_of(frame, boxes)
    assert centroids.sum() == 3 and (centroids <= mask).all() and refined == 0


def test_the_most_central_pixel_is_one_of_the_component():
    mask = np.zeros((7, 9), np.uint8)
    mask[1, 1:8] = mask[1:6, 1] = 1
    (row, column) = np.argwhere(central_pixels(mask))[0]
    assert mask[row, column] and central_pixels(mask).sum() == 1


def test_wrong_arguments_are_one_line(footage, tmp_path, capsys):
    labels, output = ["--labels", tmp_path / "labels"], ["--output", tmp_path / "out"]
    assert "no masks beside its frames; give --labels" in refusal([footage, *output], capsys)
    assert "no such file" in refusal([tmp_path / "x", *labels, *output], capsys)
    assert "no such file" in refusal([footage, "--labels", tmp_path / "x", *output], capsys)
    assert "expected a share" in refusal([footage, *labels, *output, "--split", "2"], capsys)
    assert "expected a share" in refusal([footage, *labels, *output, "--split", "x"], capsys)
    assert "expected auto" in refusal([footage, *labels, *output, "--stride", "0"], capsys)
    assert "invalid choice" in refusal([footage, *output, "--to", "voc"], capsys)
    (tmp_path / "names.txt").write_text("seq9\n")
    words = [footage, *labels, *output, "--split", tmp_path / "names.txt"]
    assert "no sequence seq9; there are seq0" in refusal(words, capsys)
    words = [footage, *labels, *output, "--classes", "bird"]
    assert "no target of bird in any frame" in refusal(words, capsys)
    assert "remove it" in refusal([footage, *labels, "--output", footage], capsys)
    (tmp_path / "labels" / "seq1.txt").write_text("99,1,5,5,5,5\n")
    assert "frame 99, but seq1 has 12 frames" in refusal([footage, *labels, *output], capsys)
    assert {path.name for path in tmp_path.iterdir()} == {"footage", "labels", "names.txt"}


def test_labels_left_out_are_counted(footage, tmp_path, capsys):
    with (tmp_path / "labels" / "seq1.txt").open("a") as file:
        file.write("3,1,5,5,0,5\n99,1,5,5,5,5\n")
    words = [footage, "--labels", tmp_path / "labels", "--output", tmp_path / "out", "--skip_bad"]
    convert(*words)
    captured = capsys.readouterr()
    assert "warning: 2 labels left out; " in captured.err
    assert "36 targets; of 36 the image told the pixels" in captured.out


def test_a_record_that_is_missing_or_damaged_is_named(tmp_path):
    spec = get_spec("Converted")
    with pytest.raises(FileNotFoundError, match="python -m data.convert"):
        read_normalisation(spec, tmp_path)
    for text in ("{}", "x", '{"mean": 3, "std": 0}', '{"mean": NaN, "std": 1}'):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(ValueError, match="dataset.json"):
            read_normalisation(spec, tmp_path)


def test_real_clips_convert_and_come_back(shared, tmp_path):
    pytest.importorskip("av")
    videos = shared / "real_video"
    words = ["--labels", videos / "IR_DRONE_050.txt", "--stride", "auto", "--split", "0"]
    convert(videos / "IR_DRONE_050.mp4", *words, "--output", tmp_path / "mine")
    record = json.loads((tmp_path / "mine/dataset.json").read_text())["sequences"]["IR_DRONE_050"]
    assert 0.25 < record["speed"] < 1 and record["refined"] == record["targets"]
    given = np.loadtxt(videos / "IR_DRONE_050.txt", delimiter=",")[:: record["stride"]]
    for kind in ("mot", "yolo", "coco"):
        convert(tmp_path / "mine", "--to", kind, "--output", tmp_path / kind)
        words = [
            "--labels",
            tmp_path / kind,
            "--output",
            tmp_path / f"{kind}_again",
            "--split",
            "0",
        ]
        convert(tmp_path / "mine", *words)
        back = np.loadtxt(tmp_path / f"{kind}_again/boxes/IR_DRONE_050.txt", delimiter=",")
        np.testing.assert_allclose(back[:, 2:6], given[:, 2:6], atol=0.01)
