"""Writes a synthetic data set: frames, masks, lists and the table of SNRs."""

import csv
import dataclasses
import json
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from data.cores import usable_cores
from data.saving import new_folder, writing_at
from data.synthetic.plans import GENERATED, GENERATION, PRESETS, plan_sequences
from data.synthetic.rendering import render_sequence


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
    with writing_at(output):
        if holds(output, identity):
            return
        try:
            with new_folder(output) as folder:
                plans = plan_sequences(preset, seed)
                rows = write_sequences(plans, folder, workers, progress)
                write_lists(plans, rows, folder)
                (folder / GENERATED).write_text(identity)
        except FileExistsError:
            if not holds(output, identity):  # another process generated the same
                raise


def holds(output, identity):
    """Whether `output` is a complete generation of this identity; False if it is free to write.

    Raises:
        FileExistsError: it holds something else.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    marker = output / GENERATED
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
        initializer=end_after_parent,
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


def end_after_parent():
    """Makes a process that writes end when its parent has, not by Ctrl-C or SIGTERM.

    A terminal sends the one to both, a job's end the other: the parent answers.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


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
