"""Files that are there whole or not at all, that a folder was given, that one process holds."""

import csv
import hashlib
import io
import json
import os
import shutil
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import msvcrt
except ImportError:  # all others
    msvcrt = None

LITTLE_SPACE = 1 << 20  # bytes left on a disk that is as good as full
ABANDONED = 600  # seconds after which what an interrupted write left is removed
LONGEST_NAME = 180  # bytes of a name that others are added to; systems take 255 in all
HELD_BYTE = 1 << 30  # of a file, past its end: what is held where whole files cannot be
WRITTEN = ".written.json"  # in a folder of results: the files that it was given
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet calculates begins so
_listings = []  # that hear of every file written


def write_whole(path, write, lasting=True):
    """Lets `write(file)` fill a file beside `path`, opened for bytes, then renames it.

    Args:
        path: of the file.
        write: as above.
        lasting: whether it has to outlive a failure of power, too; of many files that can be made
            again that would take long.

    Raises:
        OSError: it could not be written; what was at `path` is unharmed.
    """
    path = Path(path)
    aside = path.with_name(f"{_hidden(path.name)}.{uuid.uuid4().int}")
    if lasting:
        sweep(path, ABANDONED)
    try:
        with aside.open("wb") as file:
            write(file)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path}: could not be written ({reason})") from error
    except RuntimeError as error:  # so torch reports a full disk, by a place in its code
        full = shutil.disk_usage(path.parent).free < LITTLE_SPACE
        reason = "No space left on device" if full else str(error).partition("\n")[0]
        raise OSError(f"{path}: could not be written ({reason})") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    for paths in _listings:
        paths.append(str(path))


def sweep(path, age=0):
    """Removes what killed processes left of a `write_whole`, if it is `age` seconds old."""
    path = Path(path)
    start = f"{_hidden(path.name)}."
    for left in path.parent.iterdir() if path.parent.is_dir() else ():
        if not (left.name.startswith(start) and left.name.removeprefix(start).isdigit()):
            continue
        try:
            if time.time() - left.stat().st_mtime >= age:
                left.unlink()
        except OSError:  # another process was faster
            continue


def _hidden(name):
    """What a hidden file beside that of this name is called, but for a number of its own."""
    return f".{short_name(name)}"


def short_name(name):
    """A name that more can be added to: the name itself, or its begin and a digest of it."""
    data = os.fsencode(name)
    if len(data) <= LONGEST_NAME:
        return name
    begin = data[: LONGEST_NAME - 9].decode("utf-8", "ignore")
    return f"{begin}-{hashlib.sha256(data).hexdigest()[:8]}"


@contextmanager
def renewed(folder, part_of, active=True):
    """Within it files are written below a folder; what earlier calls wrote is removed at its end.

    That is, of the parts that were written to, and what belongs to them. What the folder was given
    is listed in it, so that no file of anyone else is touched. After an error nothing is removed.

    Args:
        folder: as above.
        part_of: gives, for a path (a `PurePosixPath`) relative to the folder, any name of the part
            it belongs to: "a/b" is a part that belongs to "a", not the other way round.
        active: whether this process sees to that; of several, one does.

    Yields:
        A list of the paths that were written; those that other processes wrote are to be added.
    """
    paths, old, stale = [], _listed(folder), set()
    _listings.append(paths)
    try:
        yield paths
        new = {path for path in _below(folder, paths) if (folder / path).exists()}
        parts = set(map(part_of, new))
        stale = {path for path in old - new if _belongs(part_of(path), parts)}
        if active:
            _remove(folder, stale)
    finally:
        _listings[:] = [each for each in _listings if each is not paths]
        if active and paths:
            names = sorted(map(str, _below(folder, paths) | old - stale))
            with suppress(OSError):  # on a full disk, of which others tell
                write_text(folder / WRITTEN, json.dumps(names, indent=0) + "\n")


def _belongs(part, parts):
    """Whether a part is one of these or belongs to one."""
    return any(part == each or part.startswith(f"{each}/") for each in parts)


def _below(folder, paths):
    """Those of some paths that lie below a folder, relative to it."""
    relative = (PurePosixPath(Path(os.path.relpath(path, folder)).as_posix()) for path in paths)
    return {path for path in relative if ".." not in path.parts}


def _listed(folder):
    """The files that a folder was given, relative to it; none where that cannot be read."""
    try:
        names = json.loads((folder / WRITTEN).read_text("utf-8"))
        paths = {PurePosixPath(name) for name in names}
    except (OSError, ValueError, TypeError):
        return set()
    return {path for path in paths if not path.is_absolute() and ".." not in path.parts}


def remove_files(paths):
    """Removes files that are there, and their folders if they are empty then."""
    for path in paths:
        with suppress(OSError):
            path.unlink()
    for folder in {path.parent for path in paths}:
        with suppress(OSError):  # not empty
            folder.rmdir()


def _remove(folder, paths):
    """Removes files below a folder, and what folders are empty then."""
    for path in paths:
        with suppress(OSError):
            (folder / path).unlink()
    for place in sorted({parent for path in paths for parent in path.parents}, reverse=True):
        if place.parts:
            with suppress(OSError):  # not empty
                (folder / place).rmdir()


def csv_text(rows):
    """Rows of cells as the text of a CSV file.

    A text that a spreadsheet would take for a formula, as a folder may be named, has an apostrophe
    before it; see `read_cell`.
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(map(_cell, row) for row in rows)
    return buffer.getvalue()


def _cell(value):
    if isinstance(value, str) and value.startswith((*FORMULA, "'")):
        return f"'{value}"
    return value


def read_cell(text):
    """The text of a cell that `csv_text` wrote."""
    return text[1:] if text.startswith("'") else text


def hold(file):
    """Holds an open file for this process, until that closes it or ends: whether it was free.

    Where files cannot be held, as on some network drives, each is free.
    """
    if fcntl is None:
        return msvcrt is None or _hold_byte(file)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def _hold_byte(file):
    """`hold` on Windows, where what is held cannot be read: one byte past any file's end."""
    descriptor = file.fileno()
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        os.lseek(descriptor, HELD_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except PermissionError:
        return False
    except OSError:
        return True
    finally:
        os.lseek(descriptor, place, os.SEEK_SET)
    return True


def write_text(path, text):
    """Writes a text file in UTF-8, whole or not at all; see `write_whole`."""
    write_whole(path, lambda file: file.write(text.encode()))
