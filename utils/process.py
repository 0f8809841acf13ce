"""The process: alone or one of several, its device, its memory, its signals and its random seeds.

`utils.launcher` starts several, and so does PyTorch's own launcher, torchrun.
"""

import ctypes
import functools
import itertools
import os
import random
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed
from tqdm import tqdm

SETTLING = 0.05  # seconds
LARGEST_SEED = 2**64 - 1  # that torch takes
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # that a launcher sets
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


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

    @property
    def is_first_of_node(self):
        """Whether this process prepares files for the others of its node."""
        return self.local_rank == 0

    def shard(self, items):
        """Every size-th item, from the rank's on."""
        return items[self.rank :: self.size]

    def gather(self, items):
        """The list of all processes' items, in turns: of what `shard` took, in the order of before.

        A process may have more items than another.
        """
        if self.size == 1:
            return list(items)
        parts = [None] * self.size
        distributed.all_gather_object(parts, list(items))
        return in_turns(parts)

    def sum(self, tensor):
        """Adds the tensor over all processes, in place; returns it."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def barrier(self):
        """Waits until every process is here."""
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


def in_turns(parts):
    """One list of several: the first item of each, then the second of each, and so on."""
    turns = itertools.zip_longest(*([[item] for item in part] for part in parts), fillvalue=[])
    return [item for turn in turns for items in turn for item in items]


def is_launched():
    """Whether a launcher such as torchrun started this process as one of several."""
    return all(name in os.environ for name in RANK_VARIABLES)


def has_joined():
    """Whether this process is in a group of several now."""
    return distributed.is_available() and distributed.is_initialized()


def join_group(use_cuda):
    """The job that torchrun started, joined unless this process is in it; else a group of one.

    Args:
        use_cuda: whether the processes compute on GPUs, one each.
    """
    if not is_launched():
        return Group()
    group = Group(*(int(os.environ[name]) for name in RANK_VARIABLES))
    if group.size > 1 and not has_joined():
        if use_cuda:
            torch.cuda.set_device(group.local_rank)
        distributed.init_process_group("nccl" if use_cuda else "gloo")
    return group


def leave_group():
    """Takes leave of the other processes; does nothing for a process alone."""
    if has_joined():
        # What a thread of the group still holds it drops now: it needs the interpreter for that,
        # which the next call keeps while it waits for the thread.
        time.sleep(SETTLING)
        distributed.destroy_process_group()


@contextmanager
def joined_group(gpu, group=None):
    """The processes of this job, as a context.

    Args:
        gpu: the value of `--gpu`.
        group: they, where this process has joined them already and will leave them later; None:
            it joins them here and leaves them at the end. After an error it does not: that ends
            the process (`utils.command_line.end_process`).
    """
    if group is not None:
        yield group
        return
    group = join_group(gpu != "cpu" and torch.cuda.is_available())
    yield group
    group.barrier()  # none ends while another still talks to it
    leave_group()


def choose_device(gpu, group=None):
    """The device that `--gpu` asks for; the CPU, saying so, where there is no CUDA.

    Args:
        gpu: index of a GPU as text, or "cpu". Of several processes, each takes the GPU of its own
            number on its node instead.
        group: the processes of the job; None: this one alone.

    Raises:
        ValueError: there is no such GPU.
    """
    if gpu == "cpu":
        return torch.device("cpu")
    if not gpu.isdecimal():
        raise ValueError(f"--gpu {gpu}: expected cpu or the index of a GPU, 0 for the first")
    if not torch.cuda.is_available():
        _say_once("No CUDA device: running on the CPU.")
        return torch.device("cpu")
    if group is not None and group.size > 1:
        gpu = str(group.local_rank)
    count = torch.cuda.device_count()
    if int(gpu) >= count:
        raise ValueError(f"--gpu {gpu}: expected cpu or a number below {count}")
    return torch.device("cuda", int(gpu))


def ready_device(gpu, group, deterministic=False):
    """The device of `choose_device`, made ready to train on.

    Args:
        gpu, group: as there.
        deterministic: CUDA gives the same result again, where it can; slower.
    """
    device = choose_device(gpu, group)
    if device.type == "cpu":
        keep_freed_memory()
    else:
        torch.cuda.set_device(device)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    return device


@functools.cache
def _say_once(line):
    print(line, flush=True)


def keep_freed_memory():
    """Makes the C library keep freed memory for the next tensor instead of returning it.

    By default every tensor above 32 MiB is mapped anew, and the kernel clears each of its pages
    again at first touch: in training on a CPU that costs more than the arithmetic. Does nothing
    where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 64 << 20)


def seed_everything(seed, *place):
    """Seeds Python, numpy and torch (CPU and CUDA), from a seed and, for instance, epoch, rank."""
    if place:
        seed = int(np.random.SeedSequence((seed, *place)).generate_state(1, np.uint64)[0] >> 1)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class StopRequest:
    """Turns SIGTERM and Ctrl-C into a question: a training asks between steps, a live test
    between frames.

    A second Ctrl-C interrupts at once. As a context, it puts the former handlers back.

    Args:
        active: whether signals are noted; where they are not, they do what they did before.
        also: callable: whether there is another reason to stop.

    Attributes:
        signal: the number of the signal that arrived, or None.
    """

    def __init__(self, active=True, also=lambda: False):
        self.active, self.also = active, also
        self.signal, self.former = None, {}

    def __enter__(self):
        if self.active:
            self.former = {
                number: signal.signal(number, self._note)
                for number in (signal.SIGTERM, signal.SIGINT)
            }
        return self

    def __exit__(self, *_):
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def arrived(self):
        """Whether one did, or there is another reason."""
        return self.signal is not None or self.also()

    def _note(self, number, _):
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


def progress_bar(sequences, group, title, total=None):
    """Iterates over sequences; a bar shows how far that is, where this process has the terminal."""
    hidden = None if group.is_main else True
    return tqdm(sequences, title, total, leave=False, disable=hidden, unit="sequence")
