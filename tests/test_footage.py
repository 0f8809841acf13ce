"""Own footage: every form it may come in, and what is said about footage that cannot be read."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import test as test_script
from data.footage import Footage, find_footage
from data.frames import find_sequence, find_sequences
from data.sequences import LabelledSequences
from data.specs import get_spec
from models import build_model
from models.fused import fuse
from tests.builders import write_image
from utils.checkpoint import save
from utils.command_line import run_command
from utils.report.detections import read_detections

FRAMES = 9


@pytest.fixture
def frames(rng):
    """A dim scene with one bright pixel that moves along the diagonal, (9, 19, 21) uint8."""
    frames = rng.integers(60, 70, (FRAMES, 19, 21), dtype=np.uint8)
    frames[np.arange(FRAMES), np.arange(FRAMES) + 5, np.arange(FRAMES) + 6] = 250
    return frames


def write_folder(folder, frames, pattern="{:05d}.png"):
    for number, frame in enumerate(frames, start=1):
        write_image(folder / pattern.format(number), frame)
    return folder


def write_pages(path, frames):
    pages = [Image.fromarray(frame) for frame in frames]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


def read(path, seqlen=8, normalisation=None):
    footage = Footage(find_footage(path), seqlen, normalisation)
    return footage, list(footage)


def write_forms(root, frames):
    """Every form of the same frames: {name: path}."""
    np.save(root / "array.npy", frames)
    np.savez(root / "array.npz", frames=frames)
    np.savez(root / "only.npz", whatever=frames)
    np.save(root / "colour.npy", np.stack([frames, frames // 2, frames // 3], axis=-1))
    rgb = np.stack([frames, frames // 2, frames // 3], axis=-1)
    write_folder(root / "nested" / "images", frames)
    return {
        "folder": write_folder(root / "folder", frames),
        "unpadded numbers": write_folder(root / "unpadded", frames, "frame{}.bmp"),
        "colour folder": write_folder(root / "rgb", rgb),
        "folder with images/": root / "nested",
        "images/ itself": root / "nested" / "images",
        "tiff": write_pages(root / "pages.tif", frames),
        "gif": write_pages(root / "film.gif", frames),
        "npy": root / "array.npy",
        "npz": root / "array.npz",
        "npz of one array": root / "only.npz",
        "colour npy": root / "colour.npy",
    }


def test_every_form_gives_the_same_frames(tmp_path, frames):
    for form, path in write_forms(tmp_path, frames).items():
        _, (sequence,) = read(path)
        np.testing.assert_array_equal(sequence.frames, frames, form)
        assert sequence.masks is None and sequence.centroids is None, form


def test_more_than_nine_unpadded_frames_come_in_the_order_of_their_numbers(tmp_path):
    frames = np.arange(12, dtype=np.uint8)[:, None, None] * np.ones((1, 3, 4), np.uint8)
    _, (sequence,) = read(write_folder(tmp_path / "s", frames, "{}.png"))
    np.testing.assert_array_equal(sequence.frames, frames)


@pytest.mark.parametrize("form", ["folder", "tiff", "npy"])
def test_sixteen_bits_are_kept(tmp_path, frames, form):
    deep = frames.astype(np.uint16) * 257
    path = tmp_path / "deep.npy"
    if form == "folder":
        path = write_folder(tmp_path / "deep", deep)
    elif form == "tiff":
        path = write_pages(tmp_path / "deep.tif", deep)
    else:
        np.save(path, deep)
    footage, (sequence,) = read(path)
    assert sequence.frames.dtype == np.uint16
    np.testing.assert_array_equal(sequence.frames, deep)
    mean, std = footage.normalisation(sequence)
    np.testing.assert_allclose([mean, std], [deep.mean(), deep.std()], rtol=1e-9)


def test_a_folder_of_sequences_gives_each_by_name_with_masks_where_there_are(tmp_path, frames):
    write_folder(tmp_path / "b" / "images", frames)
    write_folder(tmp_path / "b" / "masks", (frames == 250).astype(np.uint8))
    write_folder(tmp_path / "a", frames[:3])
    np.save(tmp_path / "c.npy", frames[:1])
    (tmp_path / "notes.txt").touch()
    _, sequences = read(tmp_path)
    assert [sequence.name for sequence in sequences] == ["a", "b", "c"]
    assert [sequence.masks is None for sequence in sequences] == [True, False, True]
    np.testing.assert_array_equal(sequences[1].centroids, frames == 250)


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_any_number_of_frames_makes_windows(frames, tmp_path, count):
    np.save(tmp_path / "x.npy", frames[:count])
    footage, (sequence,) = read(tmp_path / "x.npy")
    clips = list(footage.clips(sequence))
    assert all(clip.shape == (1, 8, 19, 21) for _, clip in clips)
    assert all(torch.isfinite(clip).all() for _, clip in clips)
    assert (clips[0][1][0, count:] == 0).all()


def test_a_constant_frame_is_not_divided_by_zero(tmp_path):
    np.save(tmp_path / "flat.npy", np.full((1, 4, 5), 7, np.uint8))
    footage, (sequence,) = read(tmp_path / "flat.npy")
    assert footage.normalisation(sequence) == (7, 1)


def test_video_frames_come_as_grey_levels(tmp_path, frames):
    av = pytest.importorskip("av", reason="no decoder for videos; pip install av")
    path = tmp_path / "film.avi"
    large = frames.repeat(4, axis=1).repeat(4, axis=2)[:, :64, :64]
    with av.open(str(path), "w") as video:
        stream = video.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "gray"
        for frame in large:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        video.mux(stream.encode())
    _, (sequence,) = read(path)
    np.testing.assert_array_equal(sequence.frames, large)


def detect_bright(clip):
    """A detector: logits that are positive where a pixel is 3 deviations above the mean."""
    return 4 * (clip.squeeze(1) - 3)


def detect(path, output, **options):
    """Runs the test of a data set over footage with `detect_bright`."""
    output.mkdir(exist_ok=True)
    return test_script.evaluate_run(
        "bright pixels",
        detect_bright,
        get_spec("Frames"),
        path,
        output,
        run_name="none",
        seqlen=8,
        batch_size=1,
        device=torch.device("cpu"),
        threshold=0.5,
        **options,
    )


def test_frames_alone_give_detections_score_maps_and_overlays(tmp_path, frames, capsys):
    write_folder(tmp_path / "clip", frames)
    assert detect(tmp_path / "clip", tmp_path / "out") is None
    printed = capsys.readouterr().out
    assert f"mean {frames.mean():.4f}, std {frames.std():.4f}" in printed
    with (tmp_path / "out/detections.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ["sequence", "frame", "row", "column", "pixels", "peak_score", "mean_score"]
    assert list(rows[0]) == names
    places = [(int(r["frame"]), float(r["row"]), float(r["column"])) for r in rows]
    assert places == [(index + 1, index + 5, index + 6) for index in range(FRAMES)]
    assert len(list((tmp_path / "out/visual/clip").glob("*.png"))) == FRAMES
    with Image.open(tmp_path / "out/visual/clip.gif") as overlay:
        assert overlay.n_frames == FRAMES and min(overlay.size) >= 400
    assert not (tmp_path / "out/metrics.json").exists()


def test_frames_with_masks_are_scored(tmp_path, frames):
    write_folder(tmp_path / "clip" / "images", frames)
    write_folder(tmp_path / "clip" / "masks", (frames == 250).astype(np.uint8) * 255)
    metrics = detect(tmp_path / "clip", tmp_path / "out", normalisation=(65.0, 10.0))
    counts = metrics["protocols"]["hit1_guard4"]["subsets"]["all"]
    index = metrics["thresholds"].index(0.5)
    assert counts["targets"] == FRAMES and counts["false_alarm_pixels"][index] == 0
    assert counts["detected"][index] == FRAMES
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics
    assert (tmp_path / "out/report.html").is_file() and (tmp_path / "out/detections.csv").is_file()


@pytest.mark.parametrize("count", [1, 7])
def test_a_few_frames_of_sixteen_bits_are_enough(tmp_path, frames, count):
    path = write_pages(tmp_path / "deep.tif", frames[:count].astype(np.uint16) * 100)
    detect(path, tmp_path / "out")
    (found,) = read_detections(tmp_path / "out/detections.csv").values()
    assert [detection.frame for detection in found] == list(range(1, count + 1))


@pytest.fixture
def run(tmp_path):
    """A run of an untrained network for clips of 8 frames."""
    folder = tmp_path / "log/sem_seg/x__SoftLoUloss_DeepPro_DataL8"
    (folder / "checkpoints").mkdir(parents=True)
    state = {"epoch": 0, "model_state_dict": build_model("DeepPro", 8).state_dict()}
    save(folder / "checkpoints/best_model.pth", state)
    return folder


def refused(capsys, run, path, *words, extra=""):
    """test.py on footage at `path` ends with status 2 and one line that has these words."""
    words_given = f"--log_dir {run} --dataset Frames --seqlen 8 --gpu cpu {extra}".split()
    words_given += ["--datapath", str(path)]
    if "--output" not in words_given:
        words_given += ["--output", str(run / "out")]
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: test_script.main(test_script.parse_args(words_given)))
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and error.startswith("error: ")
    for word in words:
        assert word in error


def test_a_run_over_footage_at_the_command_line(run, tmp_path, frames, capsys):
    write_folder(tmp_path / "clip", frames)
    words = f"--log_dir {run} --dataset Frames --seqlen 8 --gpu cpu --output {tmp_path / 'out'}"
    words += f" --datapath {tmp_path / 'clip'} --normalise-as NUDT-MIRSDT --attribution"
    test_script.main(test_script.parse_args(words.split()))
    assert "mean 105.4025, std 26.6452" in capsys.readouterr().out
    assert (tmp_path / "out/detections.csv").is_file()


def test_bad_footage_is_refused_in_one_line(run, tmp_path, frames, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    refused(capsys, run, tmp_path / "empty", "empty", "no readable frame", "multi-page TIFF")
    refused(capsys, run, tmp_path / "absent", "absent", "no such file")
    sizes = write_folder(tmp_path / "sizes", frames[:3])
    write_image(sizes / "00004.png", frames[0, :5])
    refused(capsys, run, sizes, "00004.png: 5x21 pixels", "19x21")
    gif = write_pages(tmp_path / "film.gif", frames)
    gif.write_bytes(gif.read_bytes()[:400])
    refused(capsys, run, gif, "film.gif", "cannot be read")
    (tmp_path / "no.gif").write_bytes(b"not a picture")
    refused(capsys, run, tmp_path / "no.gif", "no.gif", "cannot be read after 0 frames")
    np.save(tmp_path / "nan.npy", np.full((3, 4, 5), np.nan, np.float32))
    refused(capsys, run, tmp_path / "nan.npy", "nan: a grey level is NaN")
    np.save(tmp_path / "line.npy", np.zeros(5))
    refused(capsys, run, tmp_path / "line.npy", "shape (5,)", "(frames, height, width)")
    pages = tmp_path / "pages"
    pages.mkdir()
    write_pages(pages / "a.tif", frames)
    refused(capsys, run, pages, "a.tif", "9 frames in one file")
    half = write_folder(tmp_path / "half" / "images", frames).parent
    write_folder(half / "masks", frames[:4])
    refused(capsys, run, half, "4 masks, but 9 frames")
    (tmp_path / "film.mp4").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    refused(capsys, run, tmp_path / "film.mp4", "no decoder", "pip install av")


def test_bad_options_are_refused_before_the_network_runs(run, tmp_path, frames, capsys):
    clip = write_folder(tmp_path / "clip", frames)
    refused(capsys, run, clip, "--mean without --std", extra="--mean 100")
    refused(capsys, run, clip, "--std without --mean", extra="--std 100")
    refused(capsys, run, clip, "std above 0", extra="--mean 1 --std 0")
    refused(capsys, run, clip, "no mean and std", extra="--normalise-as Frames")
    refused(capsys, run, clip, "one or the other", extra="--mean 1 --std 2 --normalise-as RGB-T")
    (tmp_path / "file").touch()
    refused(capsys, run, clip, "cannot be made", extra=f"--output {tmp_path / 'file' / 'x'}")


def test_scores_that_are_not_numbers_are_refused(run, tmp_path, frames, capsys):
    clip = write_folder(tmp_path / "clip", frames)
    model = build_model("DeepPro", 8)
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    state = {"epoch": 0, "model_state_dict": model.state_dict()}
    save(run / "checkpoints/best_model.pth", state)
    refused(capsys, run, clip, "clip: a score is NaN")


def test_own_footage_cannot_be_trained_on(tmp_path):
    with pytest.raises(ValueError, match="no training and test lists"):
        find_sequences(get_spec("Frames"), get_spec("Frames").train, tmp_path)


def test_released_weights_find_the_drone_in_most_frames_of_its_images(shared, released, tmp_path):
    """The first 40 frames of real footage, nothing but the images."""
    source = shared / "real/IR_DRONE_141"
    if not source.is_dir():
        pytest.skip(f"no real footage in {source}")
    model = build_model("DeepPro", 40)
    run = "NUDT-MIRSDT__2024-12-28_16-21__SoftLoUloss_DeepPro_DataL40"
    model.load_state_dict(released(run)["model_state_dict"])
    clip = tmp_path / "clip"
    clip.mkdir()
    for path in sorted((source / "images").iterdir())[:40]:
        (clip / path.name).symlink_to(path)
    footage, (sequence,) = read(clip, seqlen=40)
    ((_, window),) = footage.clips(sequence)
    with torch.inference_mode():
        scores = torch.sigmoid(fuse(model.eval())(window[None]))[0].numpy()
    spec = get_spec("NUDT-MIRSDT")
    files = find_sequence(spec, spec.test, shared / "real", "IR_DRONE_141")
    masks = LabelledSequences([files], 0, 1, 40).read(files).masks[:40]
    labelled = masks.any(axis=(1, 2))
    found = (scores * masks).max(axis=(1, 2)) >= 0.5
    assert found[labelled].mean() > 0.9
