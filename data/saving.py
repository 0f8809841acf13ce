"""Writes image files and folders whole or not at all, files several at a time."""

import itertools
import os
import shutil
import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image


def suffix_for(dtype):
    """The suffix of files that keep grey levels of this type: PNG, TIFF for floating point."""
    return ".tif" if np.issubdtype(dtype, np.floating) else ".png"


def save_image(path, pixels):
    """Writes (H, W) uint8, uint16 or float32 to a file with the suffix of `suffix_for`.

    The file appears under its name only when it is whole. Its folder must exist.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        if suffix_for(pixels.dtype) == ".png":
            Image.fromarray(pixels).save(aside, "PNG", compress_level=1)
        else:
            Image.fromarray(pixels).save(aside, "TIFF")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def new_folder(output):
    """A folder beside `output` to write into, which gets its name when all is in it.

    It is called `<output>.partial-<number>`. After an error it is removed.

    Raises:
        FileExistsError: something else is called so by then.
    """
    for number in itertools.count(os.getpid()):
        folder = output.with_name(f"{output.name}.partial-{number}")
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:  # left by a process of this number, or that of another machine
            continue
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
        shutil.rmtree(folder, ignore_errors=True)
        raise


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
