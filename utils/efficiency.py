"""The efficiency columns of the published tables, of a detector as it is tested here."""

import platform
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from utils.complexity import complexity
from utils.evaluation import READ
from utils.scan import Streamed

MEASURED_FRAMES = 100  # of a run, as a sequence of NUDT-MIRSDT has
MEASURED_RUNS, LEAST_RUNS = 5, 3
MEASURED_SECONDS = 60.0

PRODUCTS_RULE = (
    "G: multiply-accumulates in 1e9 per predicted frame, of convolutions and linear maps; +BN: "
    "with 4 for each element that BatchNorm writes, which reproduces most published numbers."
)
SPEED_RULE = (
    f"frames/s: 8-bit frames in memory to final float32 scores in memory through the scan, one "
    f"sequence of up to {MEASURED_FRAMES} frames a run, after warming up, synchronised; median of "
    f"{LEAST_RUNS} to {MEASURED_RUNS} runs."
)


class Speed(NamedTuple):
    """Frames per second, the median of some runs of so many frames."""

    frames_per_second: float
    frames: int
    runs: int


def measure_efficiency(detector, scan, size, setting):
    """What metrics.json says of a detector's cost, at frames of one size: plain values.

    Multiply-accumulates follow `utils.complexity.complexity`, on frames of that very size;
    `gmac_streamed` is None unless the scan keeps what it made of the frames before. The speed is
    that of `measure_speed`.

    Args:
        detector: see `models.detector.Detector`.
        scan: from `utils.scan.open_scan`, of this detector or a faster form of it.
        size: (height, width) of the frames.
        setting: words on how the network is run.

    Raises:
        ValueError: the detector does not take frames of this size.
    """
    height, width = size
    cost = complexity(detector, height, width)
    streamed = None
    if isinstance(scan, Streamed):
        streamed = complexity(detector, height, width, streaming=True).with_norms / 1e9
    return {
        "height": height,
        "width": width,
        "parameters": cost.parameters,
        "kib": cost.kib,
        "gmac": cost.products / 1e9,
        "gmac_with_norms": cost.with_norms / 1e9,
        "gmac_streamed": streamed,
        **measure_speed(scan, size)._asdict(),
        "setting": setting,
        "hardware": describe_hardware(scan.device),
    }


def measure_speed(scan, size, frames=MEASURED_FRAMES, runs=MEASURED_RUNS, seconds=MEASURED_SECONDS):
    """Frames per second of a scan, from frames in memory to final scores in memory: `Speed`.

    A run is one sequence of `frames` noise frames of 8 bits: `begin`, `push` by as many frames as a
    test reads at once, `finish`, and the device is done. So it holds normalisation, padding,
    copies, the network, sigmoid and the joining of windows, and neither reading nor scoring. Two
    short runs come before, to warm up. The result is the median of `runs` runs, or of fewer, three
    at least, once all have taken `seconds`.

    Where `runs` runs would take longer than `seconds`, a run has fewer frames: one clip of a
    detector that predicts all of them, as many as fit, but two at least, of any other.

    Args:
        scan: from `utils.scan.open_scan`.
        size: (height, width) of the frames.
    """
    rng = np.random.default_rng(46)
    sequence = rng.integers(0, 256, (frames, *size), dtype=np.uint8)
    by_clip = scan.detector.predicts == "all" and not scan.detector.recurrent
    shortest = min(scan.seqlen if by_clip else 2, frames)
    for _ in range(2):  # the first also prepares what is prepared once
        per_frame = seconds_of_run(scan, sequence[:shortest]) / shortest
    fitting = int(min(seconds / runs / per_frame, frames))
    if fitting < frames:
        sequence = sequence[: shortest if by_clip else max(fitting, shortest)]
    took = []
    while len(took) < runs and (len(took) < LEAST_RUNS or sum(took) < seconds):
        took.append(seconds_of_run(scan, sequence))
    return Speed(len(sequence) / statistics.median(took), len(sequence), len(took))


def seconds_of_run(scan, frames):
    """Seconds from frames (n, H, W) in memory to their final scores in memory."""
    scan.begin(float(frames.mean()), float(frames.std()))
    _synchronise(scan.device)
    began = time.perf_counter()
    scores = []
    for start in range(0, len(frames), READ):
        scores += scan.push(frames[start : start + READ])
    scores += scan.finish()
    _synchronise(scan.device)
    took = time.perf_counter() - began
    assert sum(len(block.scores) for block in scores) == len(frames)
    return took


def _synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe_hardware(device):
    """The processor that a network runs on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def efficiency_line(efficiency):
    """What `measure_efficiency` found, in one line for the terminal."""
    streamed = efficiency["gmac_streamed"]
    more = "" if streamed is None else f" ({streamed:.2f} as streamed here)"
    return (
        f"{efficiency['kib']:.2f} KiB; at {efficiency['height']}x{efficiency['width']} "
        f"{efficiency['gmac']:.2f} G multiply-accumulates, {efficiency['gmac_with_norms']:.2f} "
        f"with BatchNorm{more}, {efficiency['frames_per_second']:.2f} frames/s "
        f"({efficiency['runs']} runs of {efficiency['frames']} frames, {efficiency['setting']}, "
        f"{efficiency['hardware']})"
    )
