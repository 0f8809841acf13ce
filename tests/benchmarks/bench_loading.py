"""Training clips per second of one process: from the cache, and decoding each clip's images.

python -m tests.benchmarks.bench_loading
"""

import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from data.cache.build import open_frames
from data.clips import ClipOptions, TrainClips
from data.frames import any_in_row
from data.images import resize
from data.lists import find_sequences
from data.specs import get_spec
from tests.builders import random_sequence, write_list, write_nudt_sequence
from utils.process import keep_freed_memory

SEQUENCES, FRAMES, SIZE = 6, 100, (256, 320)
REPEATS = 9


def main():
    keep_freed_memory()  # as train.py does
    spec = get_spec("NUDT-MIRSDT")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rng = np.random.default_rng(0)
        names = [f"Sequence{number}" for number in range(1, SEQUENCES + 1)]
        for name in names:
            write_nudt_sequence(root, name, *random_sequence(rng, FRAMES, *SIZE), centroids=False)
        write_list(root / "train.txt", names)
        sequences = find_sequences(spec, spec.train, root)
        compare_building(sequences, root)
        for size in (None, spec.train_size):
            compare_clips(spec, sequences, root, size)


def compare_building(sequences, root):
    """Seconds to build the cache, and to read every image once with two processes, plainly.

    The processes are started before, once: to fork them between the measurements would slow down
    what this process writes next.
    """
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(len, sequences))  # the processes are up
        seconds = {"memory": [], "disk": [], "read": []}
        for attempt in range(REPEATS + 1):
            for job, times in seconds.items():
                folder = root / f"cache{attempt}"
                start = time.perf_counter()
                if job == "read":
                    list(pool.map(read_plainly, sequences))
                else:
                    open_frames(sequences, None, job, folder, workers=2)
                times.append(time.perf_counter() - start)
            shutil.rmtree(folder)
    memory, disk, read = (median(times[1:]) for times in seconds.values())  # the first warms up
    print(
        f"{SEQUENCES} sequences of {FRAMES} frames, {SIZE[0]}x{SIZE[1]}: cache built in memory in "
        f"{memory:.3f} s, on disk in {disk:.3f} s; read once with 2 processes in {read:.3f} s"
    )


def read_plainly(files):
    """Decodes every frame and mask with the image library, keeps nothing."""
    return sum(pixels(path).size for path in (*files.images, *files.masks))


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


class PlainFrames:
    """What `data.cache.build.Frames` gives, each clip's images decoded by the image library."""

    def __init__(self, sequences, size):
        self.sequences, self.size = sequences, size
        self._last = None, None

    def read(self, index, start, stop):
        window = index, start, stop
        if self._last[0] != window:
            files = self.sequences[index]
            frames = [pixels(path) for path in files.images[start:stop]]
            masks = [pixels(path) for path in files.masks[start:stop]]
            if self.size is not None:
                frames, masks = ([resize(x, self.size) for x in part] for part in (frames, masks))
            self._last = window, (np.stack(frames), (np.stack(masks) > 0).view(np.uint8))
        return self._last[1]

    def check(self):
        """Nothing is kept."""

    def target_rows(self, index, start, stop):
        return any_in_row(self.read(index, start, stop)[1])


def compare_clips(spec, sequences, root, size):
    """Clips per second, side by side, interleaved, after an epoch that warms up."""
    frames = {"plain": PlainFrames(sequences, size)}
    for mode in ("none", "disk", "memory"):
        frames[mode] = open_frames(sequences, size, mode, root / "cache")
    options = spec.mean, spec.std, ClipOptions(40, 128, 1.0, 46), size
    clips = {mode: TrainClips(sequences, *options, kept) for mode, kept in frames.items()}
    counts = {"plain": 6, "none": 6, "disk": 120, "memory": 120}
    for mode, dataset in clips.items():
        for index in range(len(dataset) if mode in ("disk", "memory") else 3):
            dataset[index]
        dataset.set_epoch(1)
    rates = {mode: [] for mode in clips}
    for repeat in range(REPEATS):
        for mode, dataset in clips.items():
            count = counts[mode]
            start = time.perf_counter()
            for index in range(count):
                dataset[(repeat * count + index) % len(dataset)]
            rates[mode].append(count / (time.perf_counter() - start))
    rates = {mode: median(values) for mode, values in rates.items()}
    what = "as they are" if size is None else f"resized to {size[0]}x{size[1]}"
    print(
        f"clips a second, frames {what}: decoding plainly {rates['plain']:.1f}, "
        + ", ".join(
            f"{name} {rates[mode]:.{digits}f} ({rates[mode] / rates['plain']:.{digits}f}x)"
            for name, mode, digits in (
                ("our decoding", "none", 1),
                ("disk", "disk", 0),
                ("memory", "memory", 0),
            )
        )
    )


if __name__ == "__main__":
    main()
