"""test.py as a user calls it, on small data."""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import test as test_script
import train as train_script
from data.specs import DATASETS
from data.synthetic.plans import Preset
from data.synthetic.writing import write_synthetic
from tests.builders import (
    call,
    call_test,
    random_sequence,
    write_image,
    write_list,
    write_nudt_sequence,
)
from tests.conftest import REPOSITORY
from tests.processes import run_alone
from tests.training.runs import evaluate, refused
from utils.command_line import run_command
from utils.run_dir import INCLUDED


def test_testing_a_run_gives_the_numbers_of_its_training_again(run, dataset, tmp_path):
    assert evaluate(run, dataset, tmp_path / "again") == 0
    first, again = (
        json.loads((folder / "metrics.json").read_text()) for folder in (run, tmp_path / "again")
    )
    del first["timing"], again["timing"]
    assert first == again


def test_numbered_checkpoints_are_tested_by_epoch(run, dataset, tmp_path):
    assert evaluate(run, dataset, tmp_path, "--epoch 5") == 0
    assert (tmp_path / "eval_epoch-5.txt").is_file()
    args = f"--log_dir {run.name} --logpath {run.parent.parent} --epoch 5".split()
    (tested,) = test_script.open_tested(test_script.parse_args(args))
    saved = torch.load(run / "checkpoints/epoch_5_model.pth")["model_state_dict"]
    weights = tested.detector.state_dict()
    assert all(torch.equal(tensor, saved[key]) for key, tensor in weights.items())


def test_eval_txt_and_iou_follow_protocol_and_threshold(run, dataset, tmp_path):
    for protocol in ("hit1_guard4", "hit2_guard5"):
        extra = f"--protocol {protocol} --threshold_eval 0.01"
        assert evaluate(run, dataset, tmp_path, extra) == 0
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        alarms = metrics["protocols"][protocol]["subsets"]["all"]["false_alarm_pixels"][0]
        assert f"FA:[{alarms}, " in (tmp_path / "eval.txt").read_text()
        assert set(metrics["protocols"][protocol]["subsets"]) == {"all", "low_snr", "high_snr"}
    first = json.loads((run / "metrics.json").read_text())
    assert metrics["threshold_eval"] == 0.01 and metrics["iou"] != first["iou"]


def test_all_engines_give_the_same_counts(run, dataset, tmp_path):
    counts = []
    for engine in ("reference", "fast", *(["openvino"] if find_spec("openvino") else [])):
        assert evaluate(run, dataset, tmp_path, f"--engine {engine}") == 0
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        subset = metrics["protocols"]["hit1_guard4"]["subsets"]["all"]
        counts.append([subset["detected"][4:-1], subset["false_alarm_pixels"][4:-1]])
    expected, *others = np.array(counts)
    for found in others:
        assert np.abs(found - expected).max() <= 1


@pytest.mark.usefixtures("drawn")
def test_without_a_run_the_included_one_is_tested(tmp_path):
    data, logs = tmp_path / "data", tmp_path / "log"
    preset = Preset(1, 0, 3, 1, frames=45, heights=(64, 70), widths=(64, 70))
    write_synthetic(data, preset, progress=False)
    given = f"--dataset Synthetic --datapath {data} --logpath {logs} --gpu cpu"
    assert call(test_script, given) == 0
    written = {path.name for path in (logs / "tests/Synthetic").iterdir()}
    assert written >= {"eval.txt", "metrics.json", "report.html"}
    metrics = json.loads((logs / "tests/Synthetic/metrics.json").read_text())
    assert metrics["run"] == INCLUDED["Synthetic"].name


def test_own_footage_needs_no_run(tmp_path, capsys):
    frames = np.random.default_rng(1).integers(90, 110, (41, 40, 48), dtype=np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    given = f"--dataset Frames --datapath {tmp_path / 'frames.npy'} --logpath {tmp_path} --gpu cpu"
    assert call(test_script, given) == 0
    assert (tmp_path / "tests/Frames/detections.csv").is_file()
    said = capsys.readouterr().out
    run, learned, *_ = INCLUDED["Frames"]
    words = f"No --log_dir: {run}, which comes with this code, trained on {learned}"
    laid = "; frames are laid on each other first (--no-stabilise: they are not)"
    marks = "; marks of detections reach 3 px from their centroids (--mark_reach)"
    assert said.splitlines()[0] == words + laid + marks and "stabilised: frames moved by" in said
    assert call(test_script, given, "--no-stabilise") == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == words + marks and "stabilised" not in said
    named = f"--dataset Frames --datapath {tmp_path / 'frames.npy'} --gpu cpu --log_dir {run}"
    assert call(test_script, named, f"--output {tmp_path / 'named'}") == 0  # as without its name
    said = capsys.readouterr().out
    told = said.splitlines()[0]
    assert told == words.split(": ", 1)[1] + laid + marks and "stabilised: fram" in said
    for folder in ("named", "tests/Frames"):
        assert (tmp_path / folder / "detections.csv").is_file()
    for more, least, area, reach in (
        ("", 0.9975, 3, (3, 1.75)),
        (" --min_score 0 --min_area 1 --mark_reach 9", 0, 1, (9, 9)),
        (" --min_area 2 --mark_reach 9 0.5", 0.9975, 2, (9, 0.5)),
    ):
        assert call(test_script, given, f"--no-stabilise --min_track 3{more}") == 0
        said = capsys.readouterr().out
        marked = f"reach {reach[0]} px from their centroids, of tracks {reach[1]} px (--mark_reach)"
        assert said.count(marked) == 1
        assert f", marked up to {reach[1]} px from their centroids" in said
        assert ("(--min_score)" in said) == (least > 0)
        assert (f"tracks of 3 frames or more, their highest score {least} or more" in said) == (
            least > 0
        )
        assert (f"detections have {area} pixels or more (--min_area)" in said) == (area > 1)
        assert f"of detections of {area} pixels or more at threshold 0.5" in said


def test_visual_writes_a_score_map_for_each_frame(run, dataset, tmp_path):
    assert evaluate(run, dataset, tmp_path, "--visual --engine reference") == 0
    maps = sorted(path.name for path in (tmp_path / "visual/Sequence47").glob("*.png"))
    assert maps == [f"{number:05d}.png" for number in range(1, 21)]


def test_both_noise_runs_evaluate_on_a_hino_style_layout(shared, tmp_path, rng):
    images, masks = random_sequence(rng, 12, 16, 18)
    write_nudt_sequence(tmp_path / "NUDT-MIRSDT", "Sequence47", images, masks)
    noisy = tmp_path / "NUDT-MIRSDT-HiNo"
    for number, image in enumerate(images, start=1):
        write_image(noisy / "Sequence47/images" / f"{number:05d}.png", image)
    write_list(noisy / "test.txt", ["Sequence47"])
    runs = sorted((shared / "released/sem_seg").glob("NUDT-MIRSDT-Noise*"))
    assert len(runs) == 2
    for run in runs:
        output = tmp_path / run.name[-18:]
        status = call(
            test_script,
            f"--log_dir {run.name} --logpath {shared}/released/ --dataset NUDT-MIRSDT-HiNo",
            f"--datapath {noisy} --output {output} --gpu cpu",
        )
        metrics = json.loads((output / "metrics.json").read_text())
        counts = metrics["protocols"]["hit1_guard4"]["subsets"]
        assert status == 0 and set(counts) == {"all", "low_snr"}
        assert counts["all"]["targets"] == 12 and counts["low_snr"]["targets"] == 12


# --- bad input: one line on stderr, exit status 2 ---------------------------------------------


@pytest.mark.parametrize("script", [train_script, test_script])
def test_a_missing_data_path_says_where_the_data_come_from(script, run, tmp_path, capsys):
    arguments = f"--datapath {tmp_path / 'absent'} --seqlen 8"
    if script is test_script:
        arguments += f" --log_dir {run.name} --logpath {run.parent.parent}"
    else:
        arguments += f" --savepath {tmp_path}"
    refused(capsys, call(script, arguments), "absent", "comes from", "--dataset Synthetic")


def test_a_truncated_png_is_named(run, dataset, tmp_path, rng, capsys):
    root = tmp_path / "NUDT-MIRSDT"
    write_nudt_sequence(root, "Sequence47", *random_sequence(rng, 9, 8, 10))
    write_list(root / "test.txt", ["Sequence47"])
    path = root / "Sequence47/images/00004.png"
    path.write_bytes(path.read_bytes()[:70])
    refused(capsys, evaluate(run, root, tmp_path / "out"), "00004.png", "cannot be read")


def test_a_checkpoint_of_another_model_or_clip_length_is_refused(run, dataset, tmp_path, capsys):
    status = evaluate(run, dataset, tmp_path, "--seqlen 9")
    refused(capsys, status, "clips of 8 frames", "--seqlen 8")
    state = torch.load(run / "checkpoints/best_model.pth")
    state["args"] = {"model": "DeepPro-Plus"}
    other = tmp_path / "sem_seg" / "other"
    (other / "checkpoints").mkdir(parents=True)
    torch.save(state, other / "checkpoints/best_model.pth")
    status = evaluate(other, dataset, tmp_path)
    refused(capsys, status, "weights of another network", "DeepPro-Plus")


def test_a_file_that_is_no_checkpoint_is_refused(dataset, tmp_path, capsys):
    folder = tmp_path / "sem_seg/x__SoftLoUloss_DeepPro_DataL8/checkpoints"
    folder.mkdir(parents=True)
    (folder / "best_model.pth").write_bytes(b"not a checkpoint")
    refused(capsys, evaluate(folder.parent, dataset, tmp_path), "best_model.pth")


def test_a_missing_run_is_refused(dataset, tmp_path, capsys):
    refused(capsys, evaluate(tmp_path / "sem_seg/absent", dataset, tmp_path), "no such run")


def test_a_run_must_be_named_where_none_is_included(dataset, tmp_path, capsys):
    status = call(test_script, f"--datapath {dataset} --output {tmp_path}")
    refused(capsys, status, "--log_dir is missing", "--dataset Synthetic")


@pytest.mark.parametrize(
    "words, message",
    [
        ("--weights w.pth --model DeepPro --epoch 3", "--epoch without a run"),
        ("--model TopHat --epoch 3", "--epoch without a run"),
        ("--log_dir a b --export_model x.pt2", "--export_model with several runs"),
        ("--model TopHat --min_score 0.9", "--min_score without tracks"),
        ("--model TopHat --mark_reach 3 2", "--mark_reach with a second number without tracks"),
        ("--model TopHat --mark_reach 3 2 1", "--mark_reach with more than two numbers"),
        ("--model TopHat --min_area 3", "--min_area without tracks"),
        ("--model TopHat --gpu foo", "--gpu foo: expected cpu or the index"),
        ("--model TopHat --gpu -1", "--gpu -1: expected cpu or the index"),
    ],
)
def test_options_that_would_be_ignored_or_say_nothing_are_refused(words, message, capsys):
    assert call(test_script, words) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_filter_that_cannot_be_exported_is_told_in_one_line(tmp_path, capfd):
    words = f"--model TemporalZScore --export_model {tmp_path / 'm.pt2'}"
    assert call(test_script, words) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.startswith("error: TemporalZScore cannot be exported")
    assert said.err.count("\n") == 1


def test_an_output_that_nobody_reads_any_more_costs_no_result(dataset, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    command = f"test.py --datapath {dataset} --model TopHat --gpu cpu --output {tmp_path}".split()
    options = {"cwd": REPOSITORY, "stdout": writing, "stderr": subprocess.PIPE, "text": True}
    ended = subprocess.run([sys.executable, *command], **options)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")
    assert (tmp_path / "metrics.json").is_file() and (tmp_path / "report.html").is_file()


def test_an_output_that_cannot_be_written_is_refused(run, dataset, tmp_path, capsys):
    (tmp_path / "file").touch()
    refused(capsys, evaluate(run, dataset, tmp_path / "file"), "cannot be made")


def test_from_the_shell_an_error_of_one_process_or_of_all_is_one_line_and_status_2(tmp_path):
    # This command starts itself again as two.
    command = [sys.executable, "test.py", "--log_dir", "absent", "--logpath", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = {"cwd": REPOSITORY, "env": environment, "capture_output": True, "text": True}
    ended = subprocess.run([*command, "--gpu_num", "2", "--gpu", "cpu"], **options)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1 and ended.stderr.startswith("error: ")


def warn():
    run_command(lambda: warnings.warn("using fp32", stacklevel=1))


def test_a_warning_is_one_line(tmp_path):
    ended = run_alone(tmp_path, warn)
    assert ended.returncode == 0 and ended.stderr == "warning: using fp32\n"


def test_a_package_that_is_not_installed_is_named_and_the_numbers_are_written(
    run, dataset, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    monkeypatch.delitem(sys.modules, "matplotlib.backends.backend_agg", raising=False)
    assert evaluate(run, dataset, tmp_path) == 2
    captured = capsys.readouterr()
    assert "hit 1, guard 4" in captured.out
    assert captured.err.splitlines()[-1].startswith("error: the package matplotlib is not inst")
    assert (tmp_path / "metrics.json").is_file() and (tmp_path / "eval.txt").is_file()


def test_a_table_of_snr_that_cannot_be_read_is_refused_before_the_network_runs(
    dataset, tmp_path, monkeypatch, capsys
):
    root = tmp_path / "Synthetic"
    shutil.copytree(dataset, root)
    monkeypatch.setattr(test_script.Evaluator, "run", lambda *_: pytest.fail("it runs"))
    words = f"--dataset Synthetic --datapath {root} --model TopHat --gpu cpu --output {tmp_path}"
    (root / "snr.csv").write_text("sequence;snr\nSequence47;2\n")
    assert call(test_script, words) == 2
    assert "snr.csv: not a table with columns" in capsys.readouterr().err


@pytest.mark.parametrize(
    "data, given, found",
    [
        ("NUDT-MIRSDT", "", {"mean": 105.4025, "std": 26.6452}),
        ("NUDT-MIRSDT", "--mean 90 --std 10.5", {"mean": 90.0, "std": 10.5}),
        ("Frames", "", {"sequences": {"Sequence47", "Sequence85"}}),
    ],
)
def test_the_results_tell_the_normalisation(nudt, tmp_path, data, given, found):
    for name in ("Sequence1", "Sequence2"):
        shutil.rmtree(nudt / name)
    words = f"--dataset {data} --datapath {nudt} --output {tmp_path / 'out'} --no-overlay"
    call_test(f"--model TopHat {words} {given}".rstrip())
    entry = json.loads((tmp_path / "out/metrics.json").read_text())["normalisation"]
    if data == "Frames":
        entry = {"sequences": {name for name, own in entry["sequences"].items() if own["std"] > 1}}
    assert entry == found


def test_results_on_footage_do_not_replace_those_of_the_runs_own_data(run, dataset, capsys):
    before = {path: path.read_bytes() for path in run.glob("*.*")}
    place = f"--logpath {run.parent.parent} --log_dir {run.name} --gpu cpu"
    footage = dataset / "Sequence47"
    assert call(test_script, place, f"--dataset Frames --datapath {footage} --no-overlay") == 0
    assert {path: path.read_bytes() for path in run.glob("*.*")} == before
    assert (run / "Frames/metrics.json").is_file() and (run / "Frames/detections.csv").is_file()
    shutil.rmtree(run / "Frames")
    inside = footage / "results"
    asked = f"--dataset Frames --datapath {footage} --output {inside}"
    assert call(test_script, place, asked) == 2 and not inside.exists()
    assert f"--output {inside}: lies in --datapath {footage}" in capsys.readouterr().err


def test_published_flags_have_their_published_defaults():
    args = vars(test_script.parse_args(["--log_dir", "run"]))
    expected = {
        "batch_size": 1,
        "epoch": None,
        "gpu": "0",
        "seqlen": None,
        "datapath": "./datasets/NUDT-MIRSDT",
        "dataset": "NUDT-MIRSDT",
        "logpath": "./log/",
        "visual": False,
        "threshold_eval": 0.5,
    }
    assert {key: args[key] for key in expected} == expected


def test_frames_are_numbered_from_1_and_from_0_for_rgb_t():
    starts = {name: spec.first_frame for name, spec in DATASETS.items()}
    assert starts.pop("RGB-T") == 0 and set(starts.values()) == {1}
