"""A run that goes on where something was changed meanwhile: data, or its own checkpoints."""

import shutil
import signal

import numpy as np
import pytest

import train as train_script
from data.lists import find_sequences
from data.specs import get_spec
from data.training.facts import facts_of
from tests.builders import call, random_sequence, write_nudt_sequence
from tests.training.runs import TRAINING, proceed, refused, rows, run_folder, stop_at
from utils.checkpoint import load, save
from utils.run_dir import RunDir

pytestmark = pytest.mark.usefixtures("untested")


def train_epochs(data, savepath, epochs):
    """The `RunDir` of a training of so many epochs."""
    arguments = f"--datapath {data} --model DeepPro {TRAINING} --savepath {savepath}"
    assert call(train_script, arguments, f"--epoch {epochs}") == 0
    return RunDir(run_folder(savepath))


def rewrite(root, name, height, width):
    """Writes other images in place of those of a sequence of 20 frames."""
    shutil.rmtree(root / name)
    images, masks = random_sequence(np.random.default_rng(7), 20, height, width)
    write_nudt_sequence(root, name, images, masks)


def test_sequences_are_known_again_by_names_frames_sizes_and_bytes(dataset):
    spec = get_spec("NUDT-MIRSDT")
    (files, *_) = find_sequences(spec, spec.train, dataset)
    folders = (dataset / "Sequence1" / part for part in ("images", "masks"))
    size = sum(path.stat().st_size for folder in folders for path in folder.iterdir())
    assert facts_of(files) == ["Sequence1", 20, 24, 28, size]


@pytest.mark.parametrize("change", ["size", "content", "copy"])
def test_an_epoch_goes_on_with_a_copy_of_the_data_and_with_others_not_unnoticed(
    dataset, tmp_path, monkeypatch, capsys, change
):
    data = shutil.copytree(dataset, tmp_path / "NUDT-MIRSDT")
    arguments = f"--datapath {data} --model DeepPro {TRAINING} --savepath {tmp_path} --epoch 1"
    stop_at(2, monkeypatch)
    assert call(train_script, arguments) == 128 + signal.SIGTERM
    capsys.readouterr()
    folder = run_folder(tmp_path)
    if change == "size":
        rewrite(data, "Sequence2", 26, 28)
        words = "frames of 24x28 in Sequence2 then, frames of 26x28 in Sequence2 now"
        refused(capsys, proceed(folder), "cannot go on with other data", words)
        return
    if change == "content":
        rewrite(data, "Sequence2", 24, 28)
    else:
        data = shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copyfile)
    assert proceed(folder, f"--datapath {data}") == 0
    said = "files of other sizes: 1 of 3 sequences, Sequence2 for one"
    assert capsys.readouterr().out.count(said) == (change == "content")


def test_what_older_checkpoints_say_of_the_data_is_enough(dataset, tmp_path, monkeypatch):
    arguments = f"--datapath {dataset} --model DeepPro {TRAINING} --savepath {tmp_path} --epoch 1"
    stop_at(2, monkeypatch)
    assert call(train_script, arguments) == 128 + signal.SIGTERM
    last = RunDir(run_folder(tmp_path)).checkpoint("last")
    checkpoint = load(last)
    assert all(len(row) == 5 for row in checkpoint["data"])
    save(last, {**checkpoint, "data": [row[:2] for row in checkpoint["data"]]})
    assert proceed(run_folder(tmp_path)) == 0


def test_a_best_checkpoint_that_cannot_be_compared_is_kept_beside_the_new_one(
    dataset, tmp_path, capsys
):
    run = train_epochs(dataset, tmp_path, 1)
    assert {path.name for path in run.checkpoint("best").parent.iterdir()} == {
        *("best_model.pth", "epoch_1_model.pth", "last_model.pth")
    }
    former = run.checkpoint("best").read_bytes()
    other = shutil.copytree(dataset, tmp_path / "NUDT-MIRSDT")
    capsys.readouterr()
    assert proceed(run.path, f"--epoch 2 --datapath {other}") == 0
    kept = run.checkpoint("best_of_epoch_1")
    assert f"of epoch 1, is kept as {kept}" in capsys.readouterr().out
    assert kept.read_bytes() == former and load(run.checkpoint("best"))["epoch"] == 1
    assert proceed(run.path, "--epoch 3") == 0  # on the same data: nothing is left aside
    assert len(list(kept.parent.glob("best_of_*"))) == 1


def test_it_is_kept_too_where_the_first_new_epoch_was_interrupted(dataset, tmp_path, monkeypatch):
    run = train_epochs(dataset, tmp_path, 1)
    former = run.checkpoint("best").read_bytes()
    other = shutil.copytree(dataset, tmp_path / "NUDT-MIRSDT")
    stop_at(2, monkeypatch)
    assert proceed(run.path, f"--epoch 2 --datapath {other}") == 128 + signal.SIGTERM
    assert proceed(run.path) == 0
    assert run.checkpoint("best_of_epoch_1").read_bytes() == former


def test_without_its_last_checkpoint_a_run_goes_on_from_the_best_and_keeps_its_history(
    dataset, tmp_path, capsys
):
    run = train_epochs(dataset, tmp_path, 2)
    before = rows(run.path)
    save(run.checkpoint("best"), {**load(run.checkpoint("best")), "epoch": 0})
    run.checkpoint("last").unlink()
    capsys.readouterr()
    assert proceed(run.path) == 0
    said = "after epoch 1 from its best checkpoint: there is no last_model.pth"
    assert said in capsys.readouterr().out
    after = rows(run.path)
    assert after[0] == before[0] and [row["epoch"] for row in after] == [1, 2]
    assert load(run.checkpoint("last"))["history"][0]["train_loss"] == before[0]["train_loss"]


def test_a_finished_run_says_how_many_epochs_it_has_and_what_to_do_without_the_best(
    dataset, tmp_path, capsys
):
    run = train_epochs(dataset, tmp_path, 2)
    capsys.readouterr()
    assert proceed(run.path, "--epoch 1") == 0
    assert "has finished its 2 epochs" in capsys.readouterr().out
    run.checkpoint("best").unlink()
    words = "best_model.pth: is gone", "--epoch", f"--weights {run.checkpoint(2)}"
    refused(capsys, proceed(run.path), *words)
