"""Commands in processes of their own that start with torch and the scripts loaded, in a moment.

A command from the shell loads them first, which takes 2 s, and an optimiser loads as much again;
a job of two processes under torchrun three times that. Here a server loads them once for a whole
run of the tests, and is forked.
"""

import importlib
import multiprocessing
import os
import socket
import sys
from multiprocessing.connection import wait
from typing import NamedTuple

import torch

from tests.drawing import undrawn
from utils.command_line import run_command

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["train", "test", "tests.processes", "torch._dynamo"])
SUFFIXES = ".out", ".err"


class Ended(NamedTuple):
    """How a process ended: exit status, negative for a signal, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def run_ranks(folder, function, *arguments, ends_others=False, timeout=200):
    """Runs function(*arguments) in two processes that find each other, as torchrun's do.

    Args:
        folder: for what they write.
        function: of a module that can be imported; or the name of a script, whose arguments are
            then the words of its command.
        ends_others: when one fails, the other gets SIGTERM, as torchrun does it.
        timeout: seconds.

    Returns:
        An `Ended` for each rank.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1], "WORLD_SIZE": 2}
    ranks = [{**job, "RANK": rank, "LOCAL_RANK": rank} for rank in range(2)]
    started = [
        _start(folder / f"rank{rank}", function, arguments, variables)
        for rank, variables in enumerate(ranks)
    ]
    if ends_others:
        wait([process.sentinel for process in started], timeout)
        if any(process.exitcode for process in started):
            for process in started:
                process.terminate()
    return [
        _ended(process, folder / f"rank{rank}", timeout) for rank, process in enumerate(started)
    ]


def run_alone(folder, function, *arguments, timeout=200):
    """The `Ended` of function(*arguments) in a process of its own; see `run_ranks`."""
    return _ended(_start(folder / "alone", function, arguments), folder / "alone", timeout)


def _start(path, function, arguments, variables=()):
    """A process that was started; it writes to files of this path with `.out` and `.err`."""
    if isinstance(function, str):
        function, arguments = run_script, (function, [*map(str, arguments)])
    variables = {name: str(value) for name, value in dict(variables).items()}
    process = _CONTEXT.Process(target=_begin, args=(path, function, arguments, variables))
    process.start()
    return process


def _ended(process, path, timeout):
    process.join(timeout)
    assert process.exitcode is not None, f"not ended after {timeout} s"
    texts = (path.with_suffix(suffix).read_text("utf-8") for suffix in SUFFIXES)
    return Ended(process.exitcode, *texts)


def _begin(path, function, arguments, variables):
    os.environ.update(variables)
    for number, suffix in enumerate(SUFFIXES, 1):
        os.dup2(os.open(path.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    torch.set_num_threads(1)
    try:
        with undrawn():
            function(*arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def run_script(name, words):
    """What `python NAME.py WORDS` does."""
    script = importlib.import_module(name)
    run_command(lambda: script.main(script.parse_args(words)))
