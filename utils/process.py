"""One process or several: ranks, shards, sums. PyTorch's own launcher, torchrun, starts several."""

import os
import random
import sys
from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed


@dataclass(frozen=True)
class Group:
    """The processes of a job; this one has `rank` of `size`, on its node `local_rank`."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self):
        """Whether this process writes and prints."""
        return self.rank == 0

    def shard(self, items):
        """Every size-th item, from the rank's on."""
        return items[self.rank :: self.size]

    def gather(self, items):
        """The list of all processes' items in the order that `shard` took them from."""
        if self.size == 1:
            return list(items)
        parts = [None] * self.size
        distributed.all_gather_object(parts, list(items))
        joined = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            joined[rank :: self.size] = part
        return joined

    def sum(self, tensor):
        """Adds the tensor over all processes, in place; returns it."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def barrier(self):
        if self.size > 1:
            distributed.barrier()

    def share(self, value):
        """The main process's value, on all."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def share_tensors(self, tensors):
        """Gives all processes the main one's content of these tensors, in place."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)


def join_group(use_cuda):
    """Joins the job that torchrun started; a group of one if it did not."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Group()
    group = Group(*(int(os.environ[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    if use_cuda:
        torch.cuda.set_device(group.local_rank)
    if group.size > 1:
        distributed.init_process_group("nccl" if use_cuda else "gloo")
    return group


def leave_group():
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def relaunch(processes):
    """Starts this command again as that many processes of one node; does not return."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *launcher, *sys.argv])


def seed_everything(seed, *place):
    """Seeds Python, numpy and torch (CPU and CUDA), from a seed and, for instance, epoch, rank."""
    if place:
        seed = int(np.random.SeedSequence((seed, *place)).generate_state(1, np.uint64)[0] >> 1)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
