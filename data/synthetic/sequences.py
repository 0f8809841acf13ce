"""Writes synthetic infrared sequences with small moving targets, in NUDT-MIRSDT's layout.

    python -m data.synthetic --output datasets/synthetic --preset small --seed 46

gives, with masks of 0 and 255 and one pixel per target in `masks_centroid`,

    <output>/Sequence1/{images,masks,masks_centroid}/00001.png ...
    <output>/train.txt, test.txt    one line per frame: Sequence1/images/00001.png
    <output>/snr.csv                one row per sequence: sequence, split, snr, ...
    <output>/synthetic.json         preset and seed; written last, it marks a finished generation

A frame x at time t is what a staring sensor on an unsteady platform records:

    x_t = quantise(g (V_t scene + a sum_k targets_k,t) + o + n_t),

where V_t looks at a scene larger than the frame, blurred by optics and pixel, after slow drift and
per-frame jitter; n is white in time; gain g and offset o are fixed patterns of pixels and columns.
Targets share the platform's jitter. The one factor a sets the sequence's signal-to-noise ratio.

**SNR.** The mean over all frames and visible targets of C / sigma. The peak contrast C is what the
target adds, in grey levels, at its brightest pixel. sigma is the standard deviation of the frame
without targets (but with its noise) in the 21 x 21 pixels around that pixel, cut at the frame's
border, without the targets' masks dilated by 5 x 5. Both are taken from the 8-bit frames with and
without targets, so the value recorded in snr.csv holds what quantisation and clipping left.
A sequence has low SNR if it is at most 3.

**Masks.** A pixel belongs to a target if the target adds at least half of what it adds at its
brightest pixel in that frame; at most the nine brightest, connected to the brightest, and only
while the target's true position lies within the frame.

The same seed and preset give the same bytes, whatever the number of workers. Positions are
(row, column) in pixels, times are in frames.
"""

import argparse
import csv
import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from data.frames import LOW_SNR_LIMIT
from data.synthetic.scenes import BACKGROUNDS
from data.synthetic.sensor import draw_platform, draw_sensor, quantise, render_background
from data.synthetic.targets import Target, draw_targets, local_background_std, render_target

GENERATION = 1  # raise it when the same seed no longer gives the same bytes
LOW_SNR_RANGE = (0.9, 2.8)  # wanted; what is measured scatters by a few percent
HIGH_SNR_RANGE = (3.4, 9.4)
SNR_TOLERANCE = 0.05  # relative, between wanted and measured
LEVEL_RANGE = (80.0, 130.0)  # mean grey level of a sequence; NUDT-MIRSDT's mean is 105.4
MASK_DILATION = 5  # width of the square that keeps the target out of its background


@dataclasses.dataclass(frozen=True)
class Preset:
    """Size of a data set: sequences per split, how many of them have low SNR, and their shape."""

    train: int
    train_low: int
    test: int
    test_low: int
    frames: int
    heights: tuple[int, int]  # inclusive
    widths: tuple[int, int]


PRESETS = {
    "small": Preset(12, 4, 6, 2, frames=60, heights=(128, 144), widths=(144, 176)),
    "full": Preset(80, 27, 20, 8, frames=100, heights=(200, 300), widths=(300, 480)),
}


@dataclasses.dataclass(frozen=True)
class SequencePlan:
    """What is settled about one sequence before it is rendered."""

    name: str
    split: str
    background: str
    frames: int
    height: int
    width: int
    snr: float  # wanted
    level: float  # mean grey level
    contrast: float  # standard deviation of the scene, grey levels
    seed: np.random.SeedSequence


@dataclasses.dataclass(frozen=True)
class Sequence:
    """A rendered sequence; all stacks (T, H, W) uint8, masks and centroids in {0, 1}."""

    plan: SequencePlan
    frames: np.ndarray
    clean: np.ndarray  # the same frames, noise included, without targets
    masks: np.ndarray
    centroids: np.ndarray
    targets: list[Target]
    snr: float  # measured
    record: dict  # further columns of snr.csv


def plan_sequences(preset, seed):
    """The plans of all sequences, training split first.

    Background kinds, mean levels and SNRs are stratified within each split, so that even a small
    split has every kind (five sequences or more), dark and bright, dim and clear ones.
    """
    planner, *seeds = np.random.SeedSequence(seed).spawn(1 + preset.train + preset.test)
    rng = np.random.default_rng(planner)
    plans = []
    for split, count, low in (
        ("train", preset.train, preset.train_low),
        ("test", preset.test, preset.test_low),
    ):
        snrs = [*spread(rng, low, LOW_SNR_RANGE), *spread(rng, count - low, HIGH_SNR_RANGE)]
        order = rng.permutation(count)
        backgrounds = rng.permutation(np.resize(rng.permutation(list(BACKGROUNDS)), count))
        levels = spread(rng, count, LEVEL_RANGE)
        for i in range(count):
            number = len(plans) + 1
            _, contrast = BACKGROUNDS[backgrounds[i]]
            plans.append(
                SequencePlan(
                    name=f"Sequence{number}",
                    split=split,
                    background=str(backgrounds[i]),
                    frames=preset.frames,
                    height=int(rng.integers(*preset.heights, endpoint=True)),
                    width=int(rng.integers(*preset.widths, endpoint=True)),
                    snr=float(snrs[order[i]]),
                    level=float(levels[i]),
                    contrast=float(rng.uniform(*contrast)),
                    seed=seeds[number - 1],
                )
            )
    return plans


def spread(rng, count, limits):
    """`count` values, one at random in each of as many equal parts of the range, shuffled."""
    low, high = limits
    return low + (high - low) * (rng.permutation(count) + rng.uniform(0, 1, count)) / max(count, 1)


def render_sequence(plan):
    """Renders a planned sequence.

    Targets are drawn anew where clipping at 255 keeps them from the wanted SNR (a tight spread of
    bright clutter around a bright target); a high SNR is then lowered step by step.

    Returns:
        Sequence whose measured SNR is within SNR_TOLERANCE of the wanted one and on the same side
        of LOW_SNR_LIMIT.
    """
    rng = np.random.default_rng(plan.seed)
    drift, jitter = draw_platform(rng, plan.frames)
    # What the camera does to the scene is opposite to what it does to the targets' positions.
    background = render_background(rng, plan, drift - jitter)
    gain, additive, sigma = draw_sensor(rng, background.shape)
    background = gain * background + additive
    clean = quantise(background)
    for attempt in range(40):
        easing = 0.9 ** max(attempt - 2, 0) if plan.snr > LOW_SNR_LIMIT else 1.0
        wanted = HIGH_SNR_RANGE[0] + (plan.snr - HIGH_SNR_RANGE[0]) * easing
        targets = draw_targets(rng, plan.frames, plan.height, plan.width, jitter)
        footprints = [f for target in targets for f in render_target(target, *clean.shape[1:])]
        frames, masks, centroids, snr = add_targets(background, clean, gain, footprints, wanted)
        same_side = (snr <= LOW_SNR_LIMIT) == (wanted <= LOW_SNR_LIMIT)
        if same_side and abs(snr - wanted) <= SNR_TOLERANCE * wanted:
            break
    else:
        raise RuntimeError(f"{plan.name}: no targets reach SNR {wanted:.2f}, the last {snr:.2f}")
    record = {
        "background": plan.background,
        "frames": plan.frames,
        "height": plan.height,
        "width": plan.width,
        "targets": len(targets),
        "target_frames": int(centroids.sum()),
        "noise": round(sigma, 3),
        "jitter": round(float(jitter.std()), 3),
    }
    return Sequence(plan, frames, clean, masks, centroids, targets, snr, record)


def add_targets(background, clean, gain, footprints, wanted):
    """Adds targets with the one amplitude that gives the wanted SNR.

    Args:
        background: (T, H, W) float32 grey levels, noise included; clean: the same, quantised.
        gain: (H, W) of the sensor.
        footprints: of all targets.
        wanted: SNR before quantisation and clipping.

    Returns:
        frames, masks, centroids (T, H, W) uint8, and the SNR measured on them.
    """
    masks, centroids = np.zeros_like(clean), np.zeros_like(clean)
    visible = [f for f in footprints if f.mask.any()]
    for f in visible:
        masks[f.frame, f.rows, f.columns] |= f.mask
        centroids[f.frame][f.centroid] = 1
    dilated = ndimage.maximum_filter(masks, size=(1, MASK_DILATION, MASK_DILATION)) > 0
    stds = np.array([local_background_std(clean, dilated, f) for f in visible])
    peaks = np.array([f.values.max() * gain[f.peak] for f in visible])
    amplitude = np.float32(wanted / np.mean(peaks / stds))
    lit = background.copy()
    for f in footprints:
        window = f.rows, f.columns
        lit[f.frame][window] += amplitude * f.values * gain[window]
    frames = quantise(lit)
    contrasts = [float(frames[f.frame][f.peak]) - float(clean[f.frame][f.peak]) for f in visible]
    return frames, masks, centroids, float(np.mean(contrasts / stds))


def write_sequence(plan, folder):
    """Renders a sequence and writes its frames and masks below `folder`.

    Returns:
        Its row of snr.csv.
    """
    sequence = render_sequence(plan)
    for kind, stack in (
        ("images", sequence.frames),
        ("masks", 255 * sequence.masks),
        ("masks_centroid", 255 * sequence.centroids),
    ):
        path = Path(folder, plan.name, kind)
        path.mkdir(parents=True)
        for i, image in enumerate(stack, start=1):
            Image.fromarray(image).save(path / f"{i:05d}.png", compress_level=1)
    snr = f"{sequence.snr:.4f}"
    return {"sequence": plan.name, "split": plan.split, "snr": snr, **sequence.record}


def write_synthetic(output, preset="small", seed=46, workers=None, progress=True):
    """Writes a synthetic data set to the folder `output`.

    The folder appears under its name only when everything is in it; until then it is
    `<output>.partial-<pid>`. A folder that already holds the same generation is left as it is.

    Args:
        output: a folder that does not exist yet, or is empty.
        preset: a name in PRESETS, or a Preset.
        seed: not negative.
        workers: processes; None for one per usable core. More than one starts fresh interpreters,
            so a script that calls this needs the usual `if __name__ == "__main__"`.
        progress: whether to show a progress bar on stderr.

    Raises:
        ValueError: unknown preset, or a seed or number of workers out of range.
        FileExistsError: `output` holds something else.
        OSError: the folder cannot be written, the disk is full, ...
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}: expected one of {', '.join(PRESETS)}")
        preset = PRESETS[preset]
    if seed < 0:
        raise ValueError(f"seed {seed}: expected 0 or more")
    workers = usable_cores() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers {workers}: expected 1 or more")
    output = Path(output).resolve()  # behind a link, so that the folder can be renamed
    identity = {"generation": GENERATION, "seed": seed, "preset": dataclasses.asdict(preset)}
    identity = json.dumps(identity, indent=1) + "\n"
    if holds(output, identity):
        return
    partial = output.with_name(f"{output.name}.partial-{os.getpid()}")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.mkdir()
    try:
        plans = plan_sequences(preset, seed)
        rows = write_sequences(plans, partial, workers, progress)
        write_lists(plans, rows, partial)
        (partial / "synthetic.json").write_text(identity)
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def usable_cores():
    """Cores this process may run on; all of the machine's where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def holds(output, identity):
    """Whether `output` is a complete generation of this identity; False if it is free to write.

    Raises:
        FileExistsError: it holds something else.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    marker = output / "synthetic.json"
    if marker.is_file() and marker.read_text(errors="replace") == identity:
        listed = "".join((output / f"{split}.txt").read_text() for split in ("train", "test"))
        if (output / "snr.csv").is_file() and all(
            (output / line.replace("/images/", f"/{kind}/")).is_file()
            for line in listed.split()
            for kind in ("images", "masks", "masks_centroid")
        ):
            return True
    raise FileExistsError(
        f"{output} exists and is not a complete generation of this preset and seed: "
        "remove it or choose another folder"
    )


def write_sequences(plans, folder, workers, progress):
    """Writes all sequences, in as many processes as there are workers.

    Returns:
        Their rows of snr.csv, in the order of the plans.
    """
    bar = tqdm(total=len(plans), unit="sequence", disable=not progress)
    if workers == 1:
        rows = []
        with bar:
            for plan in plans:
                rows.append(write_sequence(plan, folder))
                bar.update()
        return rows
    pool = ProcessPoolExecutor(
        min(workers, len(plans)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),  # the parent answers Ctrl-C
    )
    with bar:
        try:
            futures = [pool.submit(write_sequence, plan, folder) for plan in plans]
            for future in as_completed(futures):
                future.result()
                bar.update()
        finally:
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


def write_lists(plans, rows, folder):
    """Writes train.txt, test.txt and snr.csv."""
    for split in ("train", "test"):
        lines = [
            f"{plan.name}/images/{i:05d}.png\n"
            for plan in plans
            if plan.split == split
            for i in range(1, plan.frames + 1)
        ]
        (folder / f"{split}.txt").write_text("".join(lines))
    with open(folder / "snr.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def parse_args(argv=None):
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data.synthetic",
        description="Write synthetic infrared sequences with small targets, as NUDT-MIRSDT.",
    )
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")
    parser.add_argument("--output", required=True, help="folder to write; must not exist yet")
    parser.add_argument("--preset", default="small", help=f"one of {', '.join(PRESETS)} [small]")
    parser.add_argument("--seed", type=int, default=46, help="[46]")
    parser.add_argument("--workers", type=int, help="processes [one per core]")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    try:
        write_synthetic(args.output, args.preset, args.seed, args.workers)
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: a worker was killed
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("error: interrupted, nothing written", file=sys.stderr)
        sys.exit(130)
