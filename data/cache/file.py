"""The file that keeps a sequence's decoded frames.

A line of JSON that says what made it, frames, masks, a checksum of both, and an end mark. It is
written aside and renamed, so that neither an interruption nor a second process leaves half a file,
and it is believed only if its size, its line and its pixels are exactly those expected. The line
has a digest of name, size and modification time of every source image: a changed source has another
line.
"""

import hashlib
import itertools
import json
import math
import os
import platform
import time
from contextlib import suppress
from threading import Lock

import numpy as np
import torch
from zlib_ng import zlib_ng

from data.frames import target_band
from data.pairing import printable

VERSION = 2  # of the file, and of how images are read
NAME_LENGTH = 48  # characters of a sequence's name in that of its file
CHECKSUM = 8  # hexadecimal digits before the end mark
END = b"end of cache\n"
STALE_SECONDS = 24 * 3600  # age at which a file that was being written is one left behind
_written = itertools.count()  # numbers the files that this process writes


def make_cache_folder(folder):
    """Makes the folder if needed, and frees it of what interrupted builds left.

    Raises:
        OSError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        parts = list(folder.glob(".*.part"))
    except OSError as error:
        raise cache_error(folder, error) from error
    for path in parts:
        with suppress(OSError):  # another process was faster, or it is another user's
            if left_behind(path):
                path.unlink()


def left_behind(path):
    """Whether a file that was being written is not any more: its process is gone, or it is old."""
    host, _, process = path.name.split(".")[-2].rpartition("-")[0].rpartition("-")
    if os.name == "posix" and host == _host() and process.isdigit():
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # it runs, for another user
    return time.time() - path.stat().st_mtime > STALE_SECONDS


def _host():
    return "".join(c for c in platform.node()[:32] if c.isalnum()) or "host"


class CacheFile:
    """A sequence's cache file: found whole, or written by `begin`, `put` and `finish`.

    Attributes:
        path: of the file.
        arrays: (frames (N, H, W), masks (N, H, W) uint8 in {0, 1}), mapped read-only; None as long
            as there is no whole file of these sources.

    Args:
        files: `data.lists.SequenceFiles`.
        size: (height, width) that frames and masks are resized to, or None.
        folder: of the cache.
    """

    def __init__(self, files, size, folder):
        place, self.sources = digests_of(files, size)
        self.path = folder / f"{printable(files.name)[:NAME_LENGTH]}-{place}.cache"
        own = f"{_host()}-{os.getpid()}-{next(_written)}"
        self.aside = self.path.with_name(f".{self.path.name}.{own}.part")
        self.file = None  # open while it is written
        self.seeking = Lock()  # where the system has no way to write at a place
        self.arrays = map_file(self.path, self.sources)

    def begin(self, shape, dtype):
        """Begins a file, anew if one was begun, for frames and masks of this shape.

        Raises, as `put` and `finish` do:
            OSError: it could not be written, the disk is full, ...
        """
        self.discard()
        dtype = np.dtype(dtype)
        header = {
            "version": VERSION,
            "sources": self.sources,
            "shape": shape,
            "dtype": dtype.str,
        }
        try:
            self.file = self.aside.open("wb", buffering=0)
            self.frames = self._write(json.dumps(header).encode() + b"\n", 0)
        except OSError as error:
            raise cache_error(self.path, error) from error
        pixels = math.prod(shape)
        self.masks = self.frames + pixels * dtype.itemsize
        self.end = self.masks + pixels
        self.checksums = np.zeros((shape[0], 2), np.uint32)

    def put(self, index, frame, mask):
        """Writes a frame and its mask; several threads may, each another one.

        Of the masks only rows with targets are written: between them the file has holes, which
        read as zeros and take no room.
        """
        frame, mask = np.ascontiguousarray(frame), np.ascontiguousarray(mask)
        self.checksums[index] = zlib_ng.crc32(frame), zlib_ng.crc32(mask)
        band = target_band(mask)
        place = self.masks + index * mask.size + band.start * mask.shape[1]
        try:
            self._write(frame, self.frames + index * frame.nbytes)
            if band.stop:
                self._write(mask[band], place)
        except OSError as error:
            raise cache_error(self.path, error) from error

    def _write(self, content, place):
        """Writes bytes or a contiguous array at this place of the file; returns where it ends."""
        content = memoryview(content).cast("B")
        while len(content):
            count = self._write_some(content, place)
            content, place = content[count:], place + count
        return place

    def _write_some(self, content, place):
        """Writes as many of the bytes as the system takes at once; returns their number."""
        if hasattr(os, "pwrite"):
            return os.pwrite(self.file.fileno(), content, place)
        with self.seeking:
            self.file.seek(place)
            return self.file.write(content)

    def finish(self):
        """Gives the file, now whole, its name; returns `arrays`."""
        if self.file is not None:
            try:
                self._write(_checksum(self.checksums) + END, self.end)
                os.fsync(self.file.fileno())  # the name appears only after the contents
                self.file.close()
                self.aside.replace(self.path)
            except OSError as error:
                raise cache_error(self.path, error) from error
            self.file = None
            self.arrays = map_file(self.path, self.sources)
            if self.arrays is None:
                raise OSError(f"{self.path}: the cache file changed while it was opened; run again")
        return self.arrays

    def check(self):
        """Makes sure that the mapped file is still whole; see `data.cache.build.Frames.check`."""
        frames, masks = self.arrays
        try:
            size = self.path.stat().st_size
        except OSError:
            return  # removed: what is mapped stays
        if size < frames.nbytes + masks.nbytes:
            raise OSError(f"{self.path}: was cut while it was in use; remove it and run again")

    def discard(self):
        """Removes the file if it was begun and not finished."""
        if self.file is not None:
            self.file.close()
            self.aside.unlink(missing_ok=True)
            self.file = None


def digests_of(files, size):
    """Two digests: which sequence at which size, and the state of its source images."""
    where = json.dumps([str(files.images[0].parent.absolute()), size])
    sources = []
    for path in (*files.images, *files.masks):
        status = path.stat()
        sources.append((str(path.absolute()), status.st_size, status.st_mtime_ns))
    digests = (hashlib.sha256(text.encode()) for text in (where, json.dumps(sources)))
    return tuple(digest.hexdigest()[:16] for digest in digests)


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
        end = len(line) + pixels * (dtype.itemsize + 1)
        whole = ended and size == end + CHECKSUM + len(END)
        if not (current and whole):
            return None
        # Unlike numpy's map it keeps no file open, of which a process may have few.
        content = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return None
    content.flags.writeable = False
    start = len(line) + pixels * dtype.itemsize
    frames = content[len(line) : start].view(dtype).reshape(shape)
    masks = content[start:end].reshape(shape)
    checksums = [[zlib_ng.crc32(x) for x in pair] for pair in zip(frames, masks, strict=True)]
    found = content[end : end + CHECKSUM].tobytes()
    return (frames, masks) if found == _checksum(np.array(checksums, np.uint32)) else None


def _checksum(checksums):
    """The checksum of a file, from those of its frames and masks (N, 2) uint32."""
    return b"%08x" % zlib_ng.crc32(np.ascontiguousarray(checksums))


def cache_error(path, error):
    return OSError(
        f"{path}: the cache could not be written ({error.strerror or error}); free some room, "
        "choose another place with --cache_dir, or use --cache memory or --cache none"
    )
