"""Options of a run that is continued: which may change, and from where on they hold."""

import shutil
import signal

import pytest

import train as train_script
from data.specs import get_spec
from tests.builders import call
from tests.training.runs import TRAINING, proceed, refused, run_folder, stop_at
from utils.checkpoint import load
from utils.run_dir import RunDir


@pytest.mark.usefixtures("untested")
@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("--select test", "--select heldout"),
        ("--optimizer Adam", "--optimizer SGD"),
        ("--select heldout", "--seed 7"),
    ],
)
def test_what_a_run_cannot_change_is_refused(dataset, tmp_path, capsys, before, now):
    arguments = f"--datapath {dataset} --model DeepPro {TRAINING} --savepath {tmp_path} --epoch 1"
    assert call(train_script, f"{arguments} {before}") == 0
    status = proceed(run_folder(tmp_path), f"--epoch 2 {now}")
    refused(capsys, status, "cannot go on with", now.split()[1])


@pytest.mark.usefixtures("untested")
def test_a_continued_run_has_the_optimisers_options_that_are_given_now(dataset, tmp_path):
    arguments = f"--datapath {dataset} --model DeepPro {TRAINING} --savepath {tmp_path} --epoch 1"
    assert call(train_script, f"{arguments} --beta2 0.99") == 0
    folder = run_folder(tmp_path)
    for epoch, words, settings in (
        (2, "--seed 46", ((0.9, 0.99), 1e-4)),
        (3, "--decay_rate 0.05", ((0.9, 0.99), 0.05)),
        (4, "--beta2 0.9", ((0.9, 0.9), 0.05)),
    ):
        assert proceed(folder, f"--epoch {epoch} {words}") == 0
        (group,) = load(RunDir(folder).checkpoint("last"))["optimizer_state_dict"]["param_groups"]
        assert (group["betas"], group["weight_decay"]) == settings


@pytest.mark.usefixtures("untested")
@pytest.mark.parametrize(
    "now",
    [
        *("--hard_crops 4", "--flips", "--crops centred", "--patch_size 12", "--loss HPM"),
        *("--empty_clips 2", "--exclude_padding", "--threshold_eval 0.4", "--mean 9 --std 4"),
    ],
)
def test_an_epoch_does_not_go_on_with_other_clips(dataset, tmp_path, monkeypatch, capsys, now):
    arguments = f"--datapath {dataset} --model DeepPro {TRAINING} --savepath {tmp_path}"
    stop_at(2, monkeypatch)
    assert call(train_script, arguments, "--epoch 1") == 128 + signal.SIGTERM
    capsys.readouterr()
    refused(capsys, proceed(run_folder(tmp_path), now), "stopped within an epoch", now.split()[0])


@pytest.mark.usefixtures("untested")
def test_a_run_goes_on_with_the_levels_it_had_and_says_so_or_with_those_given(
    dataset, tmp_path, capsys
):
    arguments = f"--datapath {dataset} --model DeepPro {TRAINING} --savepath {tmp_path} --epoch 1"
    assert call(train_script, f"{arguments} --mean 90 --std 20") == 0
    folder, other = run_folder(tmp_path), tmp_path / "other"
    shutil.copytree(dataset, other)
    said = "Other data, but mean 90 and std 20 as the run had"
    for epoch, words, levels in (
        (2, "--seed 46", (90, 20)),
        (3, "--normalise-as Synthetic", levels_of("Synthetic")),
        (4, "--mean 50 --std 30", (50, 30)),
    ):
        capsys.readouterr()
        assert proceed(folder, f"--epoch {epoch} {words} --datapath {other}") == 0
        kept = load(RunDir(folder).checkpoint("last"))["args"]
        assert (kept["mean"], kept["std"]) == levels
        assert (said in capsys.readouterr().out) == (epoch == 2)
    capsys.readouterr()
    refused(capsys, proceed(folder, "--epoch 5 --mean 60"), "--mean")


def levels_of(name):
    spec = get_spec(name)
    return spec.mean, spec.std
