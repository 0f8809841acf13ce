"""Own footage at the command line: what is written, and what is refused."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import test as test_script
from models import MODELS, build_model
from models.detector import Detector
from tests.builders import call, call_test, write_image
from utils.checkpoint import save
from utils.command_line import Terminated, run_command
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


class BrightPixels(Detector):
    """Logits that are positive where a pixel is some deviations above the mean."""

    seqlen = 8

    def __init__(self, seqlen=None):
        super().__init__(seqlen)
        self.register_buffer("deviations", torch.tensor(3.0))

    def detect(self, clip):
        return 4 * (clip - self.deviations)


@pytest.fixture
def detect(tmp_path, monkeypatch):
    """Runs test.py over footage with `BrightPixels`; gives what is in metrics.json, if anything."""
    monkeypatch.setitem(MODELS, "BrightPixels", BrightPixels)
    save(tmp_path / "bright.pth", BrightPixels().state_dict())

    def run(path, *options):
        words = f"--dataset Frames --datapath {path} --output {tmp_path / 'out'}"
        call_test(words, f"--model BrightPixels --weights {tmp_path / 'bright.pth'}", *options)
        results = tmp_path / "out" / "metrics.json"
        return json.loads(results.read_text()) if results.is_file() else None

    return run


def test_frames_alone_give_detections_score_maps_and_overlays(detect, tmp_path, frames, capsys):
    write_folder(tmp_path / "clip", frames)
    assert detect(tmp_path / "clip") is None
    printed = capsys.readouterr().out
    assert f"mean {frames.mean():.4f}, std {frames.std():.4f}" in printed
    with (tmp_path / "out/detections.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ["sequence", "frame", "row", "column", "pixels", "peak_score", "mean_score", "file"]
    assert list(rows[0]) == names
    places = [(int(r["frame"]), float(r["row"]), float(r["column"])) for r in rows]
    assert places == [(index + 1, index + 5, index + 6) for index in range(FRAMES)]
    assert len(list((tmp_path / "out/visual/clip").glob("*.png"))) == FRAMES
    with Image.open(tmp_path / "out/visual/clip.gif") as overlay:
        assert overlay.n_frames == FRAMES and min(overlay.size) >= 400
    assert not (tmp_path / "out/metrics.json").exists()


def test_frames_with_masks_are_scored(detect, tmp_path, frames):
    write_folder(tmp_path / "clip" / "images", frames)
    write_folder(tmp_path / "clip" / "masks", (frames == 250).astype(np.uint8) * 255)
    metrics = detect(tmp_path / "clip", "--mean 65 --std 10")
    counts = metrics["protocols"]["hit1_guard4"]["subsets"]["all"]
    index = metrics["thresholds"].index(0.5)
    assert counts["targets"] == FRAMES and counts["false_alarm_pixels"][index] == 0
    assert counts["detected"][index] == FRAMES
    assert (tmp_path / "out/report.html").is_file() and (tmp_path / "out/detections.csv").is_file()


@pytest.mark.parametrize("count", [1, 7])
def test_a_few_frames_of_sixteen_bits_are_enough(detect, tmp_path, frames, count):
    path = write_pages(tmp_path / "deep.tif", frames[:count].astype(np.uint16) * 100)
    detect(path)
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


def test_tracks_are_written_and_counted(detect, tmp_path, frames, capsys):
    write_folder(tmp_path / "clip" / "images", frames)
    write_folder(tmp_path / "clip" / "masks", (frames == 250).astype(np.uint8) * 255)
    metrics = detect(tmp_path / "clip", "--min_track 3 --mean 65 --std 10")
    assert metrics["tracks"]["tracks"] == 1 and "track" in capsys.readouterr().out
    rows = (tmp_path / "out/tracks/clip.txt").read_text().splitlines()
    assert [int(row.split(",")[0]) for row in rows] == list(range(1, FRAMES + 1))


def test_marks_end_where_they_may_reach_in_what_is_counted(detect, tmp_path, frames):
    for t, frame in enumerate(frames):
        frame[t + 3 : t + 8, t + 4 : t + 9] = 250
    write_folder(tmp_path / "clip" / "images", frames)
    write_folder(tmp_path / "clip" / "masks", (frames == 250).astype(np.uint8) * 255)
    for options, reach, of_tracks, area in (
        ([], None, None, 25),
        (["--mark_reach 1"], 1, 1, 5),
        (["--mark_reach 1.5 1"], 1.5, 1, 9),
        (["--mark_reach 1.5 --threshold_eval 0.6"], 1.5, 1.5, 9),
        (["--mark_reach 1.5 --threshold_eval 0.4"], 1.5, 1.5, 25),
    ):
        metrics = detect(tmp_path / "clip", "--visual --min_track 3 --min_area 10", *options)
        assert metrics["mark_reach"] == reach
        (found,) = read_detections(tmp_path / "out/detections.csv").values()
        assert [detection.pixels for detection in found] == [25] * FRAMES
        for number in range(1, FRAMES + 1):
            levels = np.asarray(Image.open(tmp_path / f"out/visual/clip/{number:05d}.png"))
            assert np.count_nonzero(levels >= 128) == 25
        assert metrics["iou"] == pytest.approx(area / 25)
        assert metrics["tracks"]["mark_reach"] == of_tracks
        box = (tmp_path / "out/tracks/clip.txt").read_text().split(",")[4:6]
        assert box == ["5", "5"]


def test_it_is_told_at_which_thresholds_marks_end(detect, tmp_path, frames, capsys):
    write_folder(tmp_path / "clip" / "images", frames)
    write_folder(tmp_path / "clip" / "masks", (frames == 250).astype(np.uint8) * 255)
    words = "marked up to 1 px from their centroids (--mark_reach), at thresholds below 0.5 as a"
    detect(tmp_path / "clip", "--mark_reach 1")
    assert f"  detections {words} whole" in capsys.readouterr().out.splitlines()
    detect(tmp_path / "clip")
    assert "--mark_reach" not in capsys.readouterr().out


def test_overlays_can_be_left_out(detect, tmp_path, frames):
    write_folder(tmp_path / "clip", frames)
    detect(tmp_path / "clip", "--no-overlay")
    assert len(list((tmp_path / "out/visual/clip").glob("*.png"))) == FRAMES
    assert not list((tmp_path / "out/visual").glob("*.gif"))


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
    write_pages(pages / "b.tif", frames[:1])
    refused(capsys, run, pages, "b.tif beside a.tif, which has several frames")
    half = write_folder(tmp_path / "half" / "images", frames).parent
    write_folder(half / "masks", frames[:4])
    refused(capsys, run, half, "9 frames but 4 masks")
    (tmp_path / "film.mp4").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    refused(capsys, run, tmp_path / "film.mp4", "no decoder", "pip install av")


def test_a_bad_frame_ends_a_test_but_what_was_finished_is_written(tmp_path, frames, capsys):
    for name in "abc":
        write_folder(tmp_path / "clips" / name / "images", frames)
        write_folder(tmp_path / "clips" / name / "masks", (frames == 250).astype(np.uint8) * 255)
    out = tmp_path / "out"
    words = f"--dataset Frames --datapath {tmp_path / 'clips'} --model TopHat --gpu cpu"
    words += f" --output {out} --min_track 3 --export centroids --visual"
    assert call(test_script, words) == 0
    rows = read_detections(out / "detections.csv")
    bad = tmp_path / "clips/b/images/00004.png"
    bad.write_bytes(bad.read_bytes()[:60])
    capsys.readouterr()
    assert call(test_script, words) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("error: ") and "b/images/00004.png" in line
    assert "1 of 3 sequences were finished; missing: b, c. No figures are written" in said.out
    assert read_detections(out / "detections.csv") == {"a": rows["a"]}
    # Nor is there anything left of the test before.
    left = {path.relative_to(out).as_posix() for path in out.rglob("*.*")} - {".written.json"}
    pictures = {name for name in left if name.startswith("visual")}
    maps = {f"visual/a/{number:05d}.png" for number in range(1, FRAMES + 1)}
    assert pictures == {"visual/a.gif", *maps}
    tables = {"detections.csv", "tracks/a.txt", "tracks/tracks.csv", "centroids/a.txt"}
    assert left - pictures == {*tables, "unfinished.txt"}
    assert "Finished: a\nMissing: b, c\n" in (out / "unfinished.txt").read_text()


@pytest.mark.parametrize(
    ("stop", "status", "why"),
    [(KeyboardInterrupt(), 130, "interrupted"), (Terminated("stopped by SIGTERM"), 143, "stopped")],
)
def test_what_is_stopped_keeps_what_it_finished(
    tmp_path, frames, capsys, monkeypatch, stop, status, why
):
    for name in "abc":
        write_folder(tmp_path / "clips" / name, frames)
    read, reads = test_script.Evaluator._take, []

    def take(evaluator, result, *given):
        reads.append(result.name)
        if result.name == "c":
            raise stop
        read(evaluator, result, *given)

    monkeypatch.setattr(test_script.Evaluator, "_take", take)
    out = tmp_path / "out"
    words = f"--dataset Frames --datapath {tmp_path / 'clips'} --model TopHat --gpu cpu"
    assert call(test_script, f"{words} --output {out} --min_track 3") == status
    assert why in capsys.readouterr().err and "c" in reads
    assert {*read_detections(out / "detections.csv")} == {"a", "b"}
    said = (out / "unfinished.txt").read_text()
    assert why in said and "Finished: a, b\nMissing: c\n" in said
    assert (out / "tracks/tracks.csv").exists()


def test_a_test_that_finished_nothing_leaves_an_earlier_ones_results(tmp_path, frames, capsys):
    write_folder(tmp_path / "clip" / "images", frames)
    write_folder(tmp_path / "clip" / "masks", (frames == 250).astype(np.uint8) * 255)
    words = f"--dataset Frames --datapath {tmp_path / 'clip'} --model TopHat --gpu cpu"
    words += f" --output {tmp_path / 'out'} --min_track 3"
    assert call(test_script, words) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    (tmp_path / "clip/images/00004.png").write_bytes(b"no image")
    assert call(test_script, words) == 2
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == before


def test_several_clips_are_told_beside_their_frames(tmp_path, frames, capsys):
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", frames[: number + 1])
    words = f"--dataset Frames --datapath {tmp_path} --model TopHat --gpu cpu --no-overlay"
    assert call(test_script, words, f"--logpath {tmp_path / 'log'}") == 0
    assert "6 frames of 3 sequences in " in capsys.readouterr().out


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
        parameter.data.fill_(1e30)  # finite, but what it makes is not
    state = {"epoch": 0, "model_state_dict": model.state_dict()}
    save(run / "checkpoints/best_model.pth", state)
    refused(capsys, run, clip, "clip: a score is NaN", extra="--engine reference")
    refused(capsys, run, clip, "NaN or infinite in float32")  # which engines would turn to scores
