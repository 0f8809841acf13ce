"""Several data sets in one training: each keeps its own mean and std, rate, and clips."""

import numpy as np
import pytest
import torch

import train as train_script
from data.cache.build import Frames
from data.clips import ClipOptions, TrainClips
from data.training.mixing import MixedClips, seed_of_set
from tests.builders import call, random_sequence, write_list, write_nudt_sequence
from tests.training.runs import TRAINING, proceed, refused, rows, run_folder
from utils.checkpoint import load


def one_set(rng, frames, mean, rate, seed, target=True):
    images = rng.integers(50, 200, (frames, 12, 12), dtype=np.uint8)
    masks = np.zeros_like(images)
    masks[:, 5, 5] = target
    held = Frames([range(frames)], None, "memory", [(images, masks)])
    return TrainClips([range(frames)], mean, 20.0, ClipOptions(10, 6, rate, seed), None, held)


def test_an_epoch_has_each_clip_of_each_set_once_in_an_order_of_its_own(rng):
    sets = [one_set(rng, 30, 100.0, 1.0, 3), one_set(rng, 20, 50.0, 0.5, 4)]
    mixed = MixedClips(sets, 3)
    orders = []
    for epoch in range(3):
        mixed.set_epoch(epoch)
        places = list(mixed.places)
        expected = [(which, i) for which, clips in enumerate(sets) for i in range(len(clips))]
        assert sorted(places) == expected and len(mixed) == len(expected)
        for index, (which, item) in enumerate(places):
            assert all(map(torch.equal, mixed[index], sets[which][item]))
        orders.append(places)
    assert orders[0] != orders[1] != orders[2]
    mixed.set_epoch(1)
    assert mixed.places == orders[1]


def test_sets_draw_apart_and_the_first_as_it_does_alone():
    assert seed_of_set(46, 0) == 46
    assert len({seed_of_set(46, index) for index in range(5)}) == 5


def test_one_of_several_sets_may_be_without_targets(rng):

    with_targets = one_set(rng, 20, 100.0, 1.0, 3)
    without = one_set(rng, 20, 100.0, 1.0, 4, target=False)
    for clips in (with_targets, without):
        clips.check_levels = lambda: None
    MixedClips([with_targets, without], 3).check()
    with pytest.raises(ValueError, match="no target in any mask"):
        MixedClips([without, without], 3).check()


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory):
    """A set like NUDT-MIRSDT and a noise version of it, which has other levels."""
    root, rng = tmp_path_factory.mktemp("mixed"), np.random.default_rng(5)
    for name in ("A", "B"):
        for sequence, frames in (("Sequence1", 20), ("Sequence47", 12)):
            images, masks = random_sequence(rng, frames, 24, 26)
            write_nudt_sequence(root / name, sequence, images, masks)
        write_list(root / name / "train.txt", ["Sequence1"])
        write_list(root / name / "test.txt", ["Sequence47"])
    return root


def arguments(two_sets, savepath):
    return (
        f"--model DeepPro --dataset NUDT-MIRSDT Synthetic --datapath {two_sets}/A {two_sets}/B "
        f"--savepath {savepath} {TRAINING} --sample_rate 0.5 0.25 --cache memory "
        "--augment dark=0.5,stride=2,jitter=0.5,noise=0.2 --epoch"
    )


def test_a_mixed_training_stops_and_goes_on_as_if_it_had_not(two_sets, tmp_path, monkeypatch):
    tested = []
    monkeypatch.setattr("test.main", lambda args, group: tested.append(args))
    assert call(train_script, arguments(two_sets, tmp_path / "whole"), "2") == 0
    assert call(train_script, arguments(two_sets, tmp_path / "cut"), "1") == 0
    folder = run_folder(tmp_path / "cut")
    assert proceed(folder, "--epoch 2") == 0
    whole = run_folder(tmp_path / "whole")
    assert rows(whole) == rows(folder)
    states = [load(run / "checkpoints/last_model.pth") for run in (whole, folder)]
    weights = [state["model_state_dict"] for state in states]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert states[1]["args"]["dataset"] == ["NUDT-MIRSDT", "Synthetic"]
    assert [name for name, *_ in states[1]["data"]] == ["Sequence1", "Sequence1"]
    assert {(args.dataset, args.datapath) for args in tested} == {("NUDT-MIRSDT", f"{two_sets}/A")}
    log = (whole / "logs/DeepPro.txt").read_text()
    assert "The number of test data is: 2 sequences" in log


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--datapath A", "--datapath A: 1 for NUDT-MIRSDT Synthetic; expected one for each"),
        ("--sample_rate 0.1 0.2 0.3", "--sample_rate 0.1 0.2 0.3: 3 for"),
        ("--dataset NUDT-MIRSDT COCO", "unknown data set 'COCO'"),
        ("--augment dark=2", "--augment dark=2: expected a number from 0 to 1"),
    ],
)
def test_what_does_not_go_together_is_one_line(options, words, capsys):
    refused(capsys, call(train_script, "--dataset NUDT-MIRSDT Synthetic", options), words)


def test_a_run_of_one_set_goes_on_with_several_each_with_its_own_mean_and_std(
    two_sets, tmp_path, monkeypatch
):
    monkeypatch.setattr("test.main", lambda args, group: None)
    given = f"--model DeepPro --datapath {two_sets}/A --mean 90 --std 20 --savepath {tmp_path}"
    assert call(train_script, given, TRAINING, "--sample_rate 0.5 --epoch 1") == 0
    folder = run_folder(tmp_path)
    sets = f"--dataset NUDT-MIRSDT Synthetic --datapath {two_sets}/A {two_sets}/B"
    assert proceed(folder, "--epoch 2 --sample_rate 0.5 0.25", sets) == 0
    kept = load(folder / "checkpoints/last_model.pth")["args"]
    assert kept["mean"] is kept["std"] is None and len(rows(folder)) == 2


def test_what_is_given_for_several_sets_is_refused_in_a_run_that_goes_on_too(
    two_sets, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("test.main", lambda args, group: None)
    assert call(train_script, arguments(two_sets, tmp_path), "1") == 0
    status = proceed(run_folder(tmp_path), "--epoch 2 --mean 90 --std 20")
    refused(capsys, status, "--mean, --std, --normalise-as with several data sets")
