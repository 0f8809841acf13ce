"""The comparison as tables for other programs: CSV and LaTeX."""

import csv
import io
import math
import re

from utils.compare.intervals import interval_text, measured
from utils.report.metrics_file import SUBSETS, shown_at

LATEX_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX_SPECIAL |= {character: f"\\{character}" for character in "&%$#_{}"}
CSV_COLUMNS = ("run", "model", "dataset", "protocol", "subset", "threshold")


def csv_table(runs, names, shared, threshold, samples, seed):
    """One line for each run, protocol and subset, with all figures and the ends of their intervals.

    Figures are unscaled and in full: a Pd of 91.68 in a table is 0.9168... here. What is undefined,
    or not of the line's protocol, is empty.

    Args:
        runs, names, shared, threshold, samples, seed: as in `utils.compare.intervals.compare`.
    """
    keys = dict.fromkeys(key for protocol, _ in shared for _, key, _, _ in protocol.columns)
    ends = [f"{key}{end}" for key in keys for end in ("", "_low", "_high")]
    text = io.StringIO()
    table = csv.DictWriter(text, [*CSV_COLUMNS, *ends], restval="", lineterminator="\n")
    table.writeheader()
    for protocol, subsets in shared:
        for subset in subsets:
            for name, run in zip(names, runs, strict=True):
                about = name, run["model"], run["dataset"], protocol.name, subset, threshold
                line = dict(zip(CSV_COLUMNS, about, strict=True))
                found = measured(run, protocol, subset, threshold, samples, seed)
                for key, numbers in found.items():
                    for end, number in zip(("", "_low", "_high"), numbers, strict=True):
                        undefined = number is None or math.isnan(number)
                        line[f"{key}{end}"] = "" if undefined else number
                table.writerow(line)
    return text.getvalue()


def latex_table(runs, names, shared, threshold, samples, seed):
    """A tabular for each protocol, which needs no package: runs below each other, subsets beside.

    Args:
        runs, names, shared, threshold, samples, seed: as in `utils.compare.intervals.compare`.
    """
    lines = []
    for protocol, subsets in shared:
        columns = protocol.columns
        titles = [_latex(title) for title, *_ in columns] * len(subsets)
        groups = [f"\\multicolumn{{{len(columns)}}}{{c}}{{{_latex(SUBSETS[s])}}}" for s in subsets]
        lines += [
            f"% {protocol.title}: {shown_at(columns, threshold)}; [95 % over sequences]",
            f"\\begin{{tabular}}{{l{'r' * len(titles)}}}",
            "\\hline",
            f"{_latex(protocol.title)} & {' & '.join(groups)} \\\\",
            f" & {' & '.join(titles)} \\\\",
            "\\hline",
        ]
        for name, run in zip(names, runs, strict=True):
            cells = [_latex(name)]
            for subset in subsets:
                found = measured(run, protocol, subset, threshold, samples, seed)
                cells += [interval_text(found[k], factor, d) for _, k, factor, d in columns]
            lines.append(f"{' & '.join(cells)} \\\\")
        lines += ["\\hline", "\\end{tabular}", ""]
    return "\n".join(lines)


def _latex(text):
    """Text with the characters that LaTeX reads as commands made plain."""
    return re.sub(r"[\\~^&%$#_{}]", lambda found: LATEX_SPECIAL[found[0]], text)
