"""Several runs in one test, and several processes that share one."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

import test as test_script
from models import build_model
from tests.builders import call, random_sequence, write_list, write_nudt_sequence
from tests.conftest import REPOSITORY
from tests.processes import run_ranks, run_script
from utils import command_line
from utils.checkpoint import save
from utils.command_line import LOST_PROCESS, USER_ERROR

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
NAMES = ("Sequence47", "Sequence85", "Sequence92")


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Two runs of untrained networks for clips of 8 frames."""
    log = tmp_path_factory.mktemp("log")
    for name in ("DeepPro", "DeepPro-Plus"):
        checkpoints = log / "sem_seg" / f"x__SoftLoUloss_{name}_DataL8" / "checkpoints"
        checkpoints.mkdir(parents=True)
        state = {"epoch": 0, "model_state_dict": build_model(name, 8).state_dict()}
        save(checkpoints / "best_model.pth", state)
    return log


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three short test sequences."""
    root, rng = tmp_path_factory.mktemp("data") / "NUDT-MIRSDT", np.random.default_rng(46)
    for name, size in zip(NAMES, ((19, 8, 10), (7, 12, 14), (30, 9, 9)), strict=True):
        write_nudt_sequence(root, name, *random_sequence(rng, *size))
    return root


def words(log, root, output, *runs):
    runs = runs or ("x__SoftLoUloss_DeepPro_DataL8",)
    place = f"--logpath {log} --datapath {root} --gpu cpu --threshold_eval 0.4 --visual"
    return f"--log_dir {' '.join(runs)} {place} --output {output}".split()


def written(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_several_runs_end_with_their_joint_table(log, root, tmp_path, capsys):
    write_list(root / "test.txt", NAMES)
    runs = [f"x__SoftLoUloss_{name}_DataL8" for name in ("DeepPro", "DeepPro-Plus")]
    assert call(test_script, *words(log, root, tmp_path / "both", *runs)) == 0
    table = capsys.readouterr().out.split("written to")[-1]
    assert "DeepPro" in table and "DeepPro-Plus" in table
    for run in runs:
        assert call(test_script, *words(log, root, tmp_path / run, run)) == 0
        together, alone = written(tmp_path / "both" / run), written(tmp_path / run)
        assert together["protocols"] == alone["protocols"] and together["iou"] == alone["iou"]


def test_runs_that_would_write_to_one_folder_are_refused(log, root, tmp_path, capsys):
    run = "x__SoftLoUloss_DeepPro_DataL8"
    assert call(test_script, *words(log, root, tmp_path / "twice", run, run)) == 2
    assert "two runs would write to one folder" in capsys.readouterr().err
    assert not (tmp_path / "twice").exists()


def torchrun(*arguments, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.Popen(
        [*command, "test.py", *arguments],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def our_lines(errors):
    return [line for line in errors.splitlines() if line.startswith(("error: ", "stopped by"))]


def run_under_torchrun(arguments, first_tells):
    """`test.py` as torchrun starts it, which ends others within `first_tells` seconds."""
    os.environ[command_line.TORCHRUN] = "1"
    command_line.FIRST_TELLS = first_tells
    run_script("test", arguments)


def run_second_first(arguments, waiting):
    """As `run_under_torchrun`; the first process ends once the second waits for it to tell."""
    tell, sleep = command_line.let_others_tell, time.sleep

    def tell_later(status):
        while not waiting.exists():
            sleep(0.01)
        return tell(status)

    def wait(seconds):
        waiting.touch()
        sleep(seconds)

    if os.environ["RANK"] == "0":
        command_line.let_others_tell = tell_later
    else:
        command_line.time = SimpleNamespace(sleep=wait)
    run_under_torchrun(arguments, 100)


def test_an_error_of_all_processes_is_told_once(log, tmp_path):
    command = words(log, tmp_path / "absent", tmp_path / "out")
    given = command, tmp_path / "waiting"
    first, second = run_ranks(tmp_path, run_second_first, *given, ends_others=True)
    (line,) = first.stderr.splitlines()
    assert first.returncode == USER_ERROR and "absent: no such folder" in line
    assert second.returncode != 0 and second.stderr == ""


def test_an_error_of_the_second_process_alone_is_told(log, root, tmp_path):
    write_list(root / "test.txt", [NAMES[0], "Sequence200"])
    frames = np.zeros((9, 8, 10), np.uint8)
    write_nudt_sequence(root, "Sequence200", frames, frames)
    (root / "Sequence200/images/00004.png").write_bytes(b"no image")
    command = words(log, root, tmp_path / "out")
    first, second = run_ranks(tmp_path, run_under_torchrun, command, 0.3)
    assert first.returncode == LOST_PROCESS and second.returncode == USER_ERROR
    (line,) = our_lines(second.stderr)
    assert "00004.png: cannot be read as an image" in line
    said = (tmp_path / "out/unfinished.txt").read_text()
    assert f"Finished: {NAMES[0]}\nMissing: Sequence200\n" in said
    assert (tmp_path / f"out/visual/{NAMES[0]}.gif").is_file()
    assert not (tmp_path / "out/metrics.json").exists()


def test_of_several_runs_none_is_tested_where_one_cannot_be(log, root, tmp_path, capsys):
    write_list(root / "test.txt", NAMES[:1])
    broken = log / "sem_seg" / "broken_DeepPro_DataL8" / "checkpoints"
    broken.mkdir(parents=True, exist_ok=True)
    (broken / "best_model.pth").write_bytes(b"no checkpoint")
    runs = "x__SoftLoUloss_DeepPro_DataL8", "broken_DeepPro_DataL8"
    assert call(test_script, *words(log, root, tmp_path / "out", *runs)) == 2
    assert "broken_DeepPro_DataL8" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", (2, 3))
def test_two_processes_count_and_write_what_one_does(log, root, tmp_path, count):
    write_list(root / "test.txt", NAMES[:count])
    for ended in run_ranks(tmp_path, "test", *words(log, root, tmp_path / "two")):
        assert ended.returncode == 0, ended.stderr[-5000:]
    assert call(test_script, *words(log, root, tmp_path / "one")) == 0
    two, one = written(tmp_path / "two"), written(tmp_path / "one")
    del two["timing"], one["timing"]
    assert two == one and list(one["protocols"]["hit1_guard4"]["sequences"]) == list(NAMES[:count])
    names = [
        sorted(str(path.relative_to(folder)) for path in folder.glob("**/*"))
        for folder in (tmp_path / "two", tmp_path / "one")
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize("name", ["STDMANet", "Res-U+RFR"])
def test_two_processes_count_what_one_does_for_last_frames_and_recurrences(root, tmp_path, name):
    write_list(root / "test.txt", NAMES)
    save(tmp_path / "weights.pth", build_model(name).state_dict())
    options = f"--model {name} --weights {tmp_path / 'weights.pth'} --datapath {root} --gpu cpu"
    options += " --no-overlay --protocol roc3d --output"
    for ended in run_ranks(tmp_path, "test", *f"{options} {tmp_path / 'two'}".split()):
        assert ended.returncode == 0, ended.stderr[-5000:]
    assert call(test_script, options, str(tmp_path / "one")) == 0
    two, one = written(tmp_path / "two"), written(tmp_path / "one")
    assert two["protocols"] == one["protocols"] and two["iou"] == one["iou"]
    # Untrained, they score near 0.5: counted every hundredth.
    assert len(set(one["protocols"]["roc3d"]["subsets"]["all"]["background_alarms"])) > 3


def children_of(process):
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(process)], capture_output=True, text=True
    ).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "test.py" in line]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes with ps")
def test_when_one_process_is_killed_the_other_ends_with_one_line(log, root, tmp_path):
    name, frames = "Sequence101", np.zeros((2000, 24, 24), np.uint8)
    if not (root / name).exists():
        write_nudt_sequence(root, name, frames[:300], frames[:300], centroids=False)
    write_list(root / "test.txt", [NAMES[0], name])
    process = torchrun(*words(log, root, tmp_path / "out"))
    deadline = time.monotonic() + 100
    # The rank of the short sequence is done with it and waits for the other one.
    while not (tmp_path / "out/visual/Sequence47").is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    ranks = children_of(process.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=200)
    assert process.returncode != 0
    assert len(our_lines(errors)) == 1, errors[-5000:]
    assert not (tmp_path / "out/metrics.json").exists()
