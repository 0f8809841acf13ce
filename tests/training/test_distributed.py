"""Two processes (gloo, on the CPU) against one."""

import json
import os
import subprocess
import sys

import pytest

import train as train_script
from data.frames import find_sequences
from data.sequences import LabelledSequences
from data.specs import get_spec
from losses import build_loss
from models.fused import fuse
from test import load_run
from tests import two_ranks
from tests.conftest import REPOSITORY
from tests.test_resume import rows, run_folder
from tests.test_scripts import TRAINING, call, dataset, evaluate, refused  # noqa: F401
from utils.evaluation import evaluate_windows
from utils.process import Group
from utils.run_dir import find_run

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, "--nproc_per_node=2", *map(str, arguments)],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_first_losses_differ_only_by_batchnorm(dataset, tmp_path):  # noqa: F811
    ended = torchrun(REPOSITORY / "tests/two_ranks.py", dataset, tmp_path / "two.json")
    assert ended.returncode == 0, ended.stderr[-9000:]
    two = json.loads((tmp_path / "two.json").read_text())
    one = two_ranks.first_losses(Group(), dataset)
    # The same running statistics on both sides: the same losses.
    assert two["eval"] == pytest.approx(one["eval"], abs=2e-6)
    # Each rank normalises by its own clips: close, not equal.
    assert two["train"] == pytest.approx(one["train"], abs=0.05)
    assert two["train"] != pytest.approx(one["train"], abs=2e-6)


def test_two_processes_train_and_their_metrics_are_those_of_one(dataset, tmp_path):  # noqa: F811
    command = [sys.executable, "train.py", "--model", "DeepPro", "--epoch", "1", "--ema", "0.9"]
    command += ["--learning_rate", "0.03"]
    options = f"--datapath {dataset} --savepath {tmp_path} {TRAINING} --gpu_num 2"
    ended = subprocess.run(
        [*command, *options.split()],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr[-9000:]
    folder = run_folder(tmp_path)
    assert len(list((tmp_path / "sem_seg").iterdir())) == 1 and len(rows(folder)) == 1
    assert evaluate(folder, dataset, tmp_path / "one") == 0
    two, one = (json.loads((f / "metrics.json").read_text()) for f in (folder, tmp_path / "one"))
    for key in ("protocols", "iou", "thresholds"):
        assert one[key] == two[key]
    assert (folder / "eval.txt").read_text().count("results:") > 2
    # Validation, too, of the weights that the first process saved.
    _, model = load_run(find_run(tmp_path, folder.name), 1, 8)
    spec = get_spec("NUDT-MIRSDT")
    files = find_sequences(spec, spec.test, dataset)
    sequences = LabelledSequences(files, spec.mean, spec.std, 8)
    loss, _ = evaluate_windows(fuse(model), build_loss("SoftIoU"), sequences, 0.5, "cpu")
    assert loss == pytest.approx(rows(folder)[0]["val_loss"], abs=1e-12)


def test_a_rank_that_fails_ends_the_job_with_its_error(dataset, tmp_path):  # noqa: F811
    options = f"--datapath {dataset} --savepath {tmp_path} --model DeepPro --batch_size 3"
    ended = torchrun("train.py", *options.split(), "--gpu", "cpu", "--seqlen", "8")
    assert ended.returncode != 0
    assert "--batch_size 3 does not split among 2 processes" in ended.stderr


def test_heldout_selection_takes_no_test_sequence(dataset, tmp_path, capsys):  # noqa: F811
    options = f"--datapath {dataset} --savepath {tmp_path} --model DeepPro --epoch 1"
    assert call(train_script, options, TRAINING, "--select heldout") == 0
    folder = run_folder(tmp_path)
    assert "The number of test data is: 1 sequences" in (folder / "logs/DeepPro.txt").read_text()
    capsys.readouterr()
    assert evaluate(folder, dataset, tmp_path / "again") == 0
    assert "held-out training sequences" in capsys.readouterr().out
