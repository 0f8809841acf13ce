"""Threads among which the tiles of a band are divided."""

import threading
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


class Workers:
    """Runs tasks over tiles: on a CPU in as many threads as torch is set to, one tile each.

    A tile then stays in the cache of its core, and threads meet once a band instead of once a
    product, which on a busy machine is where the time goes. Each thread has scratch of its own.
    Elsewhere tasks run one after the other.

    Use as a context manager; tasks run only inside, and one thread is inside at a time. A copy
    starts without memory of its own: recorded calls belong to the memory they were recorded on.
    """

    def __init__(self, arithmetic):
        self.arithmetic = arithmetic
        self.scratches = []
        self.executor = None
        self.threads = 1  # among which tasks are divided
        self.lock = threading.Lock()

    def __reduce__(self):
        return Workers, (self.arithmetic,)

    def count(self):
        return torch.get_num_threads() if self.arithmetic.device.type == "cpu" else 1

    def __enter__(self):
        self.lock.acquire()
        count = self.threads = self.count()
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
        self.lock.release()

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
