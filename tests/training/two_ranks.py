"""Losses of a training's first steps; under torchrun, the mean over the processes.

python -m torch.distributed.run --nproc_per_node=2 tests/two_ranks.py DATA OUTPUT.json
"""

import json
import sys
from functools import partial
from pathlib import Path

import torch

import train
from tests.builders import Recursion
from utils.process import joined_group
from utils.trainer import Trainer, TrainerOptions


def build_trainers(args, clips, group):
    """By name: DeepPro with BatchNorm in either mode, and a recurrent network without BatchNorm."""
    cpu = torch.device("cpu")
    deeppro = train.build_trainer(args, clips, cpu, group)
    recursion = Recursion(args.seqlen)
    parts = deeppro.criterion, deeppro.batches, TrainerOptions(args.seed), group
    optimizer = partial(torch.optim.SGD, lr=0.1)
    return {
        "eval": Trainer(deeppro.detector, deeppro.network.network)
    }
