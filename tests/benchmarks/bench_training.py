"""Training steps per second on the CPU and their peak memory: ours, and the plain network's.

python -m tests.benchmarks.bench_training [--model DeepPro] [--rounds 1] [--steps 3] [--batch 4]

Every variant is a process of its own, in turn, round after round: 10 GB each, and the C library's
settings stay with a process. "plain" decodes the images of every clip and runs the network as it
is; "plain, kept memory" also has `utils.process.keep_freed_memory`; "ours" is what train.py does.
"""

import argparse
import os
import resource  # of Unix
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from data.cache.build import open_frames
from data.clips import ClipOptions, TrainClips
from data.lists import find_sequences
from data.specs import get_spec
from losses import build_loss
from models import build_model
from models.engine.training.network import FastTraining
from tests.builders import STAGED, random_sequence, write_list, write_nudt_sequence
from utils.process import keep_freed_memory

VARIANTS = ("plain", "plain, kept memory", "ours")


def main():
    args = parse_args()
    if args.variant:
        print(*time_steps(args))
        return print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
    with tempfile.TemporaryDirectory() as args.data:
        write_data(Path(args.data))
        seconds, peaks = {variant: [] for variant in VARIANTS}, dict.fromkeys(VARIANTS, 0.0)
        for _ in range(args.rounds):
            for variant in VARIANTS:
                times, peak = run_variant(args, variant)
                seconds[variant] += times
                peaks[variant] = max(peaks[variant], peak)
                print(variant, *(f"{s:.1f} s" for s in seconds[variant]), file=sys.stderr)
    print(f"{args.model}, {args.batch} x 40 x 128 x 128, {torch.get_num_threads()} threads")
    for variant, values in seconds.items():
        ratio = median(values) / median(seconds["ours"])
        rate = f"{1 / median(values):.4f} steps/s, peak {peaks[variant]:.1f} GB"
        print(f"  {variant}: {rate}, ours is {ratio:.2f}x as fast")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=STAGED, default="DeepPro")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="timed, after as many that are not")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    return parser.parse_args()


def write_data(root):
    rng = np.random.default_rng(0)
    for name in ("Sequence1", "Sequence2"):
        sequence = random_sequence(rng, 100, 256, 320)
        write_nudt_sequence(root, name, *sequence, centroids=False)
    write_list(root / "train.txt", ["Sequence1", "Sequence2"])


def run_variant(args, variant):
    command = [sys.executable, "-m", "tests.benchmarks.bench_training", "--variant", variant]
    for name in ("model", "steps", "batch", "data"):
        command += [f"--{name}", str(getattr(args, name))]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    times, peak = ([float(word) for word in line.split()] for line in output.stdout.splitlines())
    return times, *peak


def time_steps(args):
    """Seconds of each timed step, loading included."""
    ours = args.variant == "ours"
    if args.variant != "plain":
        keep_freed_memory()
    spec = get_spec("NUDT-MIRSDT")
    files = find_sequences(spec, spec.train, args.data)
    frames = open_frames(files, spec.train_size, "memory" if ours else "none")
    options = ClipOptions(seqlen=40, patch_size=128, sample_rate=1.0, seed=46)
    clips = TrainClips(files, spec.mean, spec.std, options, spec.train_size, frames)
    model = build_model(args.model).train()
    network = FastTraining(model) if ours else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    criterion = build_loss("SoftIoU")
    seconds = []
    for step in range(2 * args.steps):  # memory that is mapped for the first time is slow
        start = time.perf_counter()
        items = [clips[step * args.batch + index] for index in range(args.batch)]
        clip, mask = (torch.stack(parts) for parts in zip(*items, strict=True))
        optimizer.zero_grad(set_to_none=True)
        criterion(network(clip), mask).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds[args.steps :]


if __name__ == "__main__":
    main()
