"""Decoded frames, kept: each image of a training set is read once, not once per clip.

Frames come from `data.frames`, and are kept in memory or by `data.cache.file`.
"""

import itertools
import shutil
from collections import deque
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock

from data.cache.file import CacheFile, make_cache_folder
from data.cores import usable_cores
from data.formats.levels import check_type
from data.frames import FrameArrays, any_in_row, decode_window, read_window
from data.images import read_frame, read_mask

MODES = ("auto", "memory", "disk", "none")
MEMORY_LIMIT = 4 << 30  # bytes that "auto" takes of the memory at most, and half of what is free
FRAMES_AT_ONCE = 25  # that a thread decodes: threads share a sequence, and end together


class Frames:
    """Decoded training frames by sequence; see `open_frames`.

    Attributes:
        mode: "memory", "disk" or "none".
        arrays: by sequence (frames (N, H, W), masks (N, H, W) uint8 in {0, 1}); empty for "none".
        stores: that the arrays are of: what `check` looks at.
    """

    def __init__(self, sequences, size, mode, arrays, stores=()):
        self.sequences, self.size = sequences, size
        self.mode, self.arrays, self.stores = mode, arrays, stores
        self._last = None, None  # the window decoded last, where nothing is kept
        self._types = {}  # by sequence, and the frame that told it, where nothing is kept
        self._rows = {}  # by sequence, of those asked for so far

    def read(self, index, start, stop):
        """Frames and masks [start, stop) of the sequence at `index`, as `read_window` gives."""
        if not self.arrays:
            window = index, start, stop
            if self._last[0] != window:
                files = self.sequences[index]
                frames, masks = read_window(files, start, stop, self.size)
                dtype, first = self._types.setdefault(index, (frames.dtype, files.images[start]))
                check_type(frames.dtype, files.images[start], dtype, first)
                self._last = window, (frames, masks)
            return self._last[1]
        if self.stores:
            self.stores[index].check()  # whoever reads past a file's end is killed
        frames, masks = self.arrays[index]
        return frames[start:stop], masks[start:stop]

    def check(self):
        """Makes sure that what is kept is still there.

        Raises:
            OSError: a file was cut or removed by others; reading it would end the process.
        """
        for store in self.stores:
            store.check()

    def any_target(self):
        """Whether any mask has a target; without kept frames masks are read up to the first."""
        if self.arrays:
            return any(masks.any() for _, masks in self.arrays)
        return any(read_mask(path).any() for files in self.sequences for path in files.masks)

    def target_rows(self, index, start, stop):
        """Which rows of the masks [start, stop) hold a target: (n, H) bool."""
        if not self.arrays:
            return any_in_row(self.read(index, start, stop)[1])
        if index not in self._rows:
            if self.stores:
                self.stores[index].check()
            self._rows[index] = any_in_row(self.arrays[index][1])
        return self._rows[index][start:stop]


def open_frames(
    sequences, size=None, mode="none", folder=None, workers=None, progress=iter, free=None
):
    """Decoded frames of a training set, built or found.

    Args:
        sequences: list of `data.lists.SequenceFiles`.
        size: (height, width) that frames and masks are resized to, or None.
        mode: "memory": held by this process; "disk": in files under `folder`, mapped; "none":
            decoded for every clip; "auto": the first of memory, disk, none that has the room.
        folder: of the cache files.
        workers: threads that decode; None: one per usable core.
        progress: wraps the iterator over finished sequences; its length is that of `sequences`.
        free: bytes of memory that there are to take from; None: what the system says is free.

    Raises:
        ValueError: an image cannot be read, or an unknown mode.
        OSError: a cache file cannot be written.
    """
    if mode not in MODES:
        raise ValueError(f"unknown cache {mode!r}: expected one of {', '.join(MODES)}")
    if mode == "auto":
        mode = choose_mode(estimated_bytes(sequences, size), Path(folder), free)
    if mode == "none":
        return Frames(sequences, size, mode, [])
    if mode == "disk":
        make_cache_folder(Path(folder))

    workers = max(usable_cores() if workers is None else workers, 1)
    builds = []
    try:
        # A sequence's file is synced while the next ones are decoded.
        with ThreadPoolExecutor(workers) as syncing, ThreadPoolExecutor(workers) as decoding:
            try:
                make = MemoryStore if mode == "memory" else partial(CacheFile, folder=Path(folder))
                stores = decoding.map(lambda files: make(files, size), sequences)

                def begin():
                    for files, store in zip(sequences, stores, strict=True):
                        builds.append(SequenceBuild(files, size, store, decoding))
                        yield builds[-1]

                kept = []
                for build in progress(begun_early(begin(), 2 * workers)):
                    build.wait()
                    kept.append(syncing.submit(build.store.finish))
                    if len(kept) > workers:  # decoding does not run ahead of a slow disk
                        kept[-1 - workers].result()
                arrays = [future.result() for future in kept]
            except BaseException:
                decoding.shutdown(cancel_futures=True)
                raise
    finally:
        for build in builds:
            build.store.discard()
    return Frames(sequences, size, mode, arrays, [build.store for build in builds])


def begun_early(items, count):
    """Yields the items, each after the `count` next ones were taken from the iterator."""
    items = iter(items)
    taken = deque(itertools.islice(items, count))
    for item in items:
        taken.append(item)
        yield taken.popleft()
    yield from taken


class MemoryStore(FrameArrays):
    """Keeps a sequence's frames and masks in memory; for the methods see `CacheFile`."""

    arrays = None

    def __init__(self, files, size):
        pass

    def finish(self):
        return self.frames, self.masks

    def check(self):
        pass

    def discard(self):
        pass


class SequenceBuild:
    """A sequence that is decoded, in blocks of frames, by the threads of `decoding`.

    Attributes:
        store: where it goes, a `MemoryStore` or `CacheFile`.
    """

    def __init__(self, files, size, store, decoding):
        self.files, self.size, self.store = files, size, store
        self.starting = Lock()
        self.dtype = None  # of the frame that came first
        starts = () if store.arrays else range(0, len(files), FRAMES_AT_ONCE)
        self.blocks = [decoding.submit(self._decode, start) for start in starts]

    def _decode(self, start):
        pairs = decode_window(self.files, start, start + FRAMES_AT_ONCE, self.size)
        for index, (frame, mask) in enumerate(pairs, start):
            with self.starting:
                if self.dtype is None:
                    self.store.begin((len(self.files), *frame.shape), frame.dtype)
                    self.dtype, self.first = frame.dtype, self.files.images[index]
            check_type(frame.dtype, self.files.images[index], self.dtype, self.first)
            self.store.put(index, frame, mask)

    def wait(self):
        """Returns when all is in the store; raises what went wrong."""
        wait(self.blocks, return_when=FIRST_EXCEPTION)
        for block in self.blocks:
            block.result()


def estimated_bytes(sequences, size):
    """Bytes of all decoded frames and masks, from the first frame of each sequence."""
    total = 0
    for files in sequences:
        frame = read_frame(files.images[0], size)
        total += len(files) * frame.size * (frame.itemsize + 1)
    return total


def room_in_memory(free=None):
    """Bytes that decoded frames may take of the memory, of which so many are free."""
    return min(MEMORY_LIMIT, (available_memory() if free is None else free) // 2)


def available_memory():
    """Bytes of memory that can be had without swapping, as far as the system tells."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return MEMORY_LIMIT


def choose_mode(needed, folder, free=None):
    """The mode of "auto" for that many bytes."""
    if needed <= room_in_memory(free):
        return "memory"
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    if needed * 1.1 < shutil.disk_usage(existing).free and takes_files(folder):
        return "disk"
    return "none"


def takes_files(folder):
    """Whether a folder can be made and written to, which is tried."""
    try:
        make_cache_folder(folder)
        with TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
