"""Losses of a training's first steps; under torchrun, the mean over the processes.

python -m torch.distributed.run --nproc_per_node=2 tests/two_ranks.py DATA OUTPUT.json
"""

import json
import sys
from pathlib import Path

import torch

import train
from models import build_model
from utils.process import join_group, leave_group, seed_everything
from utils.training_state import StopRequest


def first_losses(group, data, steps=4):
    """{"eval", "train"}: losses of the first steps with BatchNorm in either mode."""
    options = f"--datapath {data} --model DeepPro --seqlen 8 --patch_size 16 --gpu cpu"
    args = train.parse_args([*options.split(), "--sample_rate", "1", "--cache", "memory"])
    clips, _ = train.open_data(args, train.get_spec(args.dataset), group)
    losses = {}
    for mode in ("eval", "train"):
        seed_everything(args.seed)
        model = build_model("DeepPro", 8).train(mode == "train")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        parts = args, group, torch.device("cpu"), clips, model, optimizer, None, StopRequest()
        trainer = train.Trainer(*parts)
        trainer.network.train(mode == "train")
        batches = trainer.batches.of_epoch(0)
        found = [trainer.step(next(batches))[0].detach().double() for _ in range(steps)]
        losses[mode] = (group.sum(torch.stack(found)) / group.size).tolist()
    return losses


if __name__ == "__main__":
    group = join_group(use_cuda=False)
    result = first_losses(group, sys.argv[1])
    if group.is_main:
        Path(sys.argv[2]).write_text(json.dumps(result))
    group.barrier()
    leave_group()
