"""Figures with intervals, bootstrapped over sequences, and differences between runs."""

import numpy as np

from utils.compare.runs import comparison_notes, iou_text, other_data
from utils.report.metrics_file import SUBSETS, figure_at, figure_text, shown_at


def compare(runs, names, shared, threshold, samples, seed):
    """The table with intervals and differences, as lines of text.

    Args:
        runs: contents of metrics.json of each.
        names: of each.
        shared: from `utils.compare.runs.shared_protocols`.
        threshold: one of the thresholds of each.
        samples, seed: of the bootstrap.

    Raises:
        ValueError: the threshold is none of a run's.
    """
    columns = dict.fromkeys(column for protocol, _ in shared for column in protocol.columns)
    lines = [f"At {shown_at(columns, threshold)}; [95 % over sequences]"]
    lines += comparison_notes(runs, names)
    pairs = [other_data(runs[0], run) is None for run in runs]
    for protocol, subsets in shared:
        check_threshold(runs, names, protocol, threshold)
        for subset in subsets:
            lines.append(f"{protocol.title}, {SUBSETS.get(subset, subset)}")
            counts = [sequence_counts(run, protocol, subset, threshold) for run in runs]
            for place, (name, run, ours) in enumerate(zip(names, runs, counts, strict=True)):
                found = measured(run, protocol, subset, threshold, samples, seed)
                words = _texts(found, protocol.columns)
                if subset == "all":
                    words.setdefault("IoU", iou_text(run, threshold))
                text = "  ".join(f"{title} {figure}" for title, figure in words.items())
                lines.append(f"  {name}: {text}")
                if place > 0 and ours is not None and counts[0] is not None:
                    drawn = None
                    if pairs[place]:
                        drawn = bootstrap_difference(protocol, counts[0], ours, samples, seed)
                    words = _texts(drawn or {}, protocol.columns, "+")
                    text = "  ".join(f"{title} {figure}" for title, figure in words.items())
                    lines.append(f"    minus 1: {text or 'other sequences, no paired difference'}")
    return lines


def measured(run, protocol, subset, threshold, samples, seed):
    """{key: (value, low, high)} of a protocol's columns for a subset of a run.

    The ends of an interval are NaN where there is but one sequence, None where none was drawn: of
    areas, and where the run does not tell the counts of the subset's sequences.

    Args:
        run: contents of a metrics.json.
        protocol: `utils.protocols.Protocol`.
        subset: of that.
        threshold: one of its thresholds.
        samples, seed: as in `bootstrap`.
    """
    counted = run["protocols"][protocol.name]
    entry = counted["subsets"][subset]
    counts = sequence_counts(run, protocol, subset, threshold)
    drawn = {} if counts is None else bootstrap(protocol, counts, samples, seed)
    return {
        key: drawn.get(key, (figure_at(counted, entry, key, threshold), None, None))
        for _, key, _, _ in protocol.columns
    }


def sequence_counts(run, protocol, subset, threshold):
    """{sequence: {name: count}} of a protocol's `counted` at one threshold.

    None where the run does not tell these, or not which sequences are in the subset.

    Args:
        run: contents of a metrics.json.
        protocol: `utils.protocols.Protocol`, one of its protocols.
        subset: of that.
        threshold: one of its thresholds.
    """
    counted = run["protocols"][protocol.name]
    sequences = counted["sequences"]
    names = list(sequences) if subset == "all" else counted["subsets"][subset].get("sequences")
    told = names and all(key in sequences[name] for key in protocol.counted for name in names)
    if not told or not protocol.counted:
        return None
    counts = {
        name: {key: figure_at(counted, sequences[name], key, threshold) for key in protocol.counted}
        for name in names
    }
    known = all(isinstance(each, int) for own in counts.values() for each in own.values())
    return counts if known else None


def bootstrap(protocol, counts, samples, seed):
    """{key: (value, low, high)}: the protocol's rates and their 95 % intervals.

    One sequence has no interval: its ends are NaN.

    Args:
        protocol: `utils.protocols.Protocol`.
        counts: from `sequence_counts`.
        samples: lists of as many sequences drawn with replacement.
        seed: of the draws; equal seeds draw equal lists.
    """
    found, drawn = _rates(protocol, counts, samples, seed)
    return {key: (found[key].item(), *_limits(drawn[key], len(counts))) for key in found}


def bootstrap_difference(protocol, first, second, samples, seed):
    """As `bootstrap`, of second - first, both on the same drawn lists; None if sequences differ."""
    if first.keys() != second.keys():
        return None
    base, drawn_base = _rates(protocol, first, samples, seed)
    # In the order of the first: the same draw is of the same sequence.
    found, drawn = _rates(protocol, {name: second[name] for name in first}, samples, seed)
    return {
        key: ((found[key] - base[key]).item(), *_limits(drawn[key] - drawn_base[key], len(first)))
        for key in found
    }


def _rates(protocol, counts, samples, seed):
    """A protocol's rates of all sequences, and of each drawn list: {key: (1,)}, {key: (samples,)}.

    NaN where a rate is 0 / 0.
    """
    table = {
        key: np.array([each[key] for each in counts.values()], dtype=np.int64)
        for key in protocol.counted
    }
    draws = _draws(len(counts), samples, seed)
    sums = (np.ones((1, len(counts)), dtype=np.int64), draws)
    return tuple(
        {
            key: np.array(values, dtype=float)
            for key, values in protocol.rates(
                {key: d @ each for key, each in table.items()}
            ).items()
        }
        for d in sums
    )


def _draws(sequences, samples, seed):
    """(samples, sequences): how often each sequence is in each drawn list."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(sequences, np.full(sequences, 1 / sequences), samples)


def _limits(drawn, sequences):
    drawn = drawn[np.isfinite(drawn)]
    if sequences < 2 or drawn.size == 0:
        return np.nan, np.nan
    low, high = np.percentile(drawn, (2.5, 97.5))
    return low.item(), high.item()


def _texts(found, columns, sign=""):
    """{title: text} of those columns that are in `found`, with intervals where there are."""
    words = {}
    for title, key, factor, digits in columns:
        if key in found:
            words[title] = interval_text(found[key], factor, digits, sign)
    return words


def interval_text(found, factor, digits, sign=""):
    """(value, low, high) as "value [low, high]", "value [-]" or "value"; see `measured`."""
    value, low, high = (figure_text(x, factor, digits, sign) for x in found)
    if value == "-" or found[1] is None:
        return value
    return f"{value} [-]" if low == "-" else f"{value} [{low}, {high}]"


def check_threshold(runs, names, protocol, threshold):
    """Raises ValueError where a run does not have the threshold under the protocol."""
    for name, run in zip(names, runs, strict=True):
        thresholds = run["protocols"][protocol.name]["thresholds"]
        if threshold not in thresholds:
            known = ", ".join(f"{each:g}" for each in thresholds)
            raise ValueError(
                f"--threshold {threshold:g}: {name} has none such; expected one of {known}"
            )
