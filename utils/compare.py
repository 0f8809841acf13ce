"""Compares runs: Pd, Fa, AUC and IoU of several metrics.json side by side.

    python -m utils.compare RUN RUN ... [--output compare.png]

A RUN is a metrics.json, or a folder that holds one. Intervals are bootstrapped over sequences: the
test list is drawn anew, with replacement, many times. Differences are to the first run, and drawn
with the same sequences for both.
"""

from pathlib import Path

import numpy as np

from utils.command_line import CommandParser, run_command
from utils.protocols import OPERATING_POINT, PROTOCOLS
from utils.report.figures import draw_pd_fa
from utils.report.metrics_file import (
    SUBSETS,
    column_texts,
    figure_at,
    figure_text,
    read_metrics,
    shown_at,
)

# The counts that Pd and Fa are made of, of a sequence: intervals are drawn where a run has them.
COUNTED = ("detected", "targets", "false_alarm_pixels", "pixels")


def parse_args(argv=None):
    parser = CommandParser(prog="-m utils.compare", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", type=Path, help="a metrics.json, or its folder")
    add(
        "--threshold",
        type=float,
        default=OPERATING_POINT,
        help="of the scores; one at which the runs were counted",
    )
    add("--output", type=Path, help="write Pd over Fa of all runs to this PNG, for each protocol")
    add(
        "--samples",
        type=int,
        default=10_000,
        help="how often the test list is drawn anew for the 95 %% intervals",
    )
    add("--seed", type=int, default=46, help="of these draws")
    return parser.parse_args(argv)


def main(args):
    if args.samples < 1:
        raise ValueError(f"--samples {args.samples}: expected 1 or more")
    runs = [open_metrics(path) for path in args.runs]
    names = label_runs(args.runs, runs)
    print("\n".join(compare(runs, names, args.threshold, args.samples, args.seed)))
    if args.output:
        for path in draw_runs(args.output, runs, names):
            print(f"  written: {path}")


def open_metrics(path):
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


def joint_table(runs):
    """The figures of several runs at threshold 0.5 beside each other, as lines of text.

    Args:
        runs: contents of metrics.json of each.
    """
    names = [f"{number} {run['model']}" for number, run in enumerate(runs, 1)]
    lines = [f"{name}: {run['run']}" for name, run in zip(names, runs, strict=True)]
    lines += _notes(runs, names)
    shared = shared_protocols(runs)
    for protocol, subsets in shared:
        lines.append(f"{protocol.title}, {shown_at(protocol.columns)}")
        # Many columns do not fit beside those of other subsets.
        beside = [subsets] if len(protocol.columns) < 4 else [[subset] for subset in subsets]
        for some in beside:
            lines += _joint_rows(runs, names, protocol, some, with_iou=protocol is shared[0][0])
    return lines


def _joint_rows(runs, names, protocol, subsets, with_iou):
    """Lines of some subsets under one protocol; the IoU depends on none."""
    at = runs[0]["threshold_eval"]
    groups, titles = ["", ""], ["", f"IoU at {at:g}" if with_iou else ""]
    rows = [
        [name, _iou_text(run, at) if with_iou else ""]
        for name, run in zip(names, runs, strict=True)
    ]
    for subset in subsets:
        titles += [title for title, *_ in protocol.columns]
        groups += [SUBSETS.get(subset, subset), *[""] * (len(protocol.columns) - 1)]
        for row, run in zip(rows, runs, strict=True):
            counted = run["protocols"][protocol.name]
            row += [t for _, t in column_texts(protocol, counted, counted["subsets"][subset])]
    return _aligned([groups, titles, *rows])


def compare(runs, names, threshold, samples, seed):
    """The table with intervals and differences, as lines of text.

    Args:
        runs: contents of metrics.json of each.
        names: of each.
        threshold: one of the thresholds of each.
        samples, seed: of the bootstrap.

    Raises:
        ValueError: the threshold is none of a run's, or the runs have no protocol in common.
    """
    shared = shared_protocols(runs)
    columns = dict.fromkeys(column for protocol, _ in shared for column in protocol.columns)
    lines = [f"At {shown_at(columns, threshold)}; [95 % over sequences]"]
    lines += _notes(runs, names)
    for protocol, subsets in shared:
        for name, run in zip(names, runs, strict=True):
            _check_threshold(name, run["protocols"][protocol.name]["thresholds"], threshold)
        for subset in subsets:
            lines.append(f"{protocol.title}, {SUBSETS.get(subset, subset)}")
            counts = [sequence_counts(run, protocol.name, subset, threshold) for run in runs]
            for place, (name, run, ours) in enumerate(zip(names, runs, counts, strict=True)):
                drawn = {} if ours is None else bootstrap(ours, samples, seed)
                words = _figures(run["protocols"][protocol.name], protocol, subset, threshold)
                words |= _intervals(drawn, protocol.columns)
                if subset == "all":
                    words.setdefault("IoU", _iou_text(run, threshold))
                text = "  ".join(f"{title} {figure}" for title, figure in words.items())
                lines.append(f"  {name}: {text}")
                if place > 0 and ours is not None and counts[0] is not None:
                    drawn = bootstrap_difference(counts[0], ours, samples, seed)
                    words = _intervals(drawn or {}, protocol.columns, "+")
                    text = "  ".join(f"{title} {figure}" for title, figure in words.items())
                    lines.append(f"    minus 1: {text or 'other sequences, no paired difference'}")
    return lines


def draw_runs(path, runs, names):
    """Draws Pd over Fa of all runs for each protocol that has both; returns the PNGs' paths.

    Args:
        path: of a PNG; the protocol's name is added to its own.
        runs, names: as in `compare`.
    """
    written = []
    for protocol, _ in shared_protocols(runs):
        counted = [run["protocols"][protocol.name] for run in runs]
        curves = [each["subsets"]["all"] for each in counted]
        grids = {tuple(each["thresholds"]) for each in counted}
        if len(grids) == 1 and all({"pd", "fa", "pixels"} <= curve.keys() for curve in curves):
            written.append(path.with_name(f"{path.stem}_{protocol.name}.png"))
            labelled = dict(zip(names, curves, strict=True))
            title = f"Pd over Fa, all targets, {protocol.title}"
            draw_pd_fa(written[-1], labelled, counted[0]["thresholds"], title)
    return written


def shared_protocols(runs):
    """[(protocol, its subsets)] that all runs have, and that are known here.

    Raises:
        ValueError: there is none.
    """
    shared = []
    for name, protocol in PROTOCOLS.items():
        if all(name in run["protocols"] for run in runs):
            subsets = [run["protocols"][name]["subsets"] for run in runs]
            shared.append((protocol, [s for s in SUBSETS if all(s in own for own in subsets)]))
    if not shared:
        found = "; ".join(", ".join(run["protocols"]) for run in runs)
        raise ValueError(f"the runs have no protocol in common that is known here: {found}")
    return shared


def sequence_counts(run, protocol, subset, threshold):
    """{sequence: (detected, targets, false-alarm pixels, pixels)} at one threshold.

    None where the run does not tell these, or not which sequences are in the subset.

    Args:
        run: contents of a metrics.json.
        protocol: name of one of its protocols.
        subset: of that.
        threshold: one of its thresholds.
    """
    counted = run["protocols"][protocol]
    sequences = counted["sequences"]
    names = list(sequences) if subset == "all" else counted["subsets"][subset].get("sequences")
    if not names or not all(key in sequences[name] for key in COUNTED for name in names):
        return None
    return {
        name: np.array(
            [figure_at(counted, sequences[name], key, threshold) for key in COUNTED], dtype=float
        )
        for name in names
    }


def bootstrap(counts, samples, seed):
    """{"pd": (value, low, high), "fa": likewise}: the value and its 95 % interval.

    One sequence has no interval: its ends are NaN.

    Args:
        counts: from `sequence_counts`.
        samples: lists of as many sequences drawn with replacement.
        seed: of the draws; equal seeds draw equal lists.
    """
    table = np.array(list(counts.values()))
    found = rates(table.sum(axis=0))
    drawn = rates(_draws(len(table), samples, seed) @ table)
    return {key: (found[key].item(), *_limits(drawn[key], len(table))) for key in found}


def bootstrap_difference(first, second, samples, seed):
    """As `bootstrap`, of second - first, both on the same drawn lists; None if sequences differ."""
    if first.keys() != second.keys():
        return None
    one, two = np.array(list(first.values())), np.array([second[name] for name in first])
    found, base = rates(two.sum(axis=0)), rates(one.sum(axis=0))
    draws = _draws(len(one), samples, seed)
    drawn, drawn_base = rates(draws @ two), rates(draws @ one)
    return {
        key: ((found[key] - base[key]).item(), *_limits(drawn[key] - drawn_base[key], len(one)))
        for key in found
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


def _limits(drawn, sequences):
    drawn = drawn[np.isfinite(drawn)]
    if sequences < 2 or drawn.size == 0:
        return np.nan, np.nan
    low, high = np.percentile(drawn, (2.5, 97.5))
    return low.item(), high.item()


def _figures(counted, protocol, subset, threshold):
    """{title: text} of a protocol's columns at a threshold."""
    entry = counted["subsets"][subset]
    return {
        title: figure_text(figure_at(counted, entry, key, threshold), factor, digits)
        for title, key, factor, digits in protocol.columns
    }


def _intervals(drawn, columns, sign=""):
    """{title: text} with intervals, of those columns that they were drawn for."""
    words = {}
    for title, key, factor, digits in columns:
        if key in drawn:
            value, low, high = (figure_text(x, factor, digits, sign) for x in drawn[key])
            bounds = "-" if low == "-" else f"{low}, {high}"
            words[title] = value if value == "-" else f"{value} [{bounds}]"
    return words


def _iou_text(run, threshold):
    """The IoU of a run, which is known at one threshold only."""
    if run["threshold_eval"] == threshold:
        return figure_text(run["iou"], digits=4)
    return f"- (computed at {run['threshold_eval']:g})"


def _check_threshold(name, thresholds, threshold):
    if threshold not in thresholds:
        known = ", ".join(f"{each:g}" for each in thresholds)
        raise ValueError(
            f"--threshold {threshold:g}: {name} has none such; expected one of {known}"
        )


def _aligned(rows):
    """Rows of cells as lines of text: the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column else f"  {cell}".ljust(width + 2)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _notes(runs, names):
    """Lines on what is not comparable, or left out."""
    everything = [_everything(run) for run in runs]
    notes = []
    for name, run, counts in zip(names[1:], runs[1:], everything[1:], strict=True):
        if run["dataset"] != runs[0]["dataset"] or counts != everything[0]:
            notes.append(
                f"Not comparable: {name} is on {run['dataset']} ({counts} targets), run 1 on "
                f"{runs[0]['dataset']} ({everything[0]})"
            )
    shared = [protocol.name for protocol, _ in shared_protocols(runs)]
    other = dict.fromkeys(name for run in runs for name in run["protocols"] if name not in shared)
    if other:
        notes.append(f"Left out, not of all runs or not known here: {', '.join(other)}")
    return notes


def _everything(run):
    """Number of targets of a run: the same under every protocol that counts them."""
    counts = (counted["subsets"]["all"].get("targets") for counted in run["protocols"].values())
    return next((count for count in counts if count is not None), None)


if __name__ == "__main__":
    run_command(lambda: main(parse_args()))
