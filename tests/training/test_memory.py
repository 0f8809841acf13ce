"""What a training step takes of the memory."""

import pytest
import torch

import train as train_script
from models import build_model
from models.engine.training.network import FastTraining
from tests.builders import call
from tests.training.runs import TRAINING, refused
from utils.memory import kept_bytes, memory_left
from utils.scan import ClipNetwork
from utils.training import memory
from utils.training.memory import memory_line, step_bytes

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["DeepPro", "DeepPro-Plus", "Res-U+RFR"])
def test_what_a_step_keeps_is_foretold_from_a_small_clip(name):
    seqlen, batch, side = 6, 2, 64
    detector = build_model(name, seqlen).train()
    network = FastTraining(detector)
    whole, clip = ClipNetwork(network, detector), torch.randn(batch, 1, seqlen, side, side)
    kept = kept_bytes(lambda: torch.sigmoid(whole(clip)), detector.parameters())
    assert step_bytes(detector, network, batch, side) == pytest.approx(kept, rel=0.1)


def test_what_is_kept_for_the_way_back_is_counted_once():
    weight, x = torch.randn(10, 10, requires_grad=True), torch.randn(10, 10)
    # The gradient of the weight takes x; a square's takes what was squared; both products keep x.
    assert kept_bytes(lambda: (weight @ x).square() + weight @ x) == 2 * 400
    assert kept_bytes(lambda: (weight @ x).square(), known=[x]) == 400
    assert kept_bytes(lambda: weight.detach() @ x) == 0


def test_foretelling_changes_neither_network_nor_random_numbers():
    detector = build_model("DeepPro", 5).train()
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    step_bytes(detector, FastTraining(detector), 1, 16)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())


def test_the_system_tells_how_much_memory_is_left():
    left = memory_left(CPU)
    assert left is None or 1e6 < left < 1e15


def test_memory_is_told_in_words_and_too_little_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "memory_left", lambda device: 20e9)
    line = memory_line(7.8e9, CPU, (4, 40, 128, 128))
    assert line == "Memory of a training step: about 13 GB, 20 GB are free"
    with pytest.raises(ValueError, match="4 x 40 x 300 x 300 pixels keeps 43 GB.*20 GB.*--batch"):
        memory_line(43e9, CPU, (4, 40, 300, 300))
    monkeypatch.setattr(memory, "memory_left", lambda device: None)
    assert memory_line(7.8e9, CPU, ()) == "Memory of a training step: about 13 GB"


def test_a_step_that_does_not_fit_is_refused_before_a_run_folder_is_made(
    dataset, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(memory, "memory_left", lambda device: 1e6)
    arguments = f"--datapath {dataset} --model DeepPro {TRAINING} --savepath {tmp_path / 'log'}"
    status = call(train_script, arguments)
    refused(capsys, status, "2 x 8 x 16 x 16", "--batch_size or --patch_size")
    assert not (tmp_path / "log").exists()
