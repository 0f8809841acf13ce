"""Threads that share the tiles of a band."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from models.engine.program import Scratch


@contextmanager
def one_thread():
    """Keeps torch from sharing what this thread computes with threads of its own.

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
    starts without memory of its own: recorded programs belong to the memory they were recorded on.
    """

    def __init__(self, numbers):
        self.numbers = numbers
        self.scratches = []
        self.pool = None
        self.threads = 1  # that tasks are shared by
        self.lock = threading.Lock()

    def __reduce__(self):
        return Workers, (self.numbers,)

    def count(self):
        return torch.get_num_threads() if self.numbers.device.type == "cpu" else 1

    def __enter__(self):
        self.lock.acquire()
        count = self.threads = self.count()
        while len(self.scratches) < count:
            self.scratches.append(Scratch(self.numbers))
        if count > 1:
            self.pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
        return self

    def __exit__(self, *_):
        if self.pool is not None:
            self.pool.shutdown()
            self.pool = None
            # The pool's threads set the number of threads that later threads start with, too.
            torch.set_num_threads(torch.get_num_threads())
        self.lock.release()

    @property
    def scratch(self):
        """The first scratch, for work between calls of `run`."""
        return self.scratches[0]

    def run(self, task, items):
        """Calls task(item, scratch) for every item; returns when all are done."""
        if self.pool is None or len(items) == 1:
            for item in items:
                task(item, self.scratch)
            return
        waiting = iter(items)  # `next` on it is atomic

        @torch.no_grad()
        def work(scratch):
            for item in waiting:
                task(item, scratch)

        for done in [self.pool.submit(work, scratch) for scratch in self.scratches]:
            done.result()
