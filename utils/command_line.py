"""What both scripts share at the command line: errors as one line, and the choice of device."""

import argparse
import sys

import torch


class CommandParser(argparse.ArgumentParser):
    """Shows defaults in the help; a wrong argument is one line on stderr and exit status 2."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.ArgumentDefaultsHelpFormatter, **options)

    def error(self, message):
        self.exit(2, f"error: {message}; see python {self.prog} --help\n")


def run_command(command):
    """Runs `command()`; a user's error ends as one line on stderr and exit status 2."""
    try:
        command()
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def one_line(error):
    """An error's message as one line; that of a data worker without the worker's traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "DataLoader worker" in lines[0]:
        return lines[-1].partition(": ")[2] or lines[-1]
    return " ".join(lines)


def choose_device(gpu):
    """The device that `--gpu` asks for; the CPU, saying so, where there is no CUDA.

    Args:
        gpu: index of a GPU as text, or "cpu".

    Raises:
        ValueError: there is no such GPU.
    """
    if gpu == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        print("No CUDA device: running on the CPU.", flush=True)
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if not gpu.isdigit() or int(gpu) >= count:
        raise ValueError(f"--gpu {gpu}: expected cpu or a number below {count}")
    return torch.device("cuda", int(gpu))
