"""train.py and test.py as a user calls them, on small data."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch._dynamo import lookup_backend

import test as test_script
import train as train_script
from data.clips import TrainClips
from data.frames import find_sequences
from data.sequences import LabelledSequences
from data.specs import DATASETS, get_spec
from data.synthetic.sequences import Preset, write_synthetic
from losses import build_loss
from models import MODELS
from tests.builders import call, random_sequence, write_image, write_list, write_nudt_sequence
from tests.conftest import REPOSITORY
from utils.checkpoint import load
from utils.evaluation import evaluate_windows
from utils.process import Group
from utils.run_dir import INCLUDED, RunDir, find_run

TRAINING = "--seqlen 8 --patch_size 16 --batch_size 2 --sample_rate 0.2 --workers 0 --gpu cpu"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A NUDT-MIRSDT with bright moving targets, three training and two test sequences."""
    root = tmp_path_factory.mktemp("data") / "NUDT-MIRSDT"
    rng = np.random.default_rng(46)
    names = ("Sequence1", "Sequence2", "Sequence3", "Sequence47", "Sequence85")
    for name in names:
        images, masks = random_sequence(rng, 20, 24, 28)
        images[masks > 0] = 250
        write_nudt_sequence(root, name, images, masks)
    write_list(root / "train.txt", names[:3])
    write_list(root / "test.txt", names[3:])
    return root


def train(dataset, savepath, model, *extra):
    assert (
        call(
            train_script,
            f"--model {model} --dataset NUDT-MIRSDT --datapath {dataset} --savepath {savepath}",
            TRAINING,
            *extra,
        )
        == 0
    )
    return next((savepath / "sem_seg").iterdir())


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A short DeepPro run of six epochs."""
    return train(dataset, tmp_path_factory.mktemp("log"), "DeepPro", "--epoch 6")


def evaluate(run, dataset, output, *extra):
    common = f"--log_dir {run.name} --logpath {run.parent.parent} --datapath {dataset}"
    return call(test_script, common, f"--seqlen 8 --gpu cpu --output {output}", *extra)


@pytest.fixture
def one_thread():
    """Tiny maps gain nothing from threads, which wait for one another where cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("model, precision", [("DeepPro", "fp32"), ("DeepPro-Plus", "bf16")])
def test_a_compiled_training_is_the_plain_one_within_rounding(
    dataset, tmp_path, monkeypatch, model, precision
):
    # Captured as for the C++ compiler, which tests/test_training_layout.py calls; run without it.
    # DeepPro's plain training is another pass than the one captured; DeepPro-Plus' is the same.
    steps = []

    def backend(graph, inputs):
        run = lookup_backend("aot_eager")(graph, inputs)
        return lambda *inputs: steps.append(len(inputs)) or run(*inputs)

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    options = f"--optimizer SGD --learning_rate 0.1 --precision {precision}"
    plain = train(dataset, tmp_path / "plain", model, options, "--epoch 2")
    assert not steps
    options += " --compile"
    whole = train(dataset, tmp_path / "whole", model, options, "--epoch 2")
    taken = len(steps)
    parts = train(dataset, tmp_path / "parts", model, options, "--epoch 1")
    again = f"--log_dir {parts.name} --epoch 2"
    assert train(dataset, tmp_path / "parts", model, options, again) == parts
    assert taken > 0 and len(steps) == 2 * taken
    expected = load(RunDir(plain).checkpoint("last"))
    for folder in (whole, parts):
        state = load(RunDir(folder).checkpoint("last"))
        weights = state["model_state_dict"]
        assert weights.keys() == expected["model_state_dict"].keys()
        for row, other in zip(state["history"], expected["history"], strict=True):
            for key in ("train_loss", "val_loss"):
                assert row[key] == pytest.approx(other[key], abs=1e-4)
        for key, weight in expected["model_state_dict"].items():
            torch.testing.assert_close(weights[key], weight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_training_ends_with_a_tested_checkpoint_and_a_log_in_the_published_form(
    dataset, tmp_path, model, capsys
):
    folder = train(dataset, tmp_path, model, "--epoch 1")
    assert folder.name.startswith("NUDT-MIRSDT__")
    assert folder.name.endswith(f"__SoftLoUloss_{model}_DataL8")
    for name in ("best", "epoch_1", "last"):
        state = torch.load(folder / "checkpoints" / f"{name}_model.pth")
        assert state["epoch"] == 0 and state["args"]["model"] == model
        assert {"model_state_dict", "optimizer_state_dict"} <= set(state)
    log = (folder / "logs" / f"{model}.txt").read_text()
    for line in (
        "PARAMETER ...",
        "The number of training data is: ",
        "The number of test data is: 2 sequences",
        "No existing model, starting training from scratch...",
        "**** Epoch 1 (1/1) ****",
        "Learning rate:0.001000",
        "Training mean loss: ",
        "Training accuracy (IoU) of prediction: ",
        "---- EPOCH 001 EVALUATION ----",
        "Eval mean loss: ",
        "Eval avg class IoU of prediction: ",
        "Best mIoU_mid: ",
    ):
        assert f" - Model - INFO - {line}" in log
    assert (folder / "eval.txt").is_file() and (folder / "metrics.json").is_file()
    assert "threshold 0.5" in capsys.readouterr().out


def test_testing_a_run_gives_the_numbers_of_its_training_again(run, dataset, tmp_path):
    assert evaluate(run, dataset, tmp_path / "again") == 0
    first, again = (
        json.loads((folder / "metrics.json").read_text()) for folder in (run, tmp_path / "again")
    )
    del first["timing"], again["timing"]
    assert first == again


def test_the_same_seed_gives_the_same_weights(dataset, run, tmp_path):
    other = train(dataset, tmp_path, "DeepPro", "--epoch 6")
    first, second = (
        torch.load(folder / "checkpoints/last_model.pth")["model_state_dict"]
        for folder in (run, other)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def history(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_falls(run):
    losses = [row["train_loss"] for row in history(run)]
    assert len(losses) == 6 and losses[-1] < losses[0]


def test_the_best_checkpoint_is_of_the_best_epoch(run):
    ious = [row["val_iou"] for row in history(run)]
    best = max(range(6), key=lambda epoch: (ious[epoch], epoch))
    state = torch.load(run / "checkpoints/best_model.pth")
    assert state["epoch"] == best and state["class_avg_iou"] == ious[best]


def test_validation_is_that_of_the_network_in_evaluation_mode(run, dataset):
    spec = get_spec("NUDT-MIRSDT")
    files = find_sequences(spec, spec.test, dataset)
    sequences = LabelledSequences(files, spec.mean, spec.std, 8)
    _, model = test_script.load_run(find_run(run.parent.parent, run.name), 6, 8)
    loss, iou = evaluate_windows(model, build_loss("SoftIoU"), sequences, 0.5, "cpu")
    row = history(run)[-1]
    assert loss == pytest.approx(row["val_loss"], abs=1e-5)
    assert iou == pytest.approx(row["val_iou"], abs=1e-5)


def test_numbered_checkpoints_are_every_fifth_epoch_and_the_last(run):
    names = {path.name for path in (run / "checkpoints").glob("epoch_*")}
    assert names == {"epoch_5_model.pth", "epoch_6_model.pth"}


def test_numbered_checkpoints_are_tested_by_epoch(run, dataset, tmp_path):
    assert evaluate(run, dataset, tmp_path, "--epoch 5") == 0
    assert (tmp_path / "eval_epoch-5.txt").is_file()
    _, model = test_script.load_run(find_run(run.parent.parent, run.name), 5, 8)
    saved = torch.load(run / "checkpoints/epoch_5_model.pth")["model_state_dict"]
    assert all(torch.equal(tensor, saved[key]) for key, tensor in model.state_dict().items())


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


def test_both_engines_give_the_same_counts(run, dataset, tmp_path):
    counts = []
    for engine in ("fast", "reference"):
        assert evaluate(run, dataset, tmp_path, f"--engine {engine}") == 0
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        subset = metrics["protocols"]["hit1_guard4"]["subsets"]["all"]
        counts.append([subset["detected"][4:-1], subset["false_alarm_pixels"][4:-1]])
    assert np.abs(np.array(counts[0]) - np.array(counts[1])).max() <= 1


def test_epochs_have_clips_of_their_own(dataset, tmp_path, monkeypatch):
    seen = []
    original = TrainClips.draw_window
    monkeypatch.setattr(
        TrainClips, "draw_window", lambda self, rng: seen.append(self.epoch) or original(self, rng)
    )
    train(dataset, tmp_path, "DeepPro", "--epoch 2")
    assert set(seen) == {0, 1} and seen == sorted(seen)


def test_resizing_follows_the_data_set(dataset):
    args = train_script.parse_args(["--datapath", str(dataset), "--cache", "none"])
    spec = replace(get_spec("NUDT-MIRSDT"), train_size=(32, 48), test_size=(16, 20))
    clips, sequences = train_script.open_data(args, spec, Group())
    assert clips.size == (32, 48) and sequences.size == (16, 20)


def test_optimisers_are_as_published():
    parameters = [torch.zeros(1, requires_grad=True)]
    adam = train_script.OPTIMIZERS["Adam"](parameters, 1e-3, 1e-4).defaults
    assert (adam["betas"], adam["eps"], adam["weight_decay"]) == ((0.9, 0.999), 1e-8, 1e-4)
    sgd = train_script.OPTIMIZERS["SGD"](parameters, 1e-3, 1e-4).defaults
    assert (sgd["momentum"], sgd["weight_decay"]) == (0.9, 0)


def test_without_a_run_the_included_one_is_tested(tmp_path):
    data, logs = tmp_path / "data", tmp_path / "log"
    preset = Preset(1, 0, 3, 1, frames=45, heights=(64, 70), widths=(64, 70))
    write_synthetic(data, preset, progress=False)
    given = f"--dataset Synthetic --datapath {data} --logpath {logs} --gpu cpu"
    assert call(test_script, given) == 0
    written = {path.name for path in (logs / "tests/Synthetic").iterdir()}
    assert written >= {"eval.txt", "metrics.json", "report.html"}
    metrics = json.loads((logs / "tests/Synthetic/metrics.json").read_text())
    assert metrics["run"] == INCLUDED["Synthetic"]


def test_visual_writes_a_score_map_for_each_frame(run, dataset, tmp_path):
    assert evaluate(run, dataset, tmp_path, "--visual --engine reference") == 0
    maps = sorted(path.name for path in (tmp_path / "visual/Sequence47").glob("*.png"))
    assert maps == [f"{number:05d}.png" for number in range(1, 21)]


def test_training_continues_a_run(dataset, tmp_path, capsys):
    folder = train(dataset, tmp_path, "DeepPro", "--epoch 1")
    train(dataset, tmp_path, "DeepPro", f"--epoch 2 --log_dir {folder.name}")
    log = (folder / "logs/DeepPro.txt").read_text()
    assert log.count("**** Epoch 1 (") == log.count("**** Epoch 2 (") == 1


@pytest.mark.parametrize("loss", ["BCE", "HAM", "HPM"])
def test_other_losses_train_and_name_the_run(dataset, tmp_path, loss):
    folder = train(dataset, tmp_path, "DeepPro", f"--epoch 1 --loss {loss}")
    assert f"__{loss}loss_DeepPro_" in folder.name


@pytest.mark.parametrize("model", ["DeepPro", "DeepPro-Plus"])
def test_all_departures_from_the_published_training_together(dataset, tmp_path, model):
    options = "--exclude_padding --empty_clips 0.1 --flips --ema 0.9 --precision bf16"
    folder = train(dataset, tmp_path, model, "--epoch 2", options)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(np.isfinite(row[key]) for row in rows for key in ("train_loss", "val_loss"))
    averaged = load(RunDir(folder).checkpoint(2))["model_state_dict"]
    trained = load(RunDir(folder).checkpoint("last"))["model_state_dict"]
    assert all(value.dtype != torch.bfloat16 for value in trained.values())
    assert any(not torch.equal(averaged[key], trained[key]) for key in trained)


def test_tensorboard_events_are_written(dataset, tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = train(dataset, tmp_path, "DeepPro", "--epoch 2")
    events = accumulators.EventAccumulator(str(folder / "events")).Reload()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for key in ("train_loss", "val_iou", "learning_rate"):
        written = [(event.step, event.value) for event in events.Scalars(key)]
        assert written == [(row["epoch"], pytest.approx(row[key], abs=1e-6)) for row in rows]


def test_a_loss_that_is_not_finite_ends_the_training_in_one_line(dataset, tmp_path, capsys):
    arguments = f"--datapath {dataset} --savepath {tmp_path} --model DeepPro --epoch 1"
    status = call(train_script, arguments, TRAINING, "--learning_rate 1e30 --loss BCE")
    error = capsys.readouterr().err
    assert status == 2 and "the loss is" in error
    assert "Lower --learning_rate" in error.strip().splitlines()[-1]


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


def refused(capsys, status, *words):
    captured = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    assert len([line for line in captured if line.startswith("error: ")]) == 1
    assert not any("Traceback" in line for line in captured)
    for word in words:
        assert word in captured[-1]


@pytest.mark.parametrize("script", [train_script, test_script])
def test_a_missing_data_path_says_where_the_data_come_from(script, run, tmp_path, capsys):
    arguments = f"--datapath {tmp_path / 'absent'} --seqlen 8"
    if script is test_script:
        arguments += f" --log_dir {run.name} --logpath {run.parent.parent}"
    else:
        arguments += f" --savepath {tmp_path}"
    refused(capsys, call(script, arguments), "absent", "comes from", "--dataset Synthetic")


def test_bad_data_are_refused_before_a_run_folder_is_made(tmp_path, capsys):
    call(train_script, f"--datapath {tmp_path / 'absent'} --savepath {tmp_path / 'log'}")
    capsys.readouterr()
    assert not (tmp_path / "log").exists()


def test_a_truncated_png_is_named(run, dataset, tmp_path, rng, capsys):
    root = tmp_path / "NUDT-MIRSDT"
    write_nudt_sequence(root, "Sequence47", *random_sequence(rng, 9, 8, 10))
    write_list(root / "test.txt", ["Sequence47"])
    path = root / "Sequence47/images/00004.png"
    path.write_bytes(path.read_bytes()[:70])
    refused(capsys, evaluate(run, root, tmp_path / "out"), "00004.png", "cannot be read")


def test_a_truncated_png_in_a_reading_process_is_one_line_too(tmp_path, rng, capsys):
    root = tmp_path / "NUDT-MIRSDT"
    for name in ("Sequence1", "Sequence47"):
        write_nudt_sequence(root, name, *random_sequence(rng, 12, 16, 16))
        write_list(root / ("train.txt" if name == "Sequence1" else "test.txt"), [name])
    for path in (root / "Sequence1/images").iterdir():
        path.write_bytes(path.read_bytes()[:70])
    arguments = f"--datapath {root} --savepath {tmp_path} --model DeepPro {TRAINING}"
    status = call(train_script, arguments, "--workers 1 --sample_rate 1")
    refused(capsys, status, "Sequence1/images", "cannot be read")


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


def test_an_output_that_cannot_be_written_is_refused(run, dataset, tmp_path, capsys):
    (tmp_path / "file").touch()
    refused(capsys, evaluate(run, dataset, tmp_path / "file"), "cannot be made")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--model DeepPro-Max", "DeepPro-Plus_forMovingScenes"),
        ("--loss Dice", "HPM"),
        ("--sample_rate 0", "above 0"),
    ],
)
def test_unknown_choices_are_refused_with_the_known_ones(arguments, words, capsys):
    refused(capsys, call(train_script, arguments), words)


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path, capsys):
    status = call(train_script, f"--dataset COCO --savepath {tmp_path}")
    refused(capsys, status, "COCO", "SatVideoIRSDT")


def test_from_the_shell_an_error_is_one_line_and_status_2(tmp_path):
    command = [sys.executable, "test.py", "--log_dir", "absent", "--logpath", str(tmp_path)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1 and ended.stderr.startswith("error: ")


def test_from_the_shell_a_warning_is_one_line():
    program = "import warnings; from utils.command_line import run_command; "
    program += "run_command(lambda: warnings.warn('using fp32'))"
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 0 and ended.stderr == "warning: using fp32\n"


def test_published_flags_have_their_published_defaults():
    args = vars(train_script.parse_args([]))
    expected = {
        "model": "DeepPro-Plus",
        "batch_size": 4,
        "epoch": 32,
        "learning_rate": 0.001,
        "gpu": "0",
        "gpu_num": 1,
        "optimizer": "Adam",
        "datapath": "./datasets/NUDT-MIRSDT",
        "dataset": "NUDT-MIRSDT",
        "log_dir": None,
        "savepath": "./log/",
        "decay_rate": 1e-4,
        "seqlen": 40,
        "patch_size": 128,
        "step_size": 10,
        "sample_rate": 0.1,
        "lr_decay": 0.7,
        "threshold_eval": 0.5,
        "loss": "SoftIoU",
        "seed": 46,
    }
    assert {key: args[key] for key in expected} == expected
    args = vars(test_script.parse_args(["--log_dir", "run"]))
    expected = {
        "batch_size": 1,
        "epoch": None,
        "gpu": "0",
        "seqlen": 40,
        "datapath": "./datasets/NUDT-MIRSDT",
        "dataset": "NUDT-MIRSDT",
        "logpath": "./log/",
        "visual": False,
        "threshold_eval": 0.5,
    }
    assert {key: args[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("dataset", "rate"),
    [
        ("NUDT-MIRSDT", 0.1),
        ("NUDT-MIRSDT-HiNo", 0.1),
        ("IRDST-simulation", 0.03),
        ("RGB-T", 0.05),
        ("SatVideoIRSDT", 0.04),
    ],
)
def test_the_rate_follows_the_data_set(dataset, rate):
    args = train_script.parse_args(["--dataset", dataset])
    assert args.sample_rate == rate


def test_frames_are_numbered_from_1_and_from_0_for_rgb_t():
    starts = {name: spec.first_frame for name, spec in DATASETS.items()}
    assert starts.pop("RGB-T") == 0 and set(starts.values()) == {1}


def test_the_learning_rate_decays_in_steps_to_its_floor():
    args = train_script.parse_args([])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
    rates = [train_script.set_learning_rate(optimizer, args, e) for e in (0, 9, 10, 30, 300)]
    assert rates == pytest.approx([1e-3, 1e-3, 7e-4, 3.43e-4, 1e-5])
    assert optimizer.param_groups[0]["lr"] == 1e-5
