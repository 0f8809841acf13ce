"""Starts a command as several processes of this machine, and ends as they do: one line, one status.

For several machines PyTorch's torchrun does it; see `utils.process.join_group`.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

from utils.command_line import LAUNCHED, LOST_PROCESS
from utils.process import is_launched

PATIENCE = 10  # seconds that the others have to end when one has failed, before each signal


def job_size(count):
    """Processes of this job: as many as its launcher started, else `count`, yet to be started."""
    return int(os.environ["WORLD_SIZE"]) if is_launched() else count


def relaunch(count):
    """Runs this command again as that many processes, one a GPU; does not return.

    The first process has the terminal, and tells of an error that all have; what ended another one
    is told here. The exit status is that of the process that failed first.
    """
    errors = [tempfile.TemporaryFile() for _ in range(1, count)]  # noqa: SIM115  to the end
    processes = start(count, errors)
    signal.signal(signal.SIGINT, lambda *_: None)  # a terminal sends it to all
    signal.signal(signal.SIGTERM, lambda number, _: send(processes, number))
    failed = wait_for(processes)
    if not failed:
        sys.exit(0)
    # One that only lost another is not to blame.
    cause = next((process for process in failed if process.returncode != LOST_PROCESS), failed[0])
    place, status = processes.index(cause), cause.returncode
    if status < 0:
        name, status = signal.Signals(-status).name, 128 - status
        print(f"error: process {place + 1} of {count} was ended by {name}", file=sys.stderr)
    elif place > 0 and processes[0].returncode != status:  # else the first has said it
        errors[place - 1].seek(0)
        sys.stderr.write(errors[place - 1].read().decode(errors="replace"))
    sys.exit(status)


def start(count, errors):
    """The processes: the first has this one's terminal, each other writes to a file of `errors`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": count, LAUNCHED: 1}
    sys.stdout.flush()
    processes = []
    for rank in range(count):
        variables = {**job, "RANK": rank, "LOCAL_RANK": rank}
        outputs = {} if rank == 0 else {"stdout": subprocess.DEVNULL, "stderr": errors[rank - 1]}
        environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
        command = [sys.executable, *sys.argv]
        processes.append(subprocess.Popen(command, env=environment, **outputs))
    return processes


def wait_for(processes):
    """Waits for all to end; those that failed, in the order in which they did."""
    running, failed = list(processes), []
    signals = [signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)]
    deadline = None
    while running:
        time.sleep(0.05)
        for process in [process for process in running if process.poll() is not None]:
            running.remove(process)
            if process.returncode != 0:
                failed.append(process)
                deadline = deadline or time.monotonic() + PATIENCE
        if signals and deadline is not None and time.monotonic() > deadline:
            send(running, signals.pop(0))
            deadline = time.monotonic() + PATIENCE
    return failed


def send(processes, number):
    """Sends a signal to those that still run."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)
