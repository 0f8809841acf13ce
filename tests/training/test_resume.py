"""A training that was killed and continued is the training that was not."""

import errno
import json
import os
import random
import shutil
import signal
import sys
import time

import pytest
import torch

import train as train_script
from tests.builders import call, write_list
from tests.processes import run_alone
from tests.training.runs import TRAINING, proceed, refused, rows, run_folder, stop_at
from utils.checkpoint import load, save, strip
from utils.run_dir import RunDir, find_run, new_run
from utils.training.trainer import Trainer

OPTIONS = f"--model DeepPro --epoch 4 --loss HAM --ema 0.9 --flips {TRAINING} --cache disk"


def attempt(argv, kill_after=None, kill_in_write=None):
    """The wait status of a training that is killed: after so many seconds, or at the Nth fsync."""
    child = os.fork()
    if child == 0:
        writes, synced = [], os.fsync

        def fsync(file):
            writes.append(file)
            if len(writes) == kill_in_write:
                os.ftruncate(file, os.fstat(file).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            synced(file)

        os.fsync = fsync
        try:
            train_script.main(train_script.parse_args(argv))
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(3)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def train_whole_and_killed(savepath, argv, kills):
    """Runs a training twice: at a stretch, and again and again.

    Every attempt but the last is killed, half of them between the writing of a checkpoint and its
    renaming.
    """
    start = time.monotonic()
    assert attempt([*argv, "--savepath", f"{savepath}/whole"]) == 0
    lasted = time.monotonic() - start
    rng = random.Random(46)
    argv += ["--savepath", f"{savepath}/killed"]
    killed = 0
    while killed < kills:
        continued = continuation(savepath)
        if killed % 2:
            status = attempt(argv + continued, kill_in_write=rng.randrange(1, 3))
        else:
            status = attempt(argv + continued, kill_after=rng.uniform(0.03, 0.2) * lasted)
        print("attempt ended with", status, bool(continued), flush=True)
        killed += status == signal.SIGKILL
        if status == 0:
            break
    print("kills", killed)
    assert attempt(argv + continuation(savepath)) == 0


def continuation(savepath):
    """Words that continue the killed training, once it has left something to continue."""
    runs = list(savepath.glob("killed/sem_seg/*/checkpoints/last_model.pth"))
    return ["--log_dir", runs[0].parent.parent.name] if runs else []


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def assert_same_training(first, second):
    states = [load(folder / "checkpoints/last_model.pth") for folder in (first, second)]
    for key in ("epoch", "best_iou", "model_state_dict", "optimizer_state_dict", "average"):
        assert same(*(state.get(key) for state in states)), key
    best = [load(folder / "checkpoints/best_model.pth") for folder in (first, second)]
    assert same(*(state["model_state_dict"] for state in best))
    assert rows(first) == rows(second)
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (first, second)]
    assert metrics[0]["protocols"] == metrics[1]["protocols"]
    logs = [(folder / "logs/DeepPro.txt").read_text() for folder in (first, second)]
    for word in ("Training mean loss", "Eval mean loss", "Best mIoU_mid", "**** Epoch"):
        lines = [
            [line.split(" - INFO - ")[1] for line in log.splitlines() if word in line]
            for log in logs
        ]
        assert lines[0] == lines[1]


def test_ten_kills_change_neither_weights_nor_numbers(dataset, tmp_path):
    arguments = f"{OPTIONS} --datapath {dataset} --cache_dir {tmp_path / 'frames'}".split()
    ended = run_alone(tmp_path, train_whole_and_killed, tmp_path, arguments, 10, timeout=400)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert "kills 10" in ended.stdout, ended.stdout[-3000:]
    assert_same_training(run_folder(tmp_path / "whole"), run_folder(tmp_path / "killed"))


def test_sigterm_within_an_epoch_loses_no_step(dataset, tmp_path, monkeypatch, capsys):
    arguments = f"--datapath {dataset} {OPTIONS} --epoch 2 --cache memory"
    assert call(train_script, arguments, f"--savepath {tmp_path / 'whole'}") == 0
    stop_at(6, monkeypatch)
    status = call(train_script, arguments, f"--savepath {tmp_path / 'cut'}")
    assert status == 128 + signal.SIGTERM
    assert "--log_dir" in capsys.readouterr().out.splitlines()[-1]
    folder = run_folder(tmp_path / "cut")
    assert load(folder / "checkpoints/last_model.pth")["position"]["step"] > 0
    # Everything but the run's place is remembered.
    assert proceed(folder) == 0
    assert_same_training(run_folder(tmp_path / "whole"), folder)


def test_an_epoch_whose_validation_fails_is_not_trained_again(
    dataset, tmp_path, monkeypatch, capsys
):
    arguments = f"--datapath {dataset} {OPTIONS} --epoch 1 --cache memory"
    assert call(train_script, arguments, f"--savepath {tmp_path / 'whole'}") == 0
    steps, validate, step = [], train_script.validate, Trainer.step

    def fail(*given):
        monkeypatch.setattr(train_script, "validate", validate)
        raise ValueError("mask 7: unreadable")

    monkeypatch.setattr(train_script, "validate", fail)
    monkeypatch.setattr(Trainer, "step", lambda *given: steps.append(given) or step(*given))
    refused(capsys, call(train_script, arguments, f"--savepath {tmp_path / 'cut'}"), "mask 7")
    folder, taken = run_folder(tmp_path / "cut"), len(steps)
    assert proceed(folder) == 0
    assert len(steps) == taken > 0
    assert_same_training(run_folder(tmp_path / "whole"), folder)


@pytest.mark.parametrize("place", ["train.open_data", "test.main"])
def test_sigterm_outside_the_epochs_is_one_line(dataset, tmp_path, monkeypatch, capsys, place):
    """Before the first step, and in the test at the end."""
    monkeypatch.setattr(place, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    arguments = f"--datapath {dataset} --model DeepPro {TRAINING} --savepath {tmp_path} --epoch 1"
    assert call(train_script, arguments) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "stopped by SIGTERM\n"


def test_a_finished_run_says_so_and_keeps_its_weights(dataset, tmp_path, capsys):
    arguments = f"--datapath {dataset} --model DeepPro {TRAINING} --savepath {tmp_path}"
    assert call(train_script, arguments, "--epoch 1") == 0
    folder = run_folder(tmp_path)
    before = load(folder / "checkpoints/last_model.pth")
    capsys.readouterr()
    assert proceed(folder) == 0
    assert "has finished its 1 epochs" in capsys.readouterr().out
    assert same(before, load(folder / "checkpoints/last_model.pth"))


def test_a_test_that_did_not_end_is_done_again(dataset, tmp_path):
    """As an interruption between the last epoch and its test, or within it, leaves a run."""
    arguments = f"--datapath {dataset} --model DeepPro {TRAINING} --savepath {tmp_path}"
    assert call(train_script, arguments, "--epoch 1") == 0
    results = run_folder(tmp_path) / "metrics.json"
    expected = json.loads(results.read_text())["protocols"]
    results.write_text("{}")
    assert proceed(results.parent) == 0 and results.read_text() == "{}"
    report = results.parent / "report.html"
    for lack in (lambda: os.utime(results, (0, 0)), report.unlink):
        results.write_text("{}")
        lack()
        assert proceed(results.parent) == 0
        assert json.loads(results.read_text())["protocols"] == expected and report.is_file()


@pytest.mark.usefixtures("untested")
def test_a_checkpoint_without_optimiser_state_tests_but_is_not_continued(
    dataset,
    tmp_path,
    capsys,
):
    arguments = f"--datapath {dataset} --model DeepPro {TRAINING} --savepath {tmp_path}"
    assert call(train_script, arguments, "--epoch 1") == 0
    run = find_run(tmp_path, run_folder(tmp_path).name)
    for which in ("best", "last"):
        size = run.checkpoint(which).stat().st_size
        strip(run.checkpoint(which))
        assert run.checkpoint(which).stat().st_size < size / 2
    capsys.readouterr()
    refused(capsys, proceed(run.path, "--epoch 2"), "cannot be continued", "optimiser")


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last_model.pth"
    save(path, {"epoch": 0, "model_state_dict": {"w": torch.ones(3)}})

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"last_model.pth: .*No space left"):
        save(path, {"epoch": 1, "model_state_dict": {"w": torch.zeros(3)}})
    assert load(path)["epoch"] == 0
    assert [file.name for file in tmp_path.iterdir()] == ["last_model.pth"]


@pytest.mark.usefixtures("untested")
def test_an_epoch_does_not_go_on_with_other_data(dataset, tmp_path, monkeypatch, capsys):
    data = shutil.copytree(dataset, tmp_path / "NUDT-MIRSDT")
    arguments = f"--datapath {data} --model DeepPro {TRAINING} --savepath {tmp_path}"
    stop_at(2, monkeypatch)
    assert call(train_script, arguments, "--sample_rate 0.3") == 128 + signal.SIGTERM
    capsys.readouterr()
    write_list(data / "train.txt", ["Sequence1", "Sequence2"])
    status = proceed(run_folder(tmp_path))
    refused(capsys, status, "other data: 3 sequences, 60 frames then, 2 sequences, 40 frames now")
    write_list(data / "train.txt", ["Sequence1", "Sequence2", "Sequence3"])
    path = RunDir(run_folder(tmp_path)).checkpoint("last")
    checkpoint = load(path)
    checkpoint["position"]["step"] = 10**6
    save(path, checkpoint)
    refused(capsys, proceed(run_folder(tmp_path)), "after step 1000000", "expected the data")


@pytest.mark.usefixtures("untested")
def test_the_best_checkpoint_is_sought_anew_on_other_data(dataset, tmp_path, capsys):
    arguments = f"--datapath {dataset} --model DeepPro {TRAINING} --savepath {tmp_path}"
    assert call(train_script, arguments, "--epoch 1") == 0
    run = RunDir(run_folder(tmp_path))
    for which in ("last", "best"):
        checkpoint = load(run.checkpoint(which))
        checkpoint["best_iou" if which == "last" else "class_avg_iou"] = 0.839
        save(run.checkpoint(which), checkpoint)
    other = shutil.copytree(dataset, tmp_path / "NUDT-MIRSDT")
    capsys.readouterr()
    assert proceed(run.path, "--epoch 2") == 0
    assert load(run.checkpoint("best"))["epoch"] == 0
    assert proceed(run.path, f"--epoch 3 --datapath {other}") == 0
    assert f"sought anew: --datapath was {dataset.resolve()}" in capsys.readouterr().out
    best = load(run.checkpoint("best"))
    assert best["epoch"] == 2 and best["class_avg_iou"] < 0.839


@pytest.mark.usefixtures("untested")
@pytest.mark.parametrize("damage, words", [(None, "is gone"), (100, "cannot be read")])
def test_a_best_checkpoint_that_is_lost_is_sought_anew(dataset, tmp_path, capsys, damage, words):
    arguments = f"--datapath {dataset} --model DeepPro {TRAINING} --savepath {tmp_path}"
    assert call(train_script, arguments, "--epoch 1") == 0
    run = RunDir(run_folder(tmp_path))
    last = load(run.checkpoint("last"))
    save(run.checkpoint("last"), {**last, "best_iou": 0.839})
    best = run.checkpoint("best")
    best.unlink() if damage is None else best.write_bytes(best.read_bytes()[:damage])
    capsys.readouterr()
    assert proceed(run.path, "--epoch 2") == 0
    assert f"sought anew: best_model.pth {words}" in capsys.readouterr().out
    assert load(best)["epoch"] == 1


@pytest.mark.usefixtures("untested")
def test_a_training_killed_before_its_first_checkpoint_starts_afresh(dataset, tmp_path, capsys):
    run = new_run(tmp_path, "NUDT-MIRSDT__2026-01-02_03-04__HAMloss_DeepPro_DataL8")
    run.log_file("DeepPro").write_text("left behind\n")
    rest = TRAINING.replace("--seqlen 8 ", "")
    assert proceed(run.path, f"--datapath {dataset} --epoch 1 {rest}") == 0
    assert "starting training from scratch" in capsys.readouterr().out
    recorded = load(run.checkpoint("last"))["args"]
    assert (recorded["model"], recorded["loss"], recorded["seqlen"]) == ("DeepPro", "HAM", 8)
    log = run.log_file("DeepPro").read_text()
    assert "left behind" not in log and "**** Epoch 1 (1/1)" in log


@pytest.mark.usefixtures("untested")
def test_what_a_killed_training_left_half_written_is_removed(dataset, tmp_path):
    arguments = f"--datapath {dataset} --model DeepPro {TRAINING} --savepath {tmp_path}"
    assert call(train_script, arguments, "--epoch 1") == 0
    run = RunDir(run_folder(tmp_path))
    left = [
        path.with_name(f".{path.name}.123")
        for path in (run.checkpoint("last"), run.checkpoint("best"), run.history)
    ]
    for path in left:
        path.write_bytes(b"half")
    kept = run.path / ".notes"
    kept.write_text("mine")
    assert proceed(run.path) == 0
    assert not any(path.exists() for path in left) and kept.exists()


def test_a_full_disk_is_said_in_words(tmp_path, monkeypatch):
    """torch says `[enforce fail at inline_container.cc:...]`."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))

    def full(state, file):
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="best_model.pth: .*No space left on device") as error:
        save(tmp_path / "best_model.pth", {})
    assert "enforce" not in str(error.value)


@pytest.mark.usefixtures("untested")
@pytest.mark.skipif(sys.platform == "win32", reason="files are not held there")
def test_a_refused_second_training_leaves_what_the_first_one_is_writing(
    dataset, tmp_path, capsys, monkeypatch
):
    arguments = f"--datapath {dataset} --model DeepPro {TRAINING} --savepath {tmp_path} --epoch 1"
    assert call(train_script, arguments) == 0
    run = RunDir(run_folder(tmp_path))
    half = run.checkpoint("last").with_name(f".last_model.pth.{os.getpid()}")
    half.write_bytes(b"half")
    with monkeypatch.context() as patch:
        patch.setattr("utils.run_dir.hold", lambda _: False)  # as another process holds the log
        refused(capsys, proceed(run.path, "--epoch 2"), "another process is training")
    assert half.is_file()
    assert proceed(run.path, "--epoch 2") == 0 and not half.exists()
