"""Files that are there whole or not at all, and files that one process holds."""

import os
import shutil
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LITTLE_SPACE = 1 << 20  # bytes left on a disk that is as good as full
ABANDONED = 600  # seconds after which what an interrupted write left is removed


def write_whole(path, write):
    """Lets `write(file)` fill a file beside `path`, opened for bytes, then renames it.

    Raises:
        OSError: it could not be written; what was at `path` is unharmed.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    sweep(path, ABANDONED)
    try:
        with aside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise OSError(f"{path}: could not be written ({error})") from error
    except RuntimeError as error:  # so torch reports a full disk, by a place in its code
        full = shutil.disk_usage(path.parent).free < LITTLE_SPACE
        reason = "No space left on device" if full else str(error).partition("\n")[0]
        raise OSError(f"{path}: could not be written ({reason})") from error
    finally:
        aside.unlink(missing_ok=True)


def sweep(path, age=0):
    """Removes what killed processes left of a `write_whole`, if it is `age` seconds old."""
    for left in Path(path).parent.glob(f".{path.name}.*"):
        try:
            if left.suffix[1:].isdigit() and time.time() - left.stat().st_mtime >= age:
                left.unlink()
        except OSError:  # another process was faster
            continue


def hold(file):
    """Holds an open file for this process, until that closes it or ends: whether it was free.

    Where files cannot be held, as on Windows and some network drives, each is free.
    """
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def write_text(path, text):
    """Writes a text file in UTF-8, whole or not at all; see `write_whole`."""
    write_whole(path, lambda file: file.write(text.encode()))
