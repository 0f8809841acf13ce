"""Checkpoints of any structure: taken, or refused in one line; nothing in them is run."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import train as train_script
from models.detector import Detector
from utils.checkpoint import load, load_weights, save
from utils.training.description import describe
from utils.training.schema import check
from utils.training.trainer import MovingAverage
from utils.training_state import TrainingState, random_states

OPTIONS = {"select": "test", "optimizer": "Adam", "batch_size": 2, "seed": 46}
OPTIONS |= {"sample_rate": 0.1, "seqlen": 3, "model": "DeepPro", "dataset": "Synthetic"}
OPTIONS |= {"datapath": "data", "threshold_eval": 0.5, "recipe": "own"}
ROW = dict.fromkeys(("epoch", "learning_rate", "train_loss", "train_iou"), 0.5)
ROW |= {"val_loss": 0.5, "val_iou": 0.5, "best_iou": 0.5}


class Small(Detector):
    def __init__(self, seqlen=3):
        super().__init__(seqlen)
        self.mix = nn.Conv3d(1, 1, 1)
        self.register_buffer("count", torch.tensor(0))


def untrained():
    """A network, its optimiser and averaged weights."""
    model = Small()
    return model, torch.optim.Adam(model.parameters()), MovingAverage(model, 0.9)


def step(model, optimizer, average):
    optimizer.zero_grad()
    model.mix(torch.randn(2, 1, 3, 4, 4)).square().sum().backward()
    optimizer.step()
    average.update(model)


def last_checkpoint():
    parts = untrained()
    step(*parts)
    state = TrainingState(*parts, OPTIONS)
    state.epoch, state.best_iou, state.history = 3, 0.5, [ROW, ROW]
    state.position = {"step": 2, "loss_sum": 0.5, "iou_counts": [1, 2], "random": random_states()}
    state.log_size = 100
    return state.last()


def go_on(checkpoint):
    """What continuing and testing a run do with a checkpoint."""
    told = describe(checkpoint)
    assert told.selected is None or isinstance(told.selected, str)
    parser = train_script.CommandParser()
    parser.add_argument("--model", choices=["DeepPro"])
    parser.add_argument("--seqlen", type=int)
    parser.add_argument("--flips", action="store_true")
    parser.recall(told.args, "run")
    parts = untrained()
    state = TrainingState(*parts, OPTIONS)
    load_weights(parts[0], checkpoint, "Small", "run")
    state.restore(checkpoint, "run")
    assert "\n" not in state.describe_start("run")
    step(*parts)
    return state


def test_what_is_saved_is_gone_on_from(tmp_path):
    checkpoint = last_checkpoint()
    save(tmp_path / "last_model.pth", checkpoint)
    state = go_on(load(tmp_path / "last_model.pth"))
    assert (state.epoch, state.best_iou, state.log_size) == (3, 0.5, 100)
    assert state.history == [ROW, ROW] and state.position["step"] == 2


def quantized(tensor):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


ODD_VALUES = [
    *(None, True, -1, -2, 0, 7, 10**6, 2**80, 10**400, 0.5, -1.5, float("nan"), float("inf")),
    *("", "two", "x" * 200, "a\nb", [], [1, 2], {}, {"a": 1}, {1: 2}, (1,), b"bytes", 1 + 2j),
    *(torch.zeros(()), torch.zeros(2), torch.zeros(0), torch.zeros(2, dtype=torch.int64)),
    *(torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.complex64)),
    *(torch.full((2,), float("nan")), torch.zeros(1).expand(10**12), np.float64(0.5)),
    *(torch.eye(2).to_sparse(), torch.zeros(2, device="meta")),
    quantized(torch.zeros(2)),
    torch.nn.Parameter(torch.ones(2)),
    torch.ones(624, dtype=torch.int64),
]


def places(value, path=()):
    """The paths to all that a structure holds."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list | tuple) and len(value) < 20:
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


def changed(value, path, odd, how):
    """The structure with another value, key or type at a path."""
    if not path:
        return odd
    value = list(value) if isinstance(value, tuple) else copy.copy(value)
    if len(path) > 1:
        value[path[0]] = changed(value[path[0]], path[1:], odd, how)
    elif how == "removed":
        del value[path[0]]
    elif how == "renamed" and isinstance(value, dict):
        value[f"{path[0]}_"] = value.pop(path[0])
    else:
        value[path[0]] = odd
    return value


def test_hundreds_of_odd_structures_are_taken_or_refused_in_one_line(tmp_path):
    rng, path = random.Random(46), tmp_path / "last_model.pth"
    taken = refused = 0
    whole = last_checkpoint()
    short = {key: whole[key] for key in whole if key not in ("random", "position")}  # soon read
    for count in range(400):
        checkpoint = short if count % 8 else whole
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            place = rng.choice(list(places(checkpoint)) if isinstance(checkpoint, dict) else [()])
            how = rng.choice(("replaced", "replaced", "removed", "renamed"))
            checkpoint = changed(checkpoint, place, rng.choice(ODD_VALUES), how)
        torch.save(checkpoint, path)
        try:
            go_on(load(path))
            taken += 1
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 1000, str(error)[:700]
    assert taken > 20 and refused > 200


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("epoch", "two", "its `epoch` is 'two'; expected a whole number"),
        ("epoch", None, "its `epoch` is None"),
        ("args", [1], "its `args` is a list"),
        ("args", {"select": ["test"]}, "its `args` is a dict"),
        ("history", {}, "its `history` is a dict; expected rows"),
        ("random", {"python": 1}, "its `random` is a dict"),
        ("position", {"step": 1}, "its `position` is a dict"),
        ("optimizer_state_dict", {"state": {}}, "expected the state dict of an optimiser"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(key, value, words):
    with pytest.raises(ValueError, match="run.pth: ") as error:
        check(last_checkpoint() | {key: value}, "run.pth")
    assert words in str(error.value)


def test_the_state_of_another_optimiser_or_network_is_refused():
    checkpoint = last_checkpoint()
    other = torch.optim.Adam([torch.ones(1)]).state_dict()
    with pytest.raises(ValueError, match="cannot be continued.*of other parameters"):
        go_on(checkpoint | {"optimizer_state_dict": other})
    for values in checkpoint["optimizer_state_dict"]["state"].values():
        del values["exp_avg"]
    with pytest.raises(ValueError, match="cannot be continued.*of another optimiser"):
        go_on(checkpoint)


@pytest.mark.parametrize("lacking", ["epoch", "optimizer_state_dict", "average"])
def test_a_checkpoint_without_what_a_training_needs_says_what_is_missing(lacking):
    checkpoint = last_checkpoint()
    del checkpoint[lacking]
    with pytest.raises(ValueError, match=f"cannot be continued.*no `{lacking}`"):
        go_on(checkpoint)


def test_a_recorded_option_that_could_not_be_given_is_refused():
    checkpoint = last_checkpoint()
    for name, value in (("model", "DeepPro-Max"), ("seqlen", "two"), ("flips", 3)):
        args = {**OPTIONS, name: value}
        with pytest.raises(ValueError, match=f"run: .*{name}.*{value}"):
            go_on(checkpoint | {"args": args})
