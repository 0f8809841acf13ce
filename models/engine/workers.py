"""Threads among which the tiles of a band are divided.

torch has a number of threads for every thread, and one for threads to come: the last that was set
anywhere. A thread takes that over in its first parallel operation, even in place of what was set in
it before; in threads of our own it must have done so before they compute.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from models.engine.tape import Scratch

_starting = threading.Lock()  # held while the number for threads to come is not what it should be


def thread_count(device):
    """Threads among which a call's tasks are divided: as many as torch is set to in this thread."""
    if device.type != "cpu":
        return 1
    with _starting:  # this thread may be new
        return torch.get_num_threads()


def start_threads(count):
    """An executor of `count` threads, in each of which torch computes alone.

    All are started here, so that threads to come soon have torch's number of this thread again.
    """
    there = threading.Barrier(count + 1)

    def start():
        torch.get_num_threads()  # takes over the number for threads to come
        torch.set_num_threads(1)

    executor = ThreadPoolExecutor(count, initializer=start)
    with _starting:
        before = torch.get_num_threads()
        try:
            for _ in range(count):
                executor.submit(there.wait)
            there.wait()
        finally:
            there.abort()  # where one could not be started
            torch.set_num_threads(before)
    return executor


class Pool:
    """What calls work with: each has one that no other call has at the same time.

    They are used again by later calls. A copy starts without: recorded calls belong to the memory
    they were recorded on.

    Args:
        make: callable() -> one more.
    """

    def __init__(self, make):
        self.make, self.idle = make, []

    def __reduce__(self):
        return Pool, (self.make,)

    @contextmanager
    def taken(self):
        """One of them, until the end of the context."""
        try:
            one = self.idle.pop()  # as `append`, atomic
        except IndexError:
            one = self.make()
        try:
            yield one
        finally:
            self.idle.append(one)


class Workers:
    """Runs tasks over tiles: on a CPU in as many threads as torch is set to, one tile each.

    A tile then stays in the cache of its core, and threads meet once a band instead of once a
    product, which on a busy machine is where the time goes. Each thread has scratch of its own.
    Elsewhere tasks run one after the other.

    Use as a context manager; tasks run only inside. Of the calls of a detector at a time each has
    workers of its own, from a `Pool`.
    """

    def __init__(self, arithmetic):
        self.arithmetic = arithmetic
        self.scratches = []
        self.executor = None
        self.threads = 1  # among which tasks are divided

    def __enter__(self):
        count = self.threads = thread_count(self.arithmetic.device)
        while len(self.scratches) < count:
            self.scratches.append(Scratch(self.arithmetic))
        if count > 1:
            self.executor = start_threads(count)
        return self

    def __exit__(self, *_):
        if self.executor is not None:
            self.executor.shutdown()
            self.executor = None

    @property
    def scratch(self):
        """The first scratch, for work between calls of `run`."""
        return self.scratches[0]

    def lead(self, function, *args):
        """What function(*args) gives, called in one of the threads: torch computes alone there.

        When `run` is called in it, that thread takes part.
        """
        if self.executor is None:
            return function(*args)
        return self.executor.submit(torch.no_grad()(function), *args).result()

    def run(self, task, items):
        """Calls task(item, scratch) for every item; returns when all are done.

        In how many threads changes nothing in what is computed: in each, torch computes alone.
        """
        waiting = iter(items)  # `next` on it is atomic

        @torch.no_grad()
        def work(scratch):
            for item in waiting:
                task(item, scratch)

        takes_part = self.executor is None or torch.get_num_threads() == 1
        others = self.scratches[takes_part : min(self.threads, len(items))]
        started = [self.executor.submit(work, scratch) for scratch in others]
        if takes_part:
            work(self.scratch)
        for done in started:
            done.result()
