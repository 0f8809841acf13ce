"""Writes image files and folders whole or not at all, files several at a time.

What the commands that write have in common is here, too: how they end when they are stopped, or may
not write.
"""

import argparse
import itertools
import os
import re
import shutil
import signal
import sys
import threading
import time
import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from data.remarks import Remarks

_ASIDE = re.compile(r"\..+\.[0-9a-f]{32}")  # names of `aside_of`


class Stopped(BaseException):
    """SIGTERM arrived."""


@contextmanager
def told_when_stopped(outcome):
    """Within it Ctrl-C and SIGTERM end the command in order: one line, exit status 130 or 143.

    Args:
        outcome: what the line says of what was to be written, with the comma before it.
    """

    def stop(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the cleaning
        raise Stopped

    handles = threading.current_thread() is threading.main_thread()
    former = signal.signal(signal.SIGTERM, stop) if handles else None
    try:
        yield
    except KeyboardInterrupt:
        print(f"error: interrupted{outcome}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Stopped:
        print(f"error: stopped by SIGTERM{outcome}", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    finally:
        if handles:
            signal.signal(signal.SIGTERM, former)


def worker_count(text):
    """An argparse type: how many threads or processes work, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1")
    return int(text)


@contextmanager
def writing_at(output):
    """Within it the system's refusal to write at a path, or to make it, says so in a sentence.

    Raises:
        OSError: so; one that says itself what is wrong, or is of another place, is left as it is.
    """
    try:
        yield
    except OSError as error:
        named = str(error.filename or output)
        elsewhere = Path(named) not in output.parents and not named.startswith(str(output))
        if error.errno is None or elsewhere:
            raise
        raise OSError(
            f"{output}: could not be written ({error.strerror}); free some room, or choose another "
            "folder that you may write to"
        ) from error


def suffix_for(dtype):
    """The suffix of files that keep grey levels of this type: PNG, TIFF for floating point."""
    return ".tif" if np.issubdtype(dtype, np.floating) else ".png"


def save_image(path, pixels):
    """Writes (H, W) uint8, uint16 or float32 to a file with the suffix of `suffix_for`.

    The file appears under its name only when it is whole. Its folder must exist.

    Raises:
        OSError: it cannot be written.
    """
    with aside_of(path) as aside:
        if suffix_for(pixels.dtype) == ".png":
            Image.fromarray(pixels).save(aside, "PNG", compress_level=1)
        else:
            Image.fromarray(pixels).save(aside, "TIFF")


@contextmanager
def aside_of(path):
    """A path beside `path` to write a file to, which gets its name when it is whole.

    A process that is killed leaves it, hidden: see `sweep_asides`.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def sweep_asides(folder):
    """Removes what killed processes left below a folder that nobody writes to any more."""
    for path in Path(folder).rglob(".*"):
        if _ASIDE.fullmatch(path.name):
            with suppress(OSError):  # another was faster, or it may not be
                path.unlink()


@contextmanager
def new_folder(output):
    """A folder beside `output` to write into, which gets its name when all is in it.

    It is called `<output>.partial-<number>`. After an error it is removed; one that a killed
    process left is named.

    Raises:
        FileExistsError: something else is called so by then.
        OSError: it cannot be written.
    """
    with writing_at(output):
        _name_left(output)
        for number in itertools.count(os.getpid()):
            folder = output.with_name(f"{output.name}.partial-{number}")
            try:
                folder.mkdir(parents=True)
                break
            except FileExistsError:  # left by a process of this number, or that of another machine
                if not os.path.lexists(folder):  # a broken link is on the way to it
                    raise
        try:
            yield folder
            try:
                folder.rename(output)
            except OSError as error:
                if not output.exists():
                    raise
                raise FileExistsError(
                    f"{output}: was written by another process meanwhile; choose another folder"
                ) from error
        except BaseException:
            _remove(folder)
            raise


def _remove(folder):
    """Removes a folder into which threads may still write a file that they have begun."""
    for _ in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _name_left(output):
    """Remarks on folders of `new_folder` that no process of this machine writes to."""
    start = f"{output.name}.partial-"
    beside = output.parent.iterdir() if output.parent.is_dir() else ()
    left = [path for path in beside if path.name.startswith(start) and not _is_in_use(path, start)]
    if left:
        others = f" (and {len(left) - 1} more)" * (len(left) > 1)
        Remarks().make(
            "left",
            f"{min(left)}{others}: left by a call that was killed; remove it, unless "
            "something still writes to it",
        )


def _is_in_use(folder, start):
    """Whether a process of this machine has the number in a folder's name, or that is none."""
    number = folder.name.removeprefix(start)
    if not number.isdecimal():
        return True
    if os.name == "posix":  # elsewhere this would end it
        try:
            os.kill(int(number), 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass  # it runs, for another user
        return int(number) != os.getpid()
    return False


def in_order(jobs, workers):
    """Yields what the jobs give, in their order; `workers` threads work, few jobs wait.

    Args:
        jobs: iterable of callables without arguments, advanced in the caller's thread.
        workers: number of threads, 1 or more.
    """
    pool, waiting = ThreadPoolExecutor(workers), deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
