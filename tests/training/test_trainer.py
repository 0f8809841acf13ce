"""A step of training: which pixels the loss is of, for a detector of any kind."""

import pytest
import torch
from torch import nn

from losses import build_loss
from losses.options import WithoutPadding
from models.detector import Detector
from utils.process import Group
from utils.training.compiled import compiled
from utils.training.trainer import MovingAverage, Trainer, TrainerOptions


class Affine(Detector):
    """a x + b of every frame."""

    def __init__(self, seqlen=5):
        super().__init__(seqlen)
        self.mix = nn.Conv3d(1, 1, 1)

    def detect(self, clip):
        return self.mix(clip)


class LastFrame(Affine):
    predicts = "last"

    def detect(self, clip):
        return self.mix(clip[:, :, -1:])


class OnCanvas(Affine):
    """Crops are not put on the canvas, only padded to its multiple."""

    pads_to, side_multiple = 16, 4

    def detect(self, clip):
        assert clip.shape[3:] == (8, 8)
        return self.mix(clip)


class FrameByFrame(Affine):
    recurrent = True

    def forward(self, frame, state):
        return self.mix(frame[:, :, None])[:, 0, 0], state


def trainer_of(detector, criterion, ema=0.0):
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.1)
    options = TrainerOptions(seed=46, ema=ema)
    return Trainer(detector, detector, optimizer, criterion, [], options, Group())


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("kind", [Affine, LastFrame, OnCanvas, FrameByFrame])
def test_the_loss_is_of_the_frames_that_are_predicted(kind, padding):
    detector, clip = kind(), torch.randn(2, 1, 5, 7, 6)
    mask = (torch.rand(2, 5, 7, 6) < 0.2).byte()
    valid = torch.ones_like(mask)
    valid[0, :, 5:] = 0
    mask &= valid
    n = 1 if kind is LastFrame else 5
    expected = detector.mix(clip)[:, 0, -n:].detach()
    batch = [clip, mask, valid] if padding else [clip, mask]
    criterion = WithoutPadding(build_loss("BCE"))
    loss, logits, truth = trainer_of(detector, criterion).step(batch)
    torch.testing.assert_close(logits, expected)
    assert torch.equal(truth, mask[:, -n:])
    known = valid[:, -n:] > 0 if padding else torch.ones_like(truth) > 0
    torch.testing.assert_close(loss, build_loss("BCE")(expected[known], truth[known]))


def test_a_step_follows_the_gradient():
    detector, clip = Affine(), torch.randn(1, 1, 5, 7, 6)
    mask = (clip[:, 0] > 1).byte()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    trainer_of(detector, build_loss("BCE")).step([clip, mask])
    for name, parameter in detector.named_parameters():
        torch.testing.assert_close(parameter, before[name] - 0.1 * parameter.grad)


def test_averaged_weights_are_those_of_the_definition():
    detector = Affine()
    average, decay = MovingAverage(detector, 0.5), 0.5
    expected = detector.mix.bias.item()
    for step in range(12):
        with torch.no_grad():
            detector.mix.bias.fill_(step)
        average.update(detector)
        now = min(decay, (1 + step) / (10 + step))
        expected = now * expected + (1 - now) * step
    assert average.weights["mix.bias"].item() == pytest.approx(expected, rel=1e-6)


def test_where_nothing_compiles_one_line_says_so_before_the_first_step(monkeypatch):
    def fail(function):
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(
        ValueError, match=r"--compile: .* for cpu \(No working C\+\+ compiler found\)"
    ):
        compiled(torch.nn.Linear(1, 1), torch.device("cpu"))
