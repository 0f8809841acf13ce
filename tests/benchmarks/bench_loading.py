"""Training clips per second of one process: from the cache, and decoding each clip's images.

python -m tests.benchmarks.bench_loading
"""

import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

from data.cache import open_frames
from data.clips import TrainClips
from data.frames import find_sequences, read_window
from data.specs import get_spec
from tests.builders import random_sequence, write_list, write_nudt_sequence
from utils.memory import keep_freed_memory

SEQUENCES, FRAMES, SIZE = 6, 100, (256, 320)


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
    """Seconds to build the cache, and to read every image once with two processes."""
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(len, sequences))  # the processes are up
        seconds = {"memory": [], "disk": [], "read": []}
        for attempt in range(7):
            for job, times in seconds.items():
                start = time.perf_counter()
                if job == "read":
                    list(pool.map(read_length, sequences))
                else:
                    open_frames(sequences, None, job, root / f"cache{attempt}", workers=2)
                times.append(time.perf_counter() - start)
    memory, disk, read = (median(times) for times in seconds.values())
    print(
        f"{SEQUENCES} sequences of {FRAMES} frames, {SIZE[0]}x{SIZE[1]}: cache built in memory in "
        f"{memory:.2f} s, on disk in {disk:.2f} s; read once with 2 processes in {read:.2f} s"
    )


def read_length(files):
    return len(read_window(files, 0, len(files))[0])


def compare_clips(spec, sequences, root, size):
    """Clips per second, side by side, interleaved."""
    clips = {
        mode: TrainClips(
            sequences,
            *(spec.mean, spec.std, 40, 128, 1.0, 46, size),
            open_frames(sequences, size, mode, root / "cache"),
        )
        for mode in ("none", "disk", "memory")
    }
    rates = {mode: [] for mode in clips}
    for repeat in range(7):
        for mode, dataset in clips.items():
            count = 3 if mode == "none" else 60
            start = time.perf_counter()
            for index in range(count):
                dataset[repeat * count + index]
            rates[mode].append(count / (time.perf_counter() - start))
    rates = {mode: median(values) for mode, values in rates.items()}
    what = "as they are" if size is None else f"resized to {size[0]}x{size[1]}"
    print(
        f"clips a second, frames {what}: decoding {rates['none']:.1f}, "
        f"disk {rates['disk']:.0f} ({rates['disk'] / rates['none']:.0f}x), "
        f"memory {rates['memory']:.0f} ({rates['memory'] / rates['none']:.0f}x)"
    )


if __name__ == "__main__":
    main()
