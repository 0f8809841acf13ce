"""train.py as a user calls it, on small data."""

import shlex
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo import lookup_backend

import test as test_script
import train as train_script
from data.clips import TrainClips
from data.lists import find_sequences
from data.record import write_record
from data.sequences import open_sequences
from data.specs import get_spec
from losses import build_loss
from models import build_model
from tests.builders import STAGED, call, random_sequence, write_list, write_nudt_sequence
from tests.training.runs import TRAINING, evaluate, history, proceed, refused, rows, train
from utils.checkpoint import load, load_weights
from utils.evaluation import add_up, validate
from utils.process import Group
from utils.run_dir import RunDir
from utils.scan.scans import Scan
from utils.training import history as history_module
from utils.training.trainer import OPTIMIZERS, Schedule


@pytest.mark.usefixtures("untested")
@pytest.mark.parametrize(
    "model, precision, epochs", [("DeepPro", "fp32", 1), ("DeepPro-Plus", "bf16", 2)]
)
def test_a_compiled_training_is_the_plain_one_within_rounding(
    dataset, tmp_path, monkeypatch, model, precision, epochs
):
    # Captured as for the C++ compiler, which test_training_layout.py calls; run without it.
    # DeepPro's plain training is another pass than the one captured; in bf16 both are the same.
    steps = []

    def backend(graph, inputs):
        run = lookup_backend("aot_eager")(graph, inputs)
        return lambda *inputs: steps.append(len(inputs)) or run(*inputs)

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    options = f"--optimizer SGD --learning_rate 0.1 --precision {precision} --sample_rate 0.1"
    plain = train(dataset, tmp_path / "plain", model, options, f"--epoch {epochs}")
    assert not steps
    options += " --compile"
    compiled = train(dataset, tmp_path / "compiled", model, options, "--epoch 1")
    taken = len(steps)
    if epochs == 2:
        again = f"--log_dir {compiled.name} --epoch 2"
        assert train(dataset, tmp_path / "compiled", model, options, again) == compiled
    assert taken > 0 and len(steps) == epochs * taken
    expected = load(RunDir(plain).checkpoint("last"))
    state = load(RunDir(compiled).checkpoint("last"))
    weights = state["model_state_dict"]
    assert weights.keys() == expected["model_state_dict"].keys()
    for row, other in zip(state["history"], expected["history"], strict=True):
        for key in ("train_loss", "val_loss"):
            assert row[key] == pytest.approx(other[key], abs=1e-4)
    for key, weight in expected["model_state_dict"].items():
        torch.testing.assert_close(weights[key], weight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model", STAGED)
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


@pytest.mark.usefixtures("untested")
def test_the_same_seed_gives_the_same_training(dataset, run, tmp_path):
    # To the last digit: the validation of an epoch follows from all weights.
    assert rows(train(dataset, tmp_path, "DeepPro", "--epoch 2")) == rows(run)[:2]


def test_the_loss_falls(run):
    losses = [row["train_loss"] for row in history(run)]
    assert len(losses) == 6 and losses[-1] < losses[0]


def test_the_best_checkpoint_is_of_the_best_epoch(run):
    ious = [row["val_iou"] for row in history(run)]
    assert [row["best_iou"] for row in history(run)] == [max(ious[: n + 1]) for n in range(6)]
    best = max(range(6), key=lambda epoch: (ious[epoch], epoch))
    state = torch.load(run / "checkpoints/best_model.pth")
    assert state["epoch"] == best and state["class_avg_iou"] == ious[best]


def test_validation_is_that_of_the_network_in_evaluation_mode(run, dataset):
    spec = get_spec("NUDT-MIRSDT")
    files = find_sequences(spec, spec.test, dataset)
    sequences = open_sequences(files, (spec.mean, spec.std))
    model, path = build_model("DeepPro", 8), RunDir(run).checkpoint(6)
    load_weights(model.eval(), load(path), "DeepPro", path)
    results = validate(model, model, build_loss("SoftIoU"), sequences, 0.5, "cpu")
    losses, ious = zip(*results, strict=True)
    row = history(run)[-1]
    assert np.mean(sum(losses, [])) == pytest.approx(row["val_loss"], abs=1e-5)
    assert add_up(ious).iou() == pytest.approx(row["val_iou"], abs=1e-5)


def test_a_training_is_normalised_as_the_data_set_records(dataset, tmp_path, untested):
    root = tmp_path / "mine"
    shutil.copytree(dataset, root)
    write_record(root, 90.0, 20.0, {})
    folder = train(root, tmp_path, "DeepPro", "--epoch 1 --dataset Converted")
    assert len(history(folder)) == 1
    spec = get_spec("Converted")
    for sequence in spec.open(spec, root):
        assert sequence.normalisation == (90, 20)
    kept = load(RunDir(folder).checkpoint("best"))["args"]
    assert (kept["mean"], kept["std"]) == (90, 20)


def test_a_normalisation_of_its_own_is_kept_by_the_run_and_its_tests(
    dataset, tmp_path, capsys, monkeypatch
):
    frames = [np.asarray(Image.open(path)) for path in dataset.glob("Sequence[123]/images/*.png")]
    expected = np.mean(frames, dtype=float), np.std(frames, dtype=float)
    used = []
    begin = Scan.begin
    monkeypatch.setattr(
        Scan, "begin", lambda self, *given: used.append(given[:2]) or begin(self, *given)
    )

    def tested():
        found, used[:] = set(used[:]) - {(0.0, 1.0)}, []  # of a scan that waits for a sequence
        (pair,) = {tuple(np.round(pair, 6)) for pair in found}
        return pair == pytest.approx(expected)

    folder = train(dataset, tmp_path, "DeepPro", "--epoch 1", "--normalise-as auto")
    assert tested()  # at the end of the training
    assert evaluate(folder, dataset, tmp_path / "out") == 0 and tested()
    capsys.readouterr()
    assert proceed(folder, "--epoch 2", "--savepath", tmp_path) == 0 and tested()
    assert "sought anew" not in capsys.readouterr().out
    # What is asked for comes first, and another normalisation has other IoUs.
    assert evaluate(folder, dataset, tmp_path / "out", "--mean 5 --std 6") == 0
    expected = 5, 6
    assert tested()
    assert proceed(folder, "--epoch 3 --mean 5 --std 6") == 0 and tested()
    assert "sought anew: --mean was" in capsys.readouterr().out


def test_a_training_ends_with_the_test_whose_command_it_prints(
    dataset, tmp_path, monkeypatch, capsys
):
    tested = []
    monkeypatch.setattr(test_script, "main", lambda args, group: tested.append(args))
    folder = train(dataset, tmp_path, "DeepPro", "--epoch 1")
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("  again: ")]
    python, script, *words = shlex.split(line.removeprefix("  again: "))
    assert (python, script) == ("python", "test.py")
    assert tested == [test_script.parse_args(words)]
    assert tested[0].log_dir == [folder.name] and tested[0].gpu == "cpu"


def test_numbered_checkpoints_are_every_fifth_epoch_and_the_last(run):
    names = {path.name for path in (run / "checkpoints").glob("epoch_*")}
    assert names == {"epoch_5_model.pth", "epoch_6_model.pth"}


@pytest.mark.usefixtures("untested")
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
    clips, sequences = train_script.open_data(args, [spec], Group())
    assert clips.frames.size == (32, 48)
    assert all(sequence.read(0, 1).frames.shape == (1, 16, 20) for sequence in sequences)


def test_optimisers_are_as_published():
    parameters = [torch.zeros(1, requires_grad=True)]
    adam = OPTIMIZERS["Adam"](parameters, 1e-3, 1e-4).defaults
    assert (adam["betas"], adam["eps"], adam["weight_decay"]) == ((0.9, 0.999), 1e-8, 1e-4)
    sgd = OPTIMIZERS["SGD"](parameters, 1e-3, 1e-4).defaults
    assert (sgd["momentum"], sgd["weight_decay"]) == (0.9, 0)


@pytest.mark.usefixtures("untested")
def test_training_continues_a_run(dataset, tmp_path, capsys):
    folder = train(dataset, tmp_path, "DeepPro", "--epoch 1")
    train(dataset, tmp_path, "DeepPro", f"--epoch 2 --log_dir {folder.name}")
    log = (folder / "logs/DeepPro.txt").read_text()
    assert log.count("**** Epoch 1 (") == log.count("**** Epoch 2 (") == 1


@pytest.mark.usefixtures("untested")
@pytest.mark.parametrize("loss", ["BCE", "HAM", "HPM"])
def test_other_losses_train_and_name_the_run(dataset, tmp_path, loss):
    folder = train(dataset, tmp_path, "DeepPro", f"--epoch 1 --loss {loss}")
    assert f"__{loss}loss_DeepPro_" in folder.name


@pytest.mark.usefixtures("untested")
@pytest.mark.parametrize("model", ["DeepPro", "DeepPro-Plus_forMovingScenes"])
def test_all_departures_from_the_published_training_together(dataset, tmp_path, model):
    options = "--exclude_padding --empty_clips 0.1 --flips --ema 0.9 --precision bf16"
    folder = train(dataset, tmp_path, model, "--epoch 2", options)
    rows = history(folder)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(np.isfinite(row[key]) for row in rows for key in ("train_loss", "val_loss"))
    averaged = load(RunDir(folder).checkpoint(2))["model_state_dict"]
    trained = load(RunDir(folder).checkpoint("last"))["model_state_dict"]
    assert all(value.dtype != torch.bfloat16 for value in trained.values())
    assert any(not torch.equal(averaged[key], trained[key]) for key in trained)


@pytest.mark.usefixtures("untested", "drawn")
@pytest.mark.parametrize("missing", [None, "matplotlib"])
def test_the_course_of_a_training_is_drawn_where_matplotlib_is(
    dataset, tmp_path, monkeypatch, missing
):
    monkeypatch.setattr(history_module, "find_spec", lambda name: None if name == missing else name)
    folder = train(dataset, tmp_path, "DeepPro", "--epoch 1")
    assert len(history(folder)) == 1
    if missing:
        assert not (folder / "curves.png").exists()
    else:
        assert Image.open(folder / "curves.png").size == (960, 272)


@pytest.mark.usefixtures("untested")
def test_tensorboard_events_are_written(dataset, tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = train(dataset, tmp_path, "DeepPro", "--epoch 2")
    events = accumulators.EventAccumulator(str(folder / "events")).Reload()
    rows = history(folder)
    for key in ("train_loss", "val_iou", "learning_rate"):
        written = [(event.step, event.value) for event in events.Scalars(key)]
        assert written == [(row["epoch"], pytest.approx(row[key], abs=1e-6)) for row in rows]


def test_a_loss_that_is_not_finite_ends_the_training_in_one_line(dataset, tmp_path, capsys):
    arguments = f"--datapath {dataset} --savepath {tmp_path} --model DeepPro --epoch 1"
    status = call(
        train_script, arguments, TRAINING, "--learning_rate 1e6 --optimizer SGD --loss BCE"
    )
    error = capsys.readouterr().err
    assert status == 2 and "the loss is" in error
    assert "Lower --learning_rate" in error.strip().splitlines()[-1]


@pytest.mark.parametrize("side, data", [(16, "absent"), (1, "")])
def test_what_cannot_be_trained_is_refused_before_a_run_folder_is_made(
    dataset, tmp_path, capsys, side, data
):
    options = f"--datapath {dataset / data} --model DeepPro {TRAINING} --patch_size {side}"
    status = call(train_script, options, f"--savepath {tmp_path / 'log'}")
    refused(capsys, status, data or "--patch_size 1: DeepPro takes crops of a side of 4")
    assert not (tmp_path / "log").exists()


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--model DeepPro-Max", "DeepPro-Plus_forMovingScenes"),
        ("--loss Dice", "HPM"),
        ("--sample_rate 0", "above 0"),
        ("--sample_rate 1e300", "at most 1000"),
        ("--seed 18446744073709551616", "from 0 to 18446744073709551615"),
        ("--decay_rate 1e39", "from 0 to 1000000"),
        ("--learning_rate 1e38", "--learning_rate 1e+38: expected at most 1000000"),
        ("--lr_decay 1e200 --step_size 1", "learning rate of epoch 32 is inf; expected at most"),
        ("--lr_decay 10 --step_size 3 --epoch 31", "learning rate of epoch 31 is 1e+07"),
    ],
)
def test_unknown_choices_are_refused_with_the_known_ones(arguments, words, capsys):
    refused(capsys, call(train_script, arguments), words)


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path, capsys):
    status = call(train_script, f"--dataset COCO --savepath {tmp_path}")
    refused(capsys, status, "COCO", "SatVideoIRSDT")


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


def test_the_learning_rate_decays_in_steps_to_its_floor():
    schedule = Schedule(first=1e-3, decay=0.7, step=10)
    rates = [schedule.rate(epoch) for epoch in (0, 9, 10, 30, 300)]
    assert rates == pytest.approx([1e-3, 1e-3, 7e-4, 3.43e-4, 1e-5])
    for first in (1e-6, 3e-5):  # no rate is above the first
        schedule = Schedule(first, decay=0.5, step=1)
        assert [schedule.rate(n) for n in (0, 9)] == [first, min(first, 1e-5)]
    schedule = Schedule(first=1e-3, decay=0.7, step=10)
    args = train_script.parse_args([])
    assert Schedule(args.learning_rate, args.lr_decay, args.step_size) == schedule


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
