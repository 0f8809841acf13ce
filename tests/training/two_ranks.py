"""Losses of a training's first steps; of several processes, the mean over them."""

import json
from pathlib import Path

import torch
from torch import nn

import train
from data.batches import Batches
from data.specs import get_spec
from losses import build_loss
from models import build_model
from models.detector import Detector
from utils.process import joined_group, seed_everything
from utils.training.trainer import Trainer, TrainerOptions


class Recursion(Detector):
    """A recurrent network without BatchNorm: a batch has the mean gradient of its halves."""

    recurrent = True

    def __init__(self, seqlen):
        super().__init__(seqlen)
        self.mix = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, frame, state):
        state = torch.zeros_like(frame) if state is None else state
        state = torch.tanh(self.mix(torch.cat([frame, state], dim=1)))
        return 4 * state[:, 0], state


def first_losses(group, data, steps=4):
    """By case: losses of the first steps of DeepPro, BatchNorm in either mode, and a recursion."""
    options = f"--datapath {data} --model DeepPro --seqlen 8 --patch_size 16 --gpu cpu"
    args = train.parse_args([*options.split(), "--sample_rate", "1", "--cache", "memory"])
    clips, _ = train.open_data(args, [get_spec(args.dataset)], group)
    losses = {}
    for case in ("eval", "train", "recurrent"):
        seed_everything(args.seed)
        detector = Recursion(8) if case == "recurrent" else build_model("DeepPro", 8)
        batches = Batches(clips, args.batch_size, group.rank, group.size, 0, torch.device("cpu"))
        optimizer = torch.optim.SGD(detector.parameters(), lr=0.1)
        parts = detector, detector, optimizer, build_loss("SoftIoU"), batches
        trainer = Trainer(*parts, TrainerOptions(args.seed), group)
        trainer.network.train(case != "eval")
        batches = batches.of_epoch(0)
        found = [trainer.step(next(batches))[0].detach().double() for _ in range(steps)]
        losses[case] = (group.sum(torch.stack(found)) / group.size).tolist()
    return losses


def main(data, output):
    with joined_group("cpu") as group:
        result = first_losses(group, data)
        if group.is_main:
            Path(output).write_text(json.dumps(result))
