"""Trainings that start from given weights: `--weights`."""

import pytest
import torch

import train as train_script
from tests.builders import call
from tests.training.runs import TRAINING, history, proceed, refused, run_folder, train
from utils.checkpoint import load
from utils.run_dir import RunDir


@pytest.mark.usefixtures("untested")
def test_a_training_starts_from_weights_and_goes_on_without_their_file(dataset, tmp_path, run):
    file = tmp_path / "start.pth"
    checkpoint = load(RunDir(run).checkpoint("best"))
    checkpoint["args"] |= {"mean": 90.5, "std": 12}
    torch.save(checkpoint, file)
    start = checkpoint["model_state_dict"]
    folder = train(dataset, tmp_path, "DeepPro", f"--epoch 1 --weights {file} --learning_rate 1e-5")
    again = file.parent / "logs" / ".." / file.name
    (file.parent / "logs").mkdir()
    assert proceed(folder, f"--epoch 1 --weights {again}") == 0
    file.unlink()
    found = load(RunDir(folder).checkpoint("last"))["model_state_dict"]
    weights = [key for key in start if key.endswith("weight")]
    assert all(torch.allclose(found[key], start[key], atol=2e-3) for key in weights)
    told = f"Starting from the weights of {file}, of frames of mean 90.5 and std 12"
    assert told in (folder / "logs/DeepPro.txt").read_text()
    assert proceed(folder, "--epoch 2") == 0
    assert len(history(folder)) == 2


def test_weights_that_do_not_fit_are_refused_before_a_run_folder_is_made(
    dataset, tmp_path, run, capsys
):
    file = RunDir(run).checkpoint("best")
    given = f"--datapath {dataset} --savepath {tmp_path} --gpu cpu {TRAINING} --weights"
    refused(capsys, call(train_script, given, file), "weights of another network", "best_model")
    refused(capsys, call(train_script, given, tmp_path / "none.pth"), "none.pth: no such")
    status = proceed(run, f"--epoch 9 --weights {file}")
    refused(capsys, status, "a run goes on from its own weights")
    assert not (tmp_path / "sem_seg").exists()


@pytest.mark.usefixtures("untested")
def test_a_run_that_has_no_checkpoint_starts_from_weights_when_asked(dataset, tmp_path, capsys):
    arguments = f"--datapath {dataset} --model DeepPro {TRAINING} --savepath {tmp_path} --epoch 1"
    assert call(train_script, arguments) == 0
    folder, file = run_folder(tmp_path), tmp_path / "start.pth"
    RunDir(folder).checkpoint("best").rename(file)
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    status = call(train_script, arguments, f"--log_dir {folder.name} --weights {file}")
    assert status == 0 and f"Starting from the weights of {file}" in capsys.readouterr().out
