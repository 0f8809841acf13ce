"""What both scripts share at the command line: errors as one line, and the choice of device."""

import argparse
import math
import sys
import warnings

import torch


class CommandParser(argparse.ArgumentParser):
    """Shows defaults in the help; a wrong argument is one line on stderr and exit status 2."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.ArgumentDefaultsHelpFormatter, **options)

    def error(self, message):
        self.exit(2, f"error: {message}; see python {self.prog} --help\n")


def run_command(command):
    """Runs `command()`; a user's error ends as one line on stderr and exit status 2.

    Warnings are one line, too, without the place in the code.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        command()
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        advice = resource_advice(error)
        if advice is None:
            raise
        print(f"error: {one_line(error)}; {advice}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def resource_advice(error):
    """What to do where a machine's means did not suffice; None for any other error."""
    text = str(error)
    if "DataLoader worker" in text:
        return "a process that reads clips was ended, mostly for lack of memory: use --workers 0"
    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if out_of_memory or "can't allocate memory" in text:
        return "memory did not suffice: use a smaller --batch_size or, in test.py, --memory"
    return None


def positive(kind):
    """An argparse type: a number of this kind above 0."""
    return _bounded(kind, lambda value: 0 < value < math.inf, "a number above 0")


def not_negative(kind):
    """An argparse type: a number of this kind, 0 or more."""
    return _bounded(kind, lambda value: 0 <= value < math.inf, "0 or more")


def fraction(text):
    """An argparse type: a number from 0 to 1."""
    return _bounded(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")(text)


def _bounded(kind, accepts, expected):
    def convert(text):
        value = kind(text)
        if not accepts(value):
            raise argparse.ArgumentTypeError(f"{text}: expected {expected}")
        return value

    convert.__name__ = kind.__name__
    return convert


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
