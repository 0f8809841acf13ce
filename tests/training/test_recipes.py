"""Each detector's own recipe: what train.py takes of it, says of it, and remembers."""

import numpy as np
import pytest
import torch

import test as test_script
import train as train_script
from losses import build_loss
from models import MODELS
from tests.builders import call
from tests.training.runs import proceed, refused, run_folder
from utils.checkpoint import load, save
from utils.run_dir import RunDir
from utils.training.trainer import OPTIMIZERS, Schedule

TRAINED = [name for name, detector in MODELS.items() if detector.recipe is not None]
OWN = [name for name in TRAINED if MODELS[name].recipe]
# What the data set and the network settle, and what says which network and recipe it is.
ALWAYS = ("model", "recipe", "seqlen")
SMALL = "--patch_size 16 --sample_rate 0.1 --batch_size 2 --workers 0 --gpu cpu"


def options(words=""):
    return vars(train_script.parse_args(words.split()))


def differing(first, second):
    return {name: first[name] for name in first if first[name] != second[name]}


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_not_given_is_as_the_recipe_says_and_otherwise_as_for_deeppro(name):
    own = options(f"--model {name}")
    expected = options("--model DeepPro") | MODELS[name].recipe
    assert {n: own[n] for n in own if n not in ALWAYS} == {
        n: expected[n] for n in expected if n not in ALWAYS
    }
    deeppro = options(f"--model {name} --recipe deeppro")
    assert set(differing(deeppro, options("--model DeepPro"))) <= set(ALWAYS)


def test_dtum_is_trained_as_published():
    args = options("--model Res-UNet+DTUM")
    adam = OPTIMIZERS[args["optimizer"]](
        [torch.zeros(1)], args["learning_rate"], args["decay_rate"], args["beta2"]
    ).defaults
    assert (adam["lr"], adam["betas"], adam["weight_decay"]) == (1e-3, (0.9, 0.99), 0)
    schedule = Schedule(args["learning_rate"], args["lr_decay"], args["step_size"])
    rates = [schedule.rate(epoch) for epoch in range(args["epoch"])]
    assert rates == pytest.approx([1e-3 * 0.5 ** (epoch // 3) for epoch in range(20)])
    assert (args["batch_size"], args["patch_size"], args["flips"]) == (1, 512, False)
    assert (args["seqlen"], args["loss"]) == (5, "SoftIoU-batch")


def test_rfr_is_trained_as_published():
    args = options("--model Res-U+RFR")
    adam = OPTIMIZERS[args["optimizer"]](
        [torch.zeros(1)], args["learning_rate"], args["decay_rate"], args["beta2"]
    ).defaults
    assert (adam["lr"], adam["betas"], adam["weight_decay"]) == (5e-4, (0.9, 0.999), 0)
    schedule = Schedule(args["learning_rate"], args["lr_decay"], args["step_size"])
    rates = [schedule.rate(epoch) for epoch in range(args["epoch"])]
    assert rates == pytest.approx([5e-4 * 0.5 ** (epoch // 5) for epoch in range(20)])
    assert (args["batch_size"], args["patch_size"], args["seqlen"]) == (3, 128, 20)
    assert (args["crops"], args["flips"], args["turns"]) == ("centred", True, True)
    assert args["loss"] == "SoftIoU-frame"


def test_what_is_given_comes_before_the_recipe():
    given = "--model Res-U+RFR --batch_size 5 --no-turns --loss SoftIoU --learning_rate 0.001"
    args = options(given)
    assert (args["batch_size"], args["turns"], args["loss"]) == (5, False, "SoftIoU")
    assert (args["learning_rate"], args["epoch"], args["flips"]) == (1e-3, 20, True)


def test_the_help_shows_the_values_in_use(capsys):
    shown = {}
    for words in ("--model Res-UNet+DTUM", "--model Res-UNet+DTUM --recipe deeppro", ""):
        with pytest.raises(SystemExit):
            train_script.parse_args([*words.split(), "--help"])
        shown[words] = " ".join(capsys.readouterr().out.split())
    own, *others = shown.values()
    assert "decay of the mean square (default: 0.99)" in own and "epochs (default: 20)" in own
    for text in others:
        assert "mean square (default: 0.999)" in text and "epochs (default: 32)" in text


@pytest.mark.parametrize("name", [name for name in MODELS if name not in TRAINED])
def test_a_filter_is_not_trained(name, tmp_path, capsys):
    for words in ("", "--recipe deeppro"):
        status = call(train_script, f"--model {name} --savepath {tmp_path / 'log'} {words}")
        refused(capsys, status, name, "no weights to train", "test.py")
    assert not (tmp_path / "log").exists()


@pytest.fixture
def dtum(dataset, tmp_path, monkeypatch):
    """The folder of a DTUM run of one epoch, validated on a canvas of 32 pixels."""
    monkeypatch.setattr(MODELS["Res-UNet+DTUM"], "pads_to", 32)
    monkeypatch.setattr(test_script, "main", lambda args, group: None)

    def trained(*words):
        place = f"--datapath {dataset} --savepath {tmp_path}"
        assert call(train_script, f"--model Res-UNet+DTUM {place} {SMALL} --epoch 1", *words) == 0
        return run_folder(tmp_path)

    return trained


def test_log_and_checkpoint_say_which_recipe_with_which_values(dtum):
    folder = dtum()
    (line,) = [
        text.split(" - INFO - ")[1]
        for text in (folder / "logs/Res-UNet+DTUM.txt").read_text().splitlines()
        if "Recipe: " in text
    ]
    assert line.startswith("Recipe: that of Res-UNet+DTUM: loss SoftIoU-batch, ")
    assert "beta2 0.99, " in line and "batch_size 2 (there: 1), " in line
    state = load(RunDir(folder).checkpoint("last"))
    assert (state["args"]["recipe"], state["args"]["lr_decay"]) == ("own", 0.5)
    (group,) = state["optimizer_state_dict"]["param_groups"]
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.99), 0)
    assert "__SoftIoU-batchloss_Res-UNet+DTUM_DataL5" in folder.name


def test_a_run_is_continued_by_its_recipe_and_what_it_was_given(dtum, capsys):
    folder = dtum("--lr_decay 0.9")
    assert proceed(folder, "--epoch 2") == 0
    args = load(RunDir(folder).checkpoint("last"))["args"]
    assert (args["recipe"], args["lr_decay"], args["batch_size"]) == ("own", 0.9, 2)
    assert (args["beta2"], args["step_size"], args["epoch"]) == (0.99, 3, 2)
    capsys.readouterr()
    refused(capsys, proceed(folder, "--epoch 3 --recipe deeppro"), "--recipe own", "deeppro")


def test_a_run_of_before_there_were_recipes_goes_on_by_deeppros(dtum, capsys):
    folder = dtum("--recipe deeppro")
    path = RunDir(folder).checkpoint("last")
    state = load(path)
    for name in ("recipe", "beta2", "crops", "turns"):
        del state["args"][name]
    save(path, state)
    capsys.readouterr()
    refused(capsys, proceed(folder, "--epoch 2 --recipe own"), "--recipe deeppro", "own")
    assert proceed(folder, "--epoch 2") == 0
    args = load(path)["args"]
    assert (args["recipe"], args["beta2"], args["crops"]) == ("deeppro", 0.999, "near")
    assert (args["loss"], args["lr_decay"], args["turns"]) == ("SoftIoU", 0.7, False)


@pytest.mark.parametrize("name", ["SoftIoU-batch", "SoftIoU-frame"])
def test_smoothed_losses_are_what_their_equation_says(name):
    logits = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    mask = (torch.rand(3, 4, 5, 6) < 0.1).to(torch.uint8)
    frames = [slice(None)] if name == "SoftIoU-batch" else [[frame] for frame in range(4)]
    expected = []
    for frame in frames:
        scores, truth = 1 / (1 + np.exp(-logits[:, frame].numpy())), mask[:, frame].numpy()
        hit = (scores * truth).sum()
        expected.append(1 - (hit + 1) / (scores.sum() + truth.sum() - hit + 1))
    assert build_loss(name)(logits, mask).item() == pytest.approx(np.mean(expected), abs=1e-6)


@pytest.mark.parametrize("name", ["SoftIoU-batch", "SoftIoU-frame"])
def test_smoothed_losses_learn_from_a_batch_without_target(name):
    logits = torch.zeros(2, 3, 4, 5, requires_grad=True)
    build_loss(name)(logits, torch.zeros(2, 3, 4, 5)).backward()
    assert (logits.grad > 0).all()


def test_the_batch_loss_is_that_of_the_golden_gradients(shared):
    golden = np.load(shared / "golden/baselines/resunet_dtum.npz")
    model = MODELS["Res-UNet+DTUM"]()
    path = shared / "released/dtum/ResUNet_DTUM_para.pth"
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    with torch.inference_mode():
        logits = model.eval()(torch.from_numpy(golden["input"][:, :, :5]))
    mask = torch.from_numpy(golden["grad_target"]).view_as(logits)
    loss = build_loss("SoftIoU-batch")(logits, mask)
    assert loss.item() == pytest.approx(float(golden["grad_loss"]), abs=1e-6)


def test_a_decay_of_one_is_refused(capsys):
    for name in ("ema", "beta2"):
        refused(capsys, call(train_script, f"--{name} 1"), f"--{name}", "below 1")
