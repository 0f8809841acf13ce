"""Threads among which the tiles of a band are divided."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from models.engine.tape import Scratch


@contextmanager
def one_thread():
    """Keeps torch from dividing what this thread computes among threads of its own.

    A thread that is started meanwhile, anywhere in the process, begins with one for itself, too.
    """
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def thread_count(device):
    """Threads among which this thread's tasks are divided."""
    return torch.get_num_threads() if device.type == "cpu" else 1


class Runs:
    """What a call works with: an engine and workers, no other call's at the same time.

    They are used again by later calls. A copy starts without: recorded calls belong to the memory
    they were recorded on.

    Args:
        engine: which is not run itself; its twins are.
    """

    def __init__(self, engine):
        self.engine, self.idle = engine, []

    def __reduce__(self):
        return Runs, (self.engine,)

    @contextmanager
    def taken(self):
        """(engine, workers), those until the end of the context."""
        try:
            run = self.idle.pop()  # as `append`, atomic
        except IndexError:
            run = self.engine.twin(), Workers(self.engine.map_arithmetic)
        try:
            with run[1]:
                yield run
        finally:
            self.idle.append(run)


class Workers:
    """Runs tasks over tiles: on a CPU in as many threads as torch is set to, one tile each.

    A tile then stays in the cache of its core, and threads meet once a band instead of once a
    product, which on a busy machine is where the time goes. Each thread has scratch of its own.
    Elsewhere tasks run one after the other.

    Use as a context manager; tasks run only inside. Of the calls of a detector at a time each has
    workers of its own, see `Runs`.
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
            self.executor = ThreadPoolExecutor(
                count, initializer=torch.set_num_threads, initargs=(1,)
            )
        return self

    def __exit__(self, *_):
        if self.executor is not None:
            self.executor.shutdown()
            self.executor = None
            # The pool's threads set the number of threads that later threads start with, too.
            torch.set_num_threads(torch.get_num_threads())

    @property
    def scratch(self):
        """The first scratch, for work between calls of `run`."""
        return self.scratches[0]

    def run(self, task, items):
        """Calls task(item, scratch) for every item; returns when all are done."""
        if self.executor is None or len(items) == 1:
            for item in items:
                task(item, self.scratch)
            return
        waiting = iter(items)  # `next` on it is atomic

        @torch.no_grad()
        def work(scratch):
            for item in waiting:
                task(item, scratch)

        for done in [self.executor.submit(work, scratch) for scratch in self.scratches]:
            done.result()
