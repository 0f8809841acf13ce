"""Two processes (gloo, on the CPU) against one."""

import json
import os
import signal
import sys

import numpy as np
import pytest
import torch
import torch.distributed.run

import test as test_script
import train as train_script
from data.lists import find_sequences
from data.sequences import open_sequences
from data.specs import get_spec
from losses import build_loss
from models import build_model
from models.fused import fuse
from tests.builders import call
from tests.conftest import REPOSITORY
from tests.processes import run_alone, run_ranks, run_script
from tests.training import two_ranks
from tests.training.runs import TRAINING, evaluate, rows, run_folder
from utils import launcher
from utils.checkpoint import load, load_weights
from utils.command_line import USER_ERROR, run_command
from utils.evaluation import validate
from utils.process import Group, joined_group
from utils.run_dir import RunDir


def test_first_losses_differ_only_by_batchnorm(dataset, tmp_path):
    for ended in run_ranks(tmp_path, two_ranks.main, dataset, tmp_path / "two.json"):
        assert ended.returncode == 0, ended.stderr[-9000:]
    two = json.loads((tmp_path / "two.json").read_text())
    one = two_ranks.first_losses(Group(), dataset)
    # The same running statistics on both sides: the same losses.
    assert two["eval"] == pytest.approx(one["eval"], abs=2e-6)
    # So are a recurrence's, which is unrolled within the module that exchanges gradients.
    assert two["recurrent"] == pytest.approx(one["recurrent"], abs=2e-6)
    # Each rank normalises by its own clips: close, not equal.
    assert two["train"] == pytest.approx(one["train"], abs=0.05)
    assert two["train"] != pytest.approx(one["train"], abs=2e-6)


def test_two_processes_train_and_their_metrics_are_those_of_one(dataset, tmp_path):
    options = "--model DeepPro --epoch 1 --ema 0.9 --learning_rate 0.03"
    place = f"--datapath {dataset} --savepath {tmp_path} {TRAINING} --gpu_num 2"
    for ended in run_ranks(tmp_path, "train", *options.split(), *place.split()):
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr[-9000:]
    folder = run_folder(tmp_path)
    assert len(list((tmp_path / "sem_seg").iterdir())) == 1 and len(rows(folder)) == 1
    assert evaluate(folder, dataset, tmp_path / "one") == 0
    two, one = (json.loads((f / "metrics.json").read_text()) for f in (folder, tmp_path / "one"))
    for key in ("protocols", "iou", "thresholds"):
        assert one[key] == two[key]
    assert (folder / "eval.txt").read_text().count("results:") > 2
    # Validation, too, of the weights that the first process saved.
    model, path = build_model("DeepPro", 8), RunDir(folder).checkpoint(1)
    load_weights(model, load(path), "DeepPro", path)
    spec = get_spec("NUDT-MIRSDT")
    sequences = open_sequences(find_sequences(spec, spec.test, dataset), (spec.mean, spec.std))
    results = validate(model, fuse(model), build_loss("SoftIoU"), sequences, 0.5, "cpu")
    loss = np.mean([loss for losses, _ in results for loss in losses])
    assert loss == pytest.approx(rows(folder)[0]["val_loss"], abs=1e-12)


def test_two_processes_train_a_network_of_which_a_part_gets_no_gradient(dataset, tmp_path):
    options = "--model Res-U+RFR --seqlen 3 --epoch 1 --patch_size 16 --batch_size 2 --gpu cpu"
    place = f"--sample_rate 0.15 --workers 0 --gpu_num 2 --datapath {dataset} --savepath {tmp_path}"
    for ended in run_ranks(tmp_path, "train", *options.split(), *place.split()):
        assert ended.returncode == 0, ended.stderr[-9000:]
    folder = run_folder(tmp_path)
    assert np.isfinite(rows(folder)[0]["train_loss"])
    torch.manual_seed(46)
    started = build_model("Res-U+RFR", 3).state_dict()
    trained = load(RunDir(folder).checkpoint("last"))["model_state_dict"]
    still = {name for name in started if torch.equal(started[name], trained[name])}
    assert {name for name in still if "fusion_align" in name} and len(still) < 10


def test_two_processes_read_the_images_where_no_folder_takes_the_decoded_frames(dataset, tmp_path):
    (tmp_path / "file").touch()
    options = f"--cache auto --cache_dir {tmp_path}/file/frames --model DeepPro --epoch 1"
    place = f"--datapath {dataset} --savepath {tmp_path} {TRAINING} --gpu_num 2"
    for ended in run_ranks(tmp_path, "train", *options.split(), *place.split()):
        assert ended.returncode == 0, ended.stderr[-9000:]
    log = (run_folder(tmp_path) / "logs/DeepPro.txt").read_text()
    assert "Decoded frames: none" in log


def train_until_struck(rank, number, words):
    """`train.py`; the process of this rank sends itself this signal at its third step."""
    step, steps = train_script.Trainer.step, []

    def struck(self, batch):
        steps.append(1)
        if len(steps) == 3 and os.environ["RANK"] == str(rank):
            os.kill(os.getpid(), number)
        return step(self, batch)

    train_script.Trainer.step = struck
    run_script("train", words)


@pytest.mark.parametrize("rank, number", [(1, signal.SIGKILL), (0, signal.SIGTERM)])
def test_the_end_of_one_process_ends_the_other_in_one_line(dataset, tmp_path, rank, number):
    options = f"--datapath {dataset} --savepath {tmp_path} --model DeepPro {TRAINING}"
    ends = run_ranks(tmp_path, train_until_struck, rank, int(number), options.split())
    struck, other = ends[rank], ends[1 - rank]
    if number == signal.SIGTERM:
        assert struck.returncode == 128 + number and struck.stderr == "stopped by SIGTERM\n"
    else:
        assert struck.returncode == -number
    assert other.returncode == 3, other.stderr
    assert other.stderr == "error: another process of this job has ended; see its message\n"


def stumble(rank):
    """Joins the other process and, of this rank, makes an error that nobody foresaw."""

    def command():
        with joined_group("cpu") as group:
            group.barrier()
            if group.rank == rank:
                raise KeyError("unforeseen")
            group.barrier()

    run_command(command)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_that_nobody_foresaw_ends_both_processes_with_its_trace(tmp_path, rank):
    ends = run_ranks(tmp_path, stumble, rank)
    assert ends[rank].returncode == 1
    assert ends[rank].stderr.startswith("Traceback") and "unforeseen" in ends[rank].stderr
    assert ends[1 - rank].returncode == 3 and "another process" in ends[1 - rank].stderr


LOST = "sys.exit(3)"  # what `run_command` does where another process has ended
# What the first and the second process do: (first, second, lines on stderr, status).
ENDINGS = {
    "both do well": ("", "", "", 0),
    "both err": ("err('e')", "err('e')", "error: e\n", 2),
    "the first errs": ("err('e')", LOST, "error: e\n", 2),
    "the second errs": ("wait(); " + LOST, "err('e')", "error: e\n", 2),
    "the second is killed": (
        "wait(); " + LOST,
        "os.kill(os.getpid(), 9)",
        "error: process 2 of 2 was ended by SIGKILL\n",
        137,
    ),
    "the first hangs": ("time.sleep(60)", "err('e')", "error: e\n", 2),
}
PROGRAM = """
import os, sys, time
def err(text): sys.stderr.write(f"error: {{text}}\\n"); sys.exit(2)
def wait(): time.sleep(0.3)
if os.environ["RANK"] == "0":
    {}
else:
    {}
"""


@pytest.mark.parametrize("case", ENDINGS)
def test_the_launcher_tells_in_one_line_what_ended_a_job(tmp_path, monkeypatch, capfd, case):
    first, second, line, status = ENDINGS[case]
    (tmp_path / "program.py").write_text(PROGRAM.format(first or "pass", second or "pass"))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "program.py")])
    monkeypatch.setattr(launcher, "PATIENCE", 0.2)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own
    with pytest.raises(SystemExit) as end:
        launcher.relaunch(2)
    assert (capfd.readouterr().err, end.value.code) == (line, status)


def test_a_batch_that_does_not_split_is_refused(dataset, tmp_path):
    options = f"--datapath {dataset} --savepath {tmp_path} --batch_size 3 --gpu_num 2 --gpu cpu"
    for ended in run_ranks(tmp_path, "train", *options.split()):
        assert ended.returncode == USER_ERROR and ended.stderr.count("\n") == 1
        assert ended.stderr.startswith("error: --batch_size 3 does not split among 2 processes")


@pytest.mark.parametrize("script", [train_script, test_script])
def test_a_script_is_run_again_as_several_processes(script, monkeypatch):
    monkeypatch.setattr(script, "relaunch", lambda count: sys.exit(40 + count))
    assert call(script, "--gpu_num 2") == 42


def test_torchrun_starts_processes_that_find_each_other(tmp_path):
    program = "import sys; from utils.process import joined_group\n"
    program += "with joined_group('cpu') as group: "
    program += "sys.stdout.write(f'{group.gather([group.rank])} {group.size}\\n')"
    (tmp_path / "program.py").write_text(program)
    command = ["--standalone", "--nproc_per_node=2", str(tmp_path / "program.py")]
    ended = run_alone(tmp_path, torchrun, command)
    assert ended.stdout.splitlines() == ["[0, 1] 2"] * 2, ended.stderr[-3000:]


def torchrun(command):
    os.environ.update(PYTHONPATH=str(REPOSITORY), OMP_NUM_THREADS="1")
    torch.distributed.run.main(command)


def test_heldout_selection_takes_no_test_sequence(dataset, tmp_path, capsys):
    options = f"--datapath {dataset} --savepath {tmp_path} --model DeepPro --epoch 1"
    assert call(train_script, options, TRAINING, "--select heldout") == 0
    folder = run_folder(tmp_path)
    assert "The number of test data is: 1 sequences" in (folder / "logs/DeepPro.txt").read_text()
    capsys.readouterr()
    assert evaluate(folder, dataset, tmp_path / "again") == 0
    assert "held-out training sequences" in capsys.readouterr().out
