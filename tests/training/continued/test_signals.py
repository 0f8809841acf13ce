"""What ends a training whose clips are read by processes of their own, and that none is left."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train as train_script
from tests.processes import run_alone, run_script
from tests.training.runs import TRAINING, run_folder
from utils.checkpoint import load

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are listed in /proc")
STEP = 3  # at which it ends


def train_to_its_end(folder, how, start, words):
    """`train.py` in a group of processes of its own, which ends `how` at its third step.

    A number: of a signal that all the group gets; "killed": this process alone; "error": one in
    the step. `start` is how Python starts the processes that read.
    """
    os.setsid()
    how = how if isinstance(how, str) else int(how)
    multiprocessing.set_start_method(start, force=True)
    (folder / "group").write_text(str(os.getpid()))
    step, steps = train_script.Trainer.step, []

    def struck(self, batch):
        steps.append(1)
        if len(steps) == STEP and how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if len(steps) == STEP and how == "error":
            raise FloatingPointError("no number")
        if len(steps) == STEP:
            # By another process: what comes from their parent readers follow.
            words = ["kill", f"-{how}", "--", f"-{os.getpid()}"]
            subprocess.run(words, start_new_session=True, check=True)
            time.sleep(0.5)  # the death of a reader would be noticed by now
        return step(self, batch)

    train_script.Trainer.step = struck
    run_script("train", words)


def running(group):
    """Processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number, *_ = path.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(number) == group and state not in "ZX":
            found.append(path.parent.name)
    return found


@pytest.mark.parametrize(
    "how, start, status",
    [
        (signal.SIGTERM, "fork", 143),
        (signal.SIGINT, "fork", 130),
        ("error", "fork", 2),
        ("killed", "fork", -signal.SIGKILL),
    ],
)
def test_a_signal_to_all_saves_the_step_and_no_reading_process_outlives_a_training(
    dataset, tmp_path, how, start, status
):
    words = f"--datapath {dataset} --savepath {tmp_path} --model DeepPro {TRAINING}"
    words = words.replace("--workers 0", "--workers 2") + " --cache none --epoch 1"
    ended = run_alone(tmp_path, train_to_its_end, tmp_path, how, start, words.split())
    assert ended.returncode == status, ended.stderr
    group, until = int((tmp_path / "group").read_text()), time.monotonic() + 20
    while running(group) and time.monotonic() < until:
        time.sleep(0.1)
    assert not running(group)
    if how in (signal.SIGTERM, signal.SIGINT):
        assert ended.stderr == "" and "continue with" in ended.stdout.splitlines()[-1]
        assert load(run_folder(tmp_path) / "checkpoints/last_model.pth")["position"]["step"] == STEP
