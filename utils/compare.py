"""Compares runs: Pd, Fa, AUC and IoU of several metrics.json side by side.

    python -m utils.compare RUN RUN ... [--output compare.png]

A RUN is a metrics.json, or a folder that holds one. Intervals are bootstrapped over sequences: the
test list is drawn anew, with replacement, many times. Differences are to the first run, and drawn
with the same sequences for both.
"""

import re
from pathlib import Path

import numpy as np

from utils.command_line import CommandParser, run_command
from utils.metrics import THRESHOLDS
from utils.report.figures import draw_curves
from utils.report.results import read_metrics


def parse_args(argv=None):
    parser = CommandParser(prog="-m utils.compare", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", type=Path, help="a metrics.json, or its folder")
    add("--threshold", type=float, default=0.5, help="one of the published thresholds")
    add("--output", type=Path, help="write Pd over Fa of all runs to this PNG, for each protocol")
    add("--samples", type=int, default=10_000, help="test lists drawn for an interval")
    add("--seed", type=int, default=46, help="of the draws")
    return parser.parse_args(argv)


def main(args):
    if args.threshold not in THRESHOLDS:
        known = ", ".join(f"{threshold:g}" for threshold in THRESHOLDS)
        raise ValueError(f"--threshold {args.threshold:g}: expected one of {known}")
    if args.samples < 1:
        raise ValueError(f"--samples {args.samples}: expected 1 or more")
    runs = [open_run(path) for path in args.runs]
    names = label_runs(args.runs, runs)
    print("\n".join(compare(runs, names, args.threshold, args.samples, args.seed)))
    if args.output:
        for protocol in runs[0]["protocols"]:
            path = args.output.with_name(f"{args.output.stem}_{protocol}.png")
            curves = {
                name: run["protocols"][protocol]["subsets"]["all"]
                for name, run in zip(names, runs, strict=True)
            }
            draw_curves(path, curves, f"Pd over Fa, all targets, {_words(protocol)}")
            print(f"  written: {path}")


def open_run(path):
    """Reads a metrics.json, given itself or its folder.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    path = path / "metrics.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a metrics.json, as test.py writes it")
    return read_metrics(path)


def label_runs(paths, runs):
    """A short name for each run: its number, model and folder."""
    folders = [path.resolve().name if path.is_dir() else path.stem for path in paths]
    return [
        f"{number} {run['model']} ({folder})"
        for number, (run, folder) in enumerate(zip(runs, folders, strict=True), 1)
    ]


def compare(runs, names, threshold, samples, seed):
    """The table, as lines of text.

    Args:
        runs: contents of metrics.json of each.
        names: of each.
        threshold: one of `THRESHOLDS`.
        samples, seed: of the bootstrap.
    """
    index = THRESHOLDS.index(threshold)
    lines = [f"Threshold {threshold:g}; Pd in 1e-2, Fa in 1e-5; [95 % over sequences]"]
    lines += _data_notes(runs, names)
    for protocol in runs[0]["protocols"]:
        subsets = [
            subset
            for subset in ("low_snr", "high_snr", "all")
            if all(names_sequences(run, protocol, subset) for run in runs)
        ]
        for subset in subsets:
            lines.append(f"{_words(protocol)}, {subset.replace('_', ' ')}")
            first = None
            for name, run in zip(names, runs, strict=True):
                counts = sequence_counts(run, protocol, subset, index)
                rates = bootstrap(counts, samples, seed)
                auc = run["protocols"][protocol]["subsets"][subset]["auc"]
                lines.append(
                    f"  {name}: Pd {_interval(rates['pd'], 100)}  Fa {_interval(rates['fa'], 1e5)}"
                    f"  AUC {'-' if auc is None else f'{auc:.4f}'}"
                    + (f"  IoU {run['iou']:.4f}" if subset == "all" else "")
                )
                if first is None:
                    first = counts
                    continue
                differences = bootstrap_difference(first, counts, samples, seed)
                if differences is None:
                    lines.append("    minus 1: other sequences, no paired difference")
                    continue
                lines.append(
                    f"    minus 1: Pd {_interval(differences['pd'], 100, '+')}  "
                    f"Fa {_interval(differences['fa'], 1e5, '+')}"
                )
    return lines


def names_sequences(run, protocol, subset):
    """Whether a run has this subset and tells which sequences are in it."""
    return subset == "all" or "sequences" in run["protocols"][protocol]["subsets"].get(subset, {})


def sequence_counts(run, protocol, subset, index):
    """{sequence: (detected, targets, false-alarm pixels, pixels)} at one threshold."""
    counts = run["protocols"][protocol]
    names = counts["sequences"] if subset == "all" else counts["subsets"][subset]["sequences"]
    return {
        name: np.array(
            [
                counts["sequences"][name]["detected"][index],
                counts["sequences"][name]["targets"],
                counts["sequences"][name]["false_alarm_pixels"][index],
                counts["sequences"][name]["pixels"],
            ],
            dtype=float,
        )
        for name in names
    }


def bootstrap(counts, samples, seed):
    """{"pd": (value, low, high), "fa": likewise}: the value and its 95 % interval.

    Args:
        counts: from `sequence_counts`.
        samples: lists of as many sequences drawn with replacement.
        seed: of the draws; equal seeds draw equal lists.
    """
    table = np.array(list(counts.values()))
    value = rates(table.sum(axis=0))
    drawn = rates(_draws(len(table), samples, seed) @ table)
    return {key: (value[key].item(), *_limits(drawn[key])) for key in value}


def bootstrap_difference(first, second, samples, seed):
    """As `bootstrap`, of second - first, both on the same drawn lists; None if sequences differ."""
    if first.keys() != second.keys():
        return None
    one, two = np.array(list(first.values())), np.array([second[name] for name in first])
    value, base = rates(two.sum(axis=0)), rates(one.sum(axis=0))
    draws = _draws(len(one), samples, seed)
    drawn, drawn_base = rates(draws @ two), rates(draws @ one)
    return {
        key: ((value[key] - base[key]).item(), *_limits(drawn[key] - drawn_base[key]))
        for key in value
    }


def rates(counts):
    """Pd and Fa of summed counts (..., 4); NaN where there is no target."""
    detected, targets, alarms, pixels = np.moveaxis(counts, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"pd": detected / targets, "fa": alarms / pixels}


def _draws(sequences, samples, seed):
    """(samples, sequences): how often each sequence is in each drawn list."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(sequences, np.full(sequences, 1 / sequences), samples).astype(float)


def _limits(values):
    values = values[np.isfinite(values)]
    if values.size == 0:
        return np.nan, np.nan
    low, high = np.percentile(values, (2.5, 97.5))
    return low.item(), high.item()


def _interval(values, factor, sign=""):
    value, low, high = (factor * number for number in values)
    return f"{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def _words(protocol):
    return re.sub(r"hit(\d+)_guard(\d+)", r"hit \1, guard \2", protocol)


def _data_notes(runs, names):
    """A line for each run that was tested on other data than the first."""
    first = runs[0]
    notes = []
    for name, run in zip(names[1:], runs[1:], strict=True):
        ours, theirs = (r["protocols"]["hit1_guard4"]["subsets"]["all"] for r in (run, first))
        if run["dataset"] != first["dataset"] or ours["targets"] != theirs["targets"]:
            notes.append(
                f"Not comparable: {name} is on {run['dataset']} ({ours['targets']} targets), run 1 "
                f"on {first['dataset']} ({theirs['targets']})"
            )
    return notes


if __name__ == "__main__":
    run_command(lambda: main(parse_args()))
