"""The joint table: the figures of several runs beside each other, as text."""

from utils.compare.runs import comparison_notes, iou_text, shared_protocols
from utils.report.metrics_file import SUBSETS, column_texts, shown_at
from utils.report.published import model_title


def joint_table(runs):
    """The figures of several runs at threshold 0.5 beside each other, as lines of text.

    Args:
        runs: contents of metrics.json of each.
    """
    names = [f"{number} {model_title(run['model'])}" for number, run in enumerate(runs, 1)]
    lines = [f"{name}: {run['run']}" for name, run in zip(names, runs, strict=True)]
    lines += comparison_notes(runs, names)
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
        [name, iou_text(run, at) if with_iou else ""] for name, run in zip(names, runs, strict=True)
    ]
    for subset in subsets:
        titles += [title for title, *_ in protocol.columns]
        groups += [SUBSETS.get(subset, subset), *[""] * (len(protocol.columns) - 1)]
        for row, run in zip(rows, runs, strict=True):
            counted = run["protocols"][protocol.name]
            row += [t for _, t in column_texts(protocol, counted, counted["subsets"][subset])]
    return aligned([groups, titles, *rows])


def aligned(rows, words=()):
    """Rows of cells as lines of text: the first column to the left, numbers to the right.

    Args:
        rows: of cells, all of one length.
        words: further columns of text, which go to the left.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            (cell.ljust if column in words else cell.rjust)(width)
            if column
            else f"  {cell}".ljust(width + 2)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
