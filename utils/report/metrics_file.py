"""metrics.json: its form, and how figures are looked up in it."""

import json
import math
from pathlib import Path

from utils.files import write_text
from utils.protocols import OPERATING_POINT

LARGEST_COUNT = 1 << 50  # a count beyond it is none of pixels
SUBSETS = {"low_snr": "low SNR", "high_snr": "high SNR", "all": "all"}
STEPS = ("reading", "network", "scoring", "output")
NORMALISATION_KEYS = ("mean", "std")
# What a metrics.json must have to be read: keys and types.
FORM = {
    "run": str,
    "model": str,
    "dataset": str,
    "seqlen": int,
    "threshold_eval": (int, float),
    "thresholds": list,
    "iou": (int, float),
    "protocols": dict,
}


def write_metrics(path, metrics):
    """Writes metrics.json whole or not at all."""
    write_text(path, json.dumps(metrics, indent=1, allow_nan=False) + "\n")


def read_metrics(path):
    """Reads a metrics.json: its form is checked here, once, for all who use it.

    In a file of an earlier version the thresholds of a protocol are those of the whole file.

    Raises:
        ValueError: it is not one, or not whole.
    """
    try:
        metrics = json.loads(Path(path).read_text("utf-8-sig"))
        check_metrics(metrics)
    except ValueError as error:  # JSON and UTF-8 that are broken, too
        raise ValueError(f"{path}: not a metrics.json of test.py: {error}") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    return metrics


def check_metrics(metrics):
    """Checks the form of a metrics.json and fills in the thresholds of its protocols.

    Raises:
        ValueError: something is missing or of another type; the message names it.
    """
    _check_keys(metrics, "", FORM)
    for key in ("seqlen", "threshold_eval", "iou"):
        _check_figure(key, metrics[key], "", 0)
    for levels in levels_of(metrics).values():
        for key in NORMALISATION_KEYS:
            _check_figure(key, levels[key], "of 'normalisation': ", 0)
    if not metrics["protocols"]:
        raise ValueError("no protocol in 'protocols'")
    for name, counted in metrics["protocols"].items():
        _check_keys(counted, f"of protocol {name}: ", {"sequences": dict, "subsets": dict})
        counted.setdefault("thresholds", metrics["thresholds"])
        _check_keys(counted, f"of protocol {name}: ", {"thresholds": list})
        if "all" not in counted["subsets"]:
            raise ValueError(f"of protocol {name}: no subset 'all'")
        for part in ("sequences", "subsets"):
            for entry, numbers in counted[part].items():
                where = f"of {entry} in protocol {name}: "
                _check_keys(numbers, where, {})
                for key, each in numbers.items():
                    _check_figure(key, each, where, len(counted["thresholds"]))
        for subset, numbers in counted["subsets"].items():
            unknown = set(numbers.get("sequences", ())) - counted["sequences"].keys()
            if unknown:
                raise ValueError(f"of {subset} in protocol {name}: no sequence {min(unknown)!r}")
        thresholds = counted["thresholds"]
        if not all(map(_is_number, thresholds)):
            raise ValueError(f"of protocol {name}: 'thresholds' that are no numbers")


def normalisation_entry(found):
    """What metrics.json says of the normalisation: that of all sequences, or of each its own.

    Args:
        found: {sequence: (mean, std)} that frames were normalised with.

    Returns:
        {"mean": number, "std": number}, {"sequences": {name: the same}}, or None of no sequence.
    """
    entries = {
        name: dict(zip(NORMALISATION_KEYS, map(float, levels), strict=True))
        for name, levels in found.items()
    }
    first = next(iter(entries.values()), None)
    alike = all(entry == first for entry in entries.values())
    return first if alike else {"sequences": entries}


def levels_of(metrics):
    """{sequence: {"mean": number, "std": number}} of a metrics.json, or {None: that of all}.

    Empty where it tells none, as those of earlier versions.

    Raises:
        ValueError: it is of another form.
    """
    entry = metrics.get("normalisation")
    if entry is None:
        return {}
    where = "of 'normalisation': "
    _check_keys(entry, where, {})
    levels = entry.get("sequences", {None: entry})
    _check_keys(levels, where, {})
    for each in levels.values():
        _check_keys(each, where, dict.fromkeys(NORMALISATION_KEYS, int | float))
    return levels


def normalisation_text(metrics):
    """The mean and std of a metrics.json in words; None where it tells none."""
    levels = levels_of(metrics)
    if not levels:
        return None
    own = "" if None in levels else "each sequence's own: "
    return own + levels_text(
        *([each[key] for each in levels.values()] for key in NORMALISATION_KEYS)
    )


def levels_text(means, stds):
    """The means and standard deviations of sequences in words: one number, or the span of many."""
    return f"mean {_span(means)}, std {_span(stds)}"


def _span(numbers):
    low, high = (f"{x:.4f}" if abs(x) >= 1 else f"{x:.5g}" for x in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"


def _check_figure(key, value, where, thresholds):
    """Checks what stands under a key of a sequence or subset: numbers, None where undefined."""
    if key == "sequences":
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ValueError(f"{where}{key!r} that are no names")
        return
    numbers = value if isinstance(value, list) else [value]
    if not all(each is None or _is_number(each) for each in numbers):
        raise ValueError(f"{where}{key!r} that is no number, or not within {LARGEST_COUNT}")
    if isinstance(value, list) and len(value) != thresholds:
        raise ValueError(f"{where}{len(value)} numbers in {key!r} for {thresholds} thresholds")


def _is_number(value):
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) <= LARGEST_COUNT


def _check_keys(found, where, form):
    if not isinstance(found, dict):
        raise ValueError(f"{where}{type(found).__name__}, expected an object")
    for key, kind in form.items():
        if not isinstance(found.get(key), kind):
            raise ValueError(f"{where}no {key!r}" if key not in found else f"{where}bad {key!r}")


def figure_at(counted, entry, key, threshold=OPERATING_POINT):
    """A figure of a sequence or subset; of one that runs over thresholds, that at `threshold`.

    Args:
        counted: `protocols.<name>` of a metrics.json.
        entry: of its `sequences` or `subsets`.
        key: of the figure, or of a count.

    Returns:
        A number; None where it is undefined, absent, or not known at this threshold.
    """
    figure = entry.get(key)
    if not isinstance(figure, list):
        return figure
    thresholds = counted["thresholds"]
    return figure[thresholds.index(threshold)] if threshold in thresholds else None


def figure_text(figure, factor=1, digits=2, sign=""):
    """A figure times a factor, with that many digits; "-" for None or NaN."""
    if figure is None or math.isnan(figure):
        return "-"
    return f"{figure * factor:{sign}.{digits}f}"


def column_texts(protocol, counted, entry):
    """[(title, text)] of a protocol's columns for a sequence or subset, at threshold 0.5."""
    return [
        (title, figure_text(figure_at(counted, entry, key), factor, digits))
        for title, key, factor, digits in protocol.columns
    ]


def shown_at(columns, threshold=OPERATING_POINT):
    """What the numbers of some columns are: Threshold 0.5; Pd in 1e-2, Fa in 1e-5."""
    scaled = [(title, factor) for title, _, factor, _ in columns if factor != 1]
    units = ", ".join(f"{title} in 1e-{math.log10(factor):.0f}" for title, factor in scaled)
    return "; ".join(text for text in (f"threshold {threshold:g}", units) if text)
