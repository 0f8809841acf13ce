"""Which weights of a file are taken: one set of several, or the average of a training."""

import json
import warnings
from types import SimpleNamespace

import pytest
import torch

import train as train_script
from models import build_model
from tests.builders import call_test
from utils.checkpoint import load, load_averaged, main, save
from utils.command_line import run_command


def state_of(**extra):
    return {"epoch": 3, "model_state_dict": build_model("DeepPro", 6).state_dict(), **extra}


def weights_of(state):
    return state["model_state_dict"]


def layer():
    return torch.nn.Linear(3, 2).state_dict()


def others_than(weights):
    return {key: value + 1 for key, value in weights.items()}


def loaded(tmp_path, content, read=load):
    """(the checkpoint, what was said) of a file with this content."""
    torch.save(content, tmp_path / "x.pth")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        checkpoint = read(tmp_path / "x.pth")
    return checkpoint, [str(warning.message) for warning in said]


@pytest.mark.parametrize("key", ["ema_state_dict", "model_ema"])
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_other_weights_beside_those_that_are_taken_are_told(tmp_path, key, wrapper):
    weights = layer()
    other = {wrapper + name: value for name, value in others_than(weights).items()}
    checkpoint, (line,) = loaded(tmp_path, {key: other, "state_dict": weights})
    assert torch.equal(weights_of(checkpoint)["weight"], weights["weight"])
    assert f"the weights under `state_dict` are taken; those under '{key}' are others" in line


def test_weights_twice_or_of_another_part_are_not_remarked_on(tmp_path):
    weights = layer()
    wrapped = {"module." + name: value for name, value in weights.items()}
    critic = {"critic.weight": torch.ones(3)}
    content = {"state_dict": weights, "model": wrapped, "ema": weights, "critic": critic}
    assert loaded(tmp_path, content)[1] == []


@pytest.mark.parametrize("keys", [("state_dict", "model"), ("net", "model_state_dict")])
def test_two_sets_of_weights_of_which_nothing_tells_the_right_one_are_refused(tmp_path, keys):
    weights = layer()
    torch.save(dict(zip(keys, (weights, others_than(weights)), strict=True)), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x.pth: different weights under `\w+` and `\w+`"):
        load(tmp_path / "x.pth")


def averaging():
    """The last checkpoint of a training with --ema, and its best one."""
    torch.manual_seed(1)
    best = state_of(args={"model": "DeepPro", "seqlen": 6, "ema": 0.9})
    last = {**best, **state_of(), "position": None, "best_iou": 0.5}
    last["optimizer_state_dict"] = {"state": {}, "param_groups": [{"params": []}]}
    last["average"] = {"weights": weights_of(best), "steps": 9}
    return last, best


def test_of_a_training_that_averages_the_average_is_taken_and_said(tmp_path):
    last, best = averaging()
    checkpoint, said = loaded(tmp_path, last)  # to go on from
    assert said == [] and "average" in checkpoint
    assert all(torch.equal(weights_of(checkpoint)[k], v) for k, v in weights_of(last).items())
    checkpoint, (line,) = loaded(tmp_path, last, load_averaged)
    assert line.startswith(f"{tmp_path / 'x.pth'}: holds the weights of the last step and their")
    assert all(torch.equal(weights_of(checkpoint)[k], v) for k, v in weights_of(best).items())
    assert loaded(tmp_path, best, load_averaged)[1] == []


def test_the_last_checkpoint_of_an_averaging_training_tests_as_its_average_does(
    dataset, tmp_path, recwarn
):
    counts = []
    for name, state in zip(("last", "best"), averaging(), strict=True):
        save(tmp_path / f"{name}.pth", state)
        words = f"--datapath {dataset} --weights {tmp_path / name}.pth --output {tmp_path / name}"
        call_test(f"--model DeepPro --no-overlay {words}")
        counts.append(json.loads((tmp_path / name / "metrics.json").read_text())["protocols"])
    assert [str(each.message).count("average is taken") for each in recwarn] == [1]
    assert counts[0] == counts[1]


def test_a_training_that_starts_from_the_last_checkpoint_starts_from_the_average(tmp_path):
    last, best = averaging()
    save(tmp_path / "last.pth", last)
    options = {"model": "DeepPro", "seqlen": 6, "weights": tmp_path / "last.pth", "log_dir": None}
    with pytest.warns(UserWarning, match="the average is taken"):
        detector, _ = train_script.build_detector(SimpleNamespace(**options))
    assert torch.equal(detector.final.weight, weights_of(best)["final.weight"])


def test_stripping_says_what_it_does_and_keeps_what_a_test_takes(tmp_path, capsys, recwarn):
    last, best = averaging()
    save(tmp_path / "last.pth", last)
    run_command(lambda: main([str(tmp_path / "last.pth")]))
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path / 'last.pth'}: ") and out.count("\n") == 1
    assert "kept epoch, model_state_dict, args; removed" in out and "average" in out
    assert "its training cannot go on" in out and len(recwarn) == 1
    stripped = load(tmp_path / "last.pth")
    assert stripped.keys() == {"epoch", "model_state_dict", "args"}
    assert all(torch.equal(weights_of(stripped)[k], v) for k, v in weights_of(best).items())
    before = (tmp_path / "last.pth").stat().st_mtime_ns
    run_command(lambda: main([str(tmp_path / "last.pth")]))
    assert "unchanged, there is nothing to remove" in capsys.readouterr().out
    assert (tmp_path / "last.pth").stat().st_mtime_ns == before
