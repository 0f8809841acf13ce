"""The runs that are compared: how they are opened and called, and what they share."""

import math

from utils.compare.counts_file import read_counts
from utils.protocols import PROTOCOLS
from utils.report.metrics_file import (
    NORMALISATION_KEYS,
    SUBSETS,
    figure_text,
    levels_of,
    normalisation_text,
    read_metrics,
)
from utils.report.published import model_title

CONTENTS = ("frames", "pixels", "targets")  # of a sequence, whatever is detected in it
PIXELS_ROUNDING = 2e-6  # of pixels that follow from a written Fa
SAME_LEVELS = 1e-6  # relative difference of a mean or std, as of sums in another order
COMPARED_FILES = ("metrics.json", "eval.txt")  # what is looked for in a folder, in this order


def open_run(path):
    """The results of a run, in the form of metrics.json.

    Args:
        path: a metrics.json, a file of published counts (see `read_counts`), or a folder that
            holds a metrics.json or an eval.txt.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    if path.is_dir():
        found = [path / name for name in COMPARED_FILES if (path / name).is_file()]
        path = found[0] if found else path / COMPARED_FILES[0]
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a metrics.json, as test.py writes it")
    return read_counts(path) if path.suffix == ".txt" else read_metrics(path)


def label_runs(paths, runs):
    """A short name for each run: its number, its model if known, and folder."""
    folders = [path.resolve().name if path.is_dir() else path.stem for path in paths]
    return [
        f"{number} {folder}"
        if run["model"] is None
        else f"{number} {model_title(run['model'])} ({folder})"
        for number, (run, folder) in enumerate(zip(runs, folders, strict=True), 1)
    ]


def shared_protocols(runs, wanted=()):
    """[(protocol, its subsets)] that all runs have, and that are known here.

    Args:
        runs: contents of metrics.json of each.
        wanted: names of protocols; all if empty.

    Raises:
        ValueError: there is none, or a wanted one is not among them.
    """
    shared = []
    for name, protocol in PROTOCOLS.items():
        if all(name in run["protocols"] for run in runs) and (not wanted or name in wanted):
            subsets = [run["protocols"][name]["subsets"] for run in runs]
            shared.append((protocol, [s for s in SUBSETS if all(s in own for own in subsets)]))
    missing = set(wanted) - {protocol.name for protocol, _ in shared}
    if missing or not shared:
        found = "; ".join(", ".join(run["protocols"]) for run in runs)
        asked = f" among {', '.join(sorted(missing))}" if missing else ""
        raise ValueError(
            f"the runs have no protocol in common that is known here{asked}: they have {found}"
        )
    return shared


def iou_text(run, threshold):
    """The IoU of a run, which is known at one threshold only."""
    if run["threshold_eval"] == threshold:
        return figure_text(run["iou"], digits=4)
    return f"- (computed at {run['threshold_eval']:g})"


def comparison_notes(runs, names):
    """Lines on what is not comparable, or left out."""
    everything = [_everything(run) for run in runs]
    notes = []
    for name, run, counts in zip(names[1:], runs[1:], everything[1:], strict=True):
        datasets = {run["dataset"], runs[0]["dataset"]} - {None}  # a counts file names none
        if len(datasets) > 1 or counts != everything[0]:
            notes.append(
                f"Not comparable: {name} is on {_dataset(run)} ({counts} targets), run 1 on "
                f"{_dataset(runs[0])} ({everything[0]})"
            )
        elif (difference := other_data(runs[0], run)) is not None:
            sequence, key, before, now = difference
            notes.append(f"Not comparable: {sequence} has {now} {key} in {name}, {before} in run 1")
        elif own := _lonely(runs[0], run):
            notes.append(f"Not comparable: {own} is a sequence of run 1 or of {name} alone")
    notes += _normalisation_notes(runs, names)
    laid = [name for name, run in zip(names, runs, strict=True) if run.get("stabilised")]
    if laid and any(run.get("stabilised") is False for run in runs):
        notes.append(f"Frames were laid on each other first (--stabilise) in {', '.join(laid)}")
    reaches = [run.get("mark_reach") for run in runs]
    if len({*reaches}) > 1:
        cut = [f"{r} px in {name}" for r, name in zip(reaches, names, strict=True) if r is not None]
        notes.append(f"Detections are not marked as a whole (--mark_reach): {', '.join(cut)}")
    tracked = [name for name, run in zip(names, runs, strict=True) if run.get("tracks")]
    if tracked:
        notes.append(f"Of {', '.join(tracked)} all detections are compared, not those of tracks")
    shared = [protocol.name for protocol, _ in shared_protocols(runs)]
    for protocol in shared:
        sizes = [len(run["protocols"][protocol]["thresholds"]) for run in runs]
        if len({tuple(run["protocols"][protocol]["thresholds"]) for run in runs}) > 1:
            counts = ", ".join(map(str, sizes))
            notes.append(f"Thresholds of {protocol} differ ({counts}): areas do not compare")
    other = dict.fromkeys(name for run in runs for name in run["protocols"] if name not in shared)
    if other:
        notes.append(f"Left out, not of all runs or not known here: {', '.join(other)}")
    return notes


def other_data(first, second):
    """The first sequence of two runs that is not the same: (name, what differs, numbers of both).

    None where no frames, pixels or targets of a sequence that both have are told to differ.
    """
    for name in (name for name in first["protocols"] if name in second["protocols"]):
        entries, others = (run["protocols"][name]["sequences"] for run in (first, second))
        for sequence in (each for each in entries if each in others):
            for key in CONTENTS:
                numbers = entries[sequence].get(key), others[sequence].get(key)
                told = all(isinstance(number, int) for number in numbers)
                if told and not math.isclose(*numbers, rel_tol=PIXELS_ROUNDING):
                    return sequence, key, *numbers
    return None


def _lonely(first, second):
    """A sequence that but one of two runs has; None if there is none."""
    found = [next(iter(run["protocols"].values()))["sequences"].keys() for run in (first, second)]
    return min(found[0] ^ found[1], default=None)


def _normalisation_notes(runs, names):
    """A line where runs tell that they normalised a sequence otherwise; none: as far as is told."""
    told = {name: run for name, run in zip(names, runs, strict=True) if levels_of(run)}
    first, *others = [_levels(run) for run in told.values()] or [{}]
    alike = all(
        math.isclose(first[sequence][key], own[sequence][key], rel_tol=SAME_LEVELS)
        for own in others
        for sequence in first.keys() & own.keys()
        for key in NORMALISATION_KEYS
    )
    if alike:
        return []
    words = "; ".join(f"{name} by {normalisation_text(run)}" for name, run in told.items())
    return [f"Grey levels were normalised otherwise: {words}"]


def _levels(run):
    """{sequence: its mean and std} of a run, as far as it tells them."""
    levels, counted = levels_of(run), next(iter(run["protocols"].values()))
    found = {name: levels.get(name, levels.get(None)) for name in counted["sequences"]}
    return {name: each for name, each in found.items() if each is not None}


def _dataset(run):
    return run["dataset"] or "an unnamed data set"


def _everything(run):
    """Number of targets of a run: the same under every protocol that counts them."""
    counts = (counted["subsets"]["all"].get("targets") for counted in run["protocols"].values())
    return next((count for count in counts if count is not None), None)
