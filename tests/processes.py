"""Commands in processes of their own that start with torch and the scripts loaded, in a moment.

A command from the shell loads them first, which takes 2 s; a job of two processes under torchrun
three times that. Here a server loads them once for a whole run of the tests, and is forked.
"""

import importlib
import multiprocessing
import os
import socket
import sys
from typing import NamedTuple

import torch

from utils.command_line import run_command

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["train", "test", "tests.processes"])


class Ended(NamedTuple):
    """How a process ended: exit status, negative for a signal, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def run_ranks(folder, function, *arguments, environment=None, timeout=200):
    """Runs function(*arguments) in two processes that find each other, as torchrun's do.

    Args:
        folder: for what they write.
        function: of a module that can be imported; or the name of a script, whose arguments are
            then the words of its command.
        environment: more of it, strings.

    Returns:
        An `Ended` for each rank.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(2):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
        given = {name: str(value) for name, value in ranks.items()}
        given |= {"MASTER_ADDR": "127.0.0.1", **(environment or {})}
        files = [str(folder / f"rank{rank}.{name}") for name in ("out", "err")]
        call = function, [*map(str, arguments)] if isinstance(function, str) else arguments
        started.append((_CONTEXT.Process(target=_begin, args=(*call, given, files)), files))
        started[-1][0].start()
    ends = []
    for process, files in started:
        process.join(timeout)
        assert process.exitcode is not None, f"not ended after {timeout} s"
        texts = []
        for path in files:
            with open(path, encoding="utf-8") as file:
                texts.append(file.read())
        ends.append(Ended(process.exitcode, *texts))
    return ends


def _begin(function, arguments, environment, files):
    os.environ.update(environment)
    for number, path in enumerate(files, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    torch.set_num_threads(1)
    try:
        if isinstance(function, str):
            run_script(function, arguments)
        else:
            function(*arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def run_script(name, words):
    """What `python NAME.py WORDS` does."""
    script = importlib.import_module(name)
    run_command(lambda: script.main(script.parse_args(words)))
