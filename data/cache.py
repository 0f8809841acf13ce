"""Decoded frames, kept: each image of a training set is read once, not once per clip.

Frames come from `data.frames`; this module opens only the cache files that it wrote. A cache file
holds one sequence: a line of JSON that says what made it, frames, masks, and an end mark. It is
written aside and renamed, so that neither an interruption nor a second process leaves half a file,
and it is believed only if its size and its line are exactly those expected. The line lists name,
size and modification time of every source image: a changed source has another line.
"""

import hashlib
import json
import math
import os
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore

import numpy as np

from data.frames import any_in_row, read_frame, read_window

VERSION = 1
END = b"end of cache\n"
MODES = ("auto", "memory", "disk", "none")
MEMORY_LIMIT = 4 << 30  # bytes that "auto" takes of the memory at most, and half of what is free
STALE_SECONDS = 24 * 3600  # age at which a file that was being written is one left behind


class Frames:
    """Decoded training frames by sequence; see `open_frames`.

    Attributes:
        mode: "memory", "disk" or "none".
        arrays: by sequence (frames (N, H, W), masks (N, H, W) uint8 in {0, 1}); empty for "none".
    """

    def __init__(self, sequences, size, mode, arrays):
        self.sequences, self.size = sequences, size
        self.mode, self.arrays = mode, arrays
        self._last = None, None  # the window decoded last, where nothing is kept
        self._rows = {}  # by sequence, of those asked for so far

    def read(self, index, start, stop):
        """Frames and masks [start, stop) of the sequence at `index`, as `read_window` gives."""
        if not self.arrays:
            window = index, start, stop
            if self._last[0] != window:
                self._last = window, read_window(self.sequences[index], start, stop, self.size)
            return self._last[1]
        frames, masks = self.arrays[index]
        return frames[start:stop], masks[start:stop]

    def target_rows(self, index, start, stop):
        """Which rows of the masks [start, stop) hold a target: (n, H) bool."""
        if not self.arrays:
            return any_in_row(self.read(index, start, stop)[1])
        if index not in self._rows:
            self._rows[index] = any_in_row(self.arrays[index][1])
        return self._rows[index][start:stop]


def open_frames(sequences, size=None, mode="none", folder=None, workers=None, progress=iter):
    """Decoded frames of a training set, built or found.

    Args:
        sequences: list of `data.frames.SequenceFiles`.
        size: (height, width) that frames and masks are resized to, or None.
        mode: "memory": held by this process; "disk": in files under `folder`, mapped; "none":
            decoded for every clip; "auto": the first of memory, disk, none that has the room.
        folder: of the cache files.
        workers: threads that decode; None: one per usable core.
        progress: wraps the iterator over finished sequences; its length is that of `sequences`.

    Raises:
        ValueError: an image cannot be read, or an unknown mode.
        OSError: a cache file cannot be written.
    """
    if mode not in MODES:
        raise ValueError(f"unknown cache {mode!r}: expected one of {', '.join(MODES)}")
    if mode == "auto":
        mode = choose_mode(estimated_bytes(sequences, size), Path(folder))
    if mode == "none":
        return Frames(sequences, size, mode, [])
    if mode == "disk":
        make_cache_folder(Path(folder))

    workers = max(len(os.sched_getaffinity(0)) if workers is None else workers, 1)
    # Files are written and synced while the next sequences are decoded, as many as decode at most.
    with ThreadPoolExecutor(workers) as writing, ThreadPoolExecutor(workers) as decoding:
        room = Semaphore(workers)

        def build(files):
            if mode == "disk":
                return map_sequence(files, size, Path(folder), writing, room)
            return done(read_window(files, 0, len(files), size))

        try:
            arrays = [future.result() for future in progress(decoding.map(build, sequences))]
        except BaseException:
            decoding.shutdown(cancel_futures=True)
            raise
    return Frames(sequences, size, mode, arrays)


def estimated_bytes(sequences, size):
    """Bytes of all decoded frames and masks, from the first frame of each sequence."""
    total = 0
    for files in sequences:
        frame = read_frame(files.images[0], size)
        total += len(files) * frame.size * (frame.itemsize + 1)
    return total


def choose_mode(needed, folder):
    """The mode of "auto" for that many bytes."""
    if needed <= min(MEMORY_LIMIT, free_memory() // 2):
        return "memory"
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    if os.access(existing, os.W_OK) and needed * 1.1 < shutil.disk_usage(existing).free:
        return "disk"
    return "none"


def free_memory():
    """Bytes of memory that can be had without swapping, as far as the system tells."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return MEMORY_LIMIT


def make_cache_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(".*.part"):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise cache_error(folder, error) from error


def done(result):
    """A future that has come to this result."""
    future = Future()
    future.set_result(result)
    return future


def map_sequence(files, size, folder, writing, room):
    """Frames and masks of one sequence, mapped from its cache file, which is made if needed.

    Args:
        files, size, folder: as of `open_frames`.
        writing: executor that writes the file, once it is decoded.
        room: semaphore, which bounds the sequences that wait for being written.

    Returns:
        A future of the two arrays.
    """
    place, sources = describe(files, size)
    path = folder / f"{files.name}-{place}.cache"
    arrays = map_file(path, sources)
    if arrays is not None:
        return done(arrays)
    decoded = read_window(files, 0, len(files), size)

    def write():
        try:
            write_file(path, sources, *decoded)
        finally:
            room.release()
        arrays = map_file(path, sources)
        if arrays is None:
            raise OSError(f"{path}: the cache file changed while it was opened; start again")
        return arrays

    room.acquire()
    return writing.submit(write)


def describe(files, size):
    """Two digests: which sequence at which size, and the state of its source images."""
    where = json.dumps([str(files.images[0].parent.absolute()), size])
    sources = []
    for path in (*files.images, *files.masks):
        status = path.stat()
        sources.append((str(path.absolute()), status.st_size, status.st_mtime_ns))
    digests = (hashlib.sha256(text.encode()) for text in (where, json.dumps(sources)))
    return tuple(digest.hexdigest()[:16] for digest in digests)


def write_file(path, sources, frames, masks):
    """Writes a cache file aside, then renames it.

    Of the masks only rows with targets are written: between them the file has holes, which read as
    zeros and take no room.

    Raises:
        OSError: it could not be written, the disk is full, ...
    """
    header = {
        "version": VERSION,
        "sources": sources,
        "shape": frames.shape,
        "dtype": frames.dtype.str,
    }
    _, height, width = masks.shape
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with aside.open("wb") as file:
            file.write(json.dumps(header).encode() + b"\n")
            file.write(frames.data)
            first = file.tell()
            for index, found in enumerate(any_in_row(masks)):
                rows = np.flatnonzero(found)
                if len(rows):
                    file.seek(first + (index * height + rows[0]) * width)
                    file.write(masks[index, rows[0] : rows[-1] + 1].data)
            file.seek(first + masks.nbytes)
            file.write(END)
            file.flush()
            os.fsync(file.fileno())  # the name appears only after the contents
        aside.replace(path)
    except OSError as error:
        raise cache_error(path, error) from error
    finally:
        aside.unlink(missing_ok=True)


def map_file(path, sources):
    """(frames, masks), mapped read-only; None if there is no whole file of these sources."""
    try:
        with path.open("rb") as file:
            line = file.readline(4096)
            file.seek(-len(END), os.SEEK_END)
            ended = file.read() == END
            size = file.tell()
        header = json.loads(line)
        shape, dtype = tuple(header["shape"]), np.dtype(header["dtype"])
        current = header["version"] == VERSION and header["sources"] == sources
        pixels = math.prod(shape)
        whole = ended and size == len(line) + pixels * (dtype.itemsize + 1) + len(END)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not (current and whole):
        return None
    frames = np.memmap(path, dtype, "r", len(line), shape)
    masks = np.memmap(path, np.uint8, "r", len(line) + frames.nbytes, shape)
    return frames, masks


def cache_error(path, error):
    return OSError(
        f"{path}: the cache could not be written ({error.strerror or error}); free some room, "
        "choose another place with --cache_dir, or use --cache memory or --cache none"
    )
