"""Threads among which the tiles of a band are divided."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from models.engine.tape import Scratch


class _Calls:
    """Calls of detectors under way in this process.

    While one is, a thread that is started anywhere in the process begins with one thread of torch's
    for itself, so that what it finds is not what torch was set to.

    Attributes:
        threads: that torch was set to before the first of the calls.
    """

    def __init__(self):
        self.lock, self.count, self.threads = threading.Lock(), 0, 1

    def begin(self):
        with self.lock:
            if self.count == 0:
                self.threads = torch.get_num_threads()
            self.count += 1

    def end(self):
        with self.lock:
            self.count -= 1
            torch.set_num_threads(self.threads)  # here, and in threads that are started later


_calls = _Calls()


@contextmanager
def one_thread(count):
    """Keeps torch from dividing what this thread computes among threads; `count` of them later."""
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def thread_count(device):
    """Threads among which a call's tasks are divided."""
    if device.type != "cpu":
        return 1
    return _calls.threads if _calls.count else torch.get_num_threads()


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
        _calls.begin()
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
        _calls.end()

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
