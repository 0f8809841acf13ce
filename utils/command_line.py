"""What all commands share: errors as one line and an exit status, and types of arguments."""

import argparse
import atexit
import io
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import distributed

from utils.process import has_joined

UNKNOWN_ERROR, USER_ERROR, LOST_PROCESS = 1, 2, 3  # exit statuses; a signal's is 128 + its number
LAUNCHED = "DETECTOR_LAUNCHED"  # set where `utils.launcher` tells what ended which process
TORCHRUN = "TORCHELASTIC_RUN_ID"  # set where torchrun started this process
OWN_PACKAGES = ("data", "losses", "models", "utils")
FIRST_TELLS = 8  # seconds in which torchrun ends the other processes when one has failed


def add_normalisation(add, words=""):
    """Adds the options that say mean and std of the grey levels.

    Args:
        add: `add_argument` of a parser.
        words: more help on `--normalise-as`.
    """
    add("--mean", type=float, help="of the grey levels; with --std, in place of the data set's")
    add("--std", type=float, help="of the grey levels; with --mean")
    add("--normalise-as", metavar="DATASET", help=f"take mean and std of this data set{words}")


class HelpWithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Says no default where there is none, or where it is that of a switch."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class CommandParser(argparse.ArgumentParser):
    """Shows defaults in the help; a wrong argument is one line on stderr and exit status 2."""

    def __init__(self, prog=None, **options):
        prog = f"python {prog or Path(sys.argv[0]).name}"
        super().__init__(prog=prog, formatter_class=HelpWithDefaults, **options)

    def recall(self, recorded, source, without=()):
        """Takes options that were recorded as defaults, if they could have been given.

        Args:
            recorded: values by name; what is no option of this command is left out.
            source: where they come from, for messages.
            without: names that are not taken.

        Raises:
            ValueError: a value that the option does not take.
        """
        words, taken = [], {}
        for action in self._actions:
            value = recorded.get(action.dest)
            if value is None or action.dest in without:
                continue
            taken[action.dest] = value
            flag = next(text for text in action.option_strings if text.startswith("--"))
            if isinstance(value, list) and action.nargs == "+":
                words += [flag, *map(str, value)]
            elif action.nargs != 0:
                words.append(f"{flag}={value}")
            elif not isinstance(value, bool):
                raise ValueError(f"{source}: {flag} is recorded as {value!r}; expected True, False")

        def refuse(message):
            raise ValueError(f"{source}: a recorded option cannot be taken: {message}")

        self.error = refuse
        try:
            parsed = vars(self.parse_args(words))
        finally:
            del self.error
        self.set_defaults(**{n: v if isinstance(v, bool) else parsed[n] for n, v in taken.items()})

    def error(self, message):
        self.exit(USER_ERROR, f"error: {message}; see {self.prog} --help\n")


class Terminated(BaseException):
    """SIGTERM arrived."""


class Ending(NamedTuple):
    """What ended a command early: the exit status, what is said, and the error.

    The error is kept to the end of the process, and with it what the code it left had in use.
    """

    status: int
    text: str
    error: BaseException


def run_command(command):
    """Runs `command()`; what ends it early is one line on stderr and an exit status.

    A user's error is status 2, Ctrl-C 130, SIGTERM 143, the loss of another process of the job 3.
    Warnings are one line, too, without the place in the code.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    with terminated_by_signal(), lasting_output() as output:
        try:
            ending = ending_of(command)
            output.flush()
            if ending is None and output.has_ended:
                # As a shell tells of what SIGPIPE has ended: some of the output has got lost.
                end_process(128 + getattr(signal, "SIGPIPE", 13))
            if ending is not None and TORCHRUN in os.environ and not let_others_tell(ending.status):
                end_process(ending.status)
        except Terminated as stop:
            ending = Ending(128 + signal.SIGTERM, one_line(stop), stop)
        if ending is not None:
            # While the interpreter closes down, too.
            atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)
            if ending.status != LOST_PROCESS or LAUNCHED not in os.environ:
                with suppress(OSError):  # nobody hears of it
                    print(ending.text, file=sys.stderr, flush=True)
            end_process(ending.status)


class Output:
    """A standard output that may end before its command, as that into `head` does.

    From then on nothing is written to it, and the command goes on: its files are what it is for. A
    live test ends in order, see `output_ended`.

    Attributes:
        has_ended: whether nobody reads it any more.
    """

    def __init__(self, stream):
        self.stream, self.has_ended = stream, False

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        self._pass(self.stream.write, text)
        return len(text)

    def flush(self):
        self._pass(self.stream.flush)

    def _pass(self, call, *values):
        if self.has_ended:
            return
        try:
            call(*values)
        except BrokenPipeError:
            self.has_ended = True
            with suppress(OSError, ValueError):  # what is still held goes nowhere at the end
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)


@contextmanager
def lasting_output():
    """Within it `sys.stdout` is an `Output`, which is given."""
    former = sys.stdout
    sys.stdout = Output(former)
    try:
        yield sys.stdout
    finally:
        sys.stdout = former


def output_ended():
    """Whether nobody reads this command's output any more."""
    return getattr(sys.stdout, "has_ended", False)


def end_process(status):
    """Ends this process, as `sys.exit` does; at once where it has joined others.

    PyTorch's group of processes must not be taken apart while it still exchanges: its destructor
    holds the interpreter and waits for a thread that waits for the interpreter.
    """
    if has_joined():
        for child in multiprocessing.active_children():  # those that read clips
            child.terminate()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def let_others_tell(status):
    """Waits for torchrun's other processes before this one ends: whether it has to tell, too.

    If all have an error the first tells of it: soon after that has ended torchrun ends the others.
    One that only lost another ends after that.
    """
    lost, first = status == LOST_PROCESS, os.environ.get("RANK", "0") == "0"
    try:
        if lost or (status == USER_ERROR and not first):
            time.sleep(FIRST_TELLS * (1 + lost))
    except Terminated:
        return lost
    return True


def ending_of(command):
    """Runs `command()`; the `Ending` where an error ends it, else None.

    Raises:
        RuntimeError, Exception: one that is not known, where the process has joined no others.
    """
    try:
        command()
    except KeyboardInterrupt as error:
        return Ending(128 + signal.SIGINT, one_line(error), error)
    except (ValueError, OSError, FloatingPointError) as error:
        return Ending(USER_ERROR, f"error: {one_line(error)}", error)
    except Exception as error:
        status, text = explained(error)
        if text is not None:
            return Ending(status, f"error: {text}", error)
        if not has_joined():
            raise
        return Ending(UNKNOWN_ERROR, traceback.format_exc().rstrip(), error)
    return None


def explained(error):
    """(exit status, what to say) of an error that its text explains; (1, None) of any other."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package not in OWN_PACKAGES:
            return USER_ERROR, (
                f"the package {package} is not installed; expected all of requirements.txt: "
                "pip install -r requirements.txt"
            )
    if isinstance(error, MemoryError | RuntimeError):
        lost = lost_process(error)
        if lost is not None:
            return LOST_PROCESS, lost
        advice = resource_advice(error)
        if advice is not None:
            return USER_ERROR, f"{one_line(error)}; {advice}"
    return UNKNOWN_ERROR, None


@contextmanager
def terminated_by_signal():
    """Within it SIGTERM raises `Terminated`, once, so that files are left in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated("stopped by SIGTERM")

    former = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def lost_process(error):
    """What to say where other processes of the job cannot be reached; None for any other error."""
    text = str(error)
    if any(words in text.lower() for words in ("closed by peer", "reset by peer", "broken pipe")):
        return "another process of this job has ended; see its message"
    if isinstance(error, getattr(distributed, "DistError", ())):
        first = text.strip().partition("\n")[0]
        return f"the processes of this job do not reach one another ({first})"
    return None


def resource_advice(error):
    """What to do where a machine's means did not suffice; None for any other error."""
    text = str(error)
    if "DataLoader worker" in text:
        return "a process that reads clips was ended, mostly for lack of memory: use --workers 0"
    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if out_of_memory or "can't allocate memory" in text:
        return "memory did not suffice: use a smaller --batch_size or, in test.py, --memory"
    return None


@contextmanager
def hushed():
    """Within it nothing is printed, nor said by loggers: what is wrong an error tells."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def positive(kind, most=math.inf):
    """An argparse type: a number of this kind above 0, finite and at most `most`."""
    expected = "a number above 0" if most == math.inf else f"a number above 0, at most {most}"
    return _bounded(kind, lambda value: 0 < value <= most and value < math.inf, expected)


def not_negative(kind, most=math.inf):
    """An argparse type: a number of this kind, 0 or more, finite and at most `most`."""
    expected = "0 or more" if most == math.inf else f"a number from 0 to {most}"
    return _bounded(kind, lambda value: 0 <= value <= most and value < math.inf, expected)


def fraction(text):
    """An argparse type: a number from 0 to 1."""
    return _bounded(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")(text)


def below_one(text):
    """An argparse type: a number from 0 to below 1."""
    return _bounded(float, lambda value: 0 <= value < 1, "a number from 0 to below 1")(text)


MOST_FRAME_PIXELS = 2**26  # of a frame; more is a slip of the keys


def frame_size(text):
    """An argparse type: a frame's height and width in pixels, such as 480x720."""
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text}: expected height x width, such as 480x720")
    if int(height) * int(width) > MOST_FRAME_PIXELS:
        raise argparse.ArgumentTypeError(f"{text}: expected {MOST_FRAME_PIXELS:,} pixels at most")
    return int(height), int(width)


def word_or_pixel(*words):
    """An argparse type: one of these words, or FRAME,ROW,COLUMN as a tuple of integers."""

    def convert(text):
        numbers = text.split(",")
        if text in words:
            return text
        if len(numbers) != 3 or not all(number.strip().isdecimal() for number in numbers):
            known = ", ".join(words)
            raise argparse.ArgumentTypeError(f"{text}: expected {known} or FRAME,ROW,COLUMN")
        return tuple(map(int, numbers))

    return convert


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
        return "interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__
    if "DataLoader worker" in lines[0]:
        return lines[-1].partition(": ")[2] or lines[-1]
    return " ".join(lines)
