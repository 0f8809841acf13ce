"""Compares runs: Pd, Fa, AUC and IoU of several metrics.json side by side.

    python -m utils.compare RUN RUN ... [--protocol NAME ...] [--csv FILE] [--latex FILE]

A RUN is a metrics.json, a published file of counts (such as that of the released DTUM weights, or
an eval.txt), or a folder that holds a metrics.json or an eval.txt. Intervals are bootstrapped over
sequences: the test list is drawn anew, with replacement, many times. Differences are to the first
run, and drawn with the same sequences for both.
"""

from pathlib import Path

from utils.command_line import CommandParser, not_negative, run_command
from utils.compare.exports import csv_table, latex_table
from utils.compare.intervals import check_threshold, compare
from utils.compare.runs import label_runs, open_run, shared_protocols
from utils.files import write_text
from utils.protocols import OPERATING_POINT, PROTOCOLS
from utils.report.figures import draw_pd_fa

MOST_SAMPLES = 1_000_000


def parse_args(argv=None):
    parser = CommandParser(prog="-m utils.compare", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        metavar="RUN",
        type=Path,
        help="a metrics.json, a published file of counts (.txt), or a folder that holds a "
        "metrics.json or an eval.txt",
    )
    add(
        "--protocol",
        nargs="+",
        choices=PROTOCOLS,
        metavar="NAME",
        help="compare by these only; by all that the runs share if not given. One of: "
        f"{', '.join(PROTOCOLS)}",
    )
    add(
        "--threshold",
        type=float,
        default=OPERATING_POINT,
        help="of the scores; one that the runs count at",
    )
    add("--output", type=Path, help="write Pd over Fa of all runs to this PNG, for each protocol")
    add("--csv", type=Path, metavar="FILE", help="write the figures and intervals, unscaled")
    add("--latex", type=Path, metavar="FILE", help="write a tabular for each protocol")
    add(
        "--samples",
        type=int,
        default=10_000,
        help="times the test list is drawn anew for an interval",
    )
    add("--seed", type=not_negative(int, 2**63), default=46, help="of these draws")
    return parser.parse_args(argv)


def main(args):
    if not 1 <= args.samples <= MOST_SAMPLES:
        raise ValueError(f"--samples {args.samples}: expected 1 or more, {MOST_SAMPLES:,} at most")
    runs = [open_run(path) for path in args.runs]
    names = label_runs(args.runs, runs)
    shared = shared_protocols(runs, args.protocol or ())
    for protocol, _ in shared:
        check_threshold(runs, names, protocol, args.threshold)
    asked = runs, names, shared, args.threshold, args.samples, args.seed
    print("\n".join(compare(*asked)))
    written = draw_runs(args.output, runs, names, shared) if args.output else []
    for path, table in ((args.csv, csv_table), (args.latex, latex_table)):
        if path is not None:
            write_text(path, table(*asked))
            written.append(path)
    for path in written:
        print(f"  written: {path}")


def draw_runs(path, runs, names, shared):
    """Draws Pd over Fa of all runs for each protocol that has both; returns the PNGs' paths.

    Args:
        path: of a PNG; the protocol's name is added to its own.
        runs, names, shared: as in `compare`.
    """
    written = []
    for protocol, _ in shared:
        counted = [run["protocols"][protocol.name] for run in runs]
        curves = [each["subsets"]["all"] for each in counted]
        grids = {tuple(each["thresholds"]) for each in counted}
        drawn = all(isinstance(curve.get(key), list) for curve in curves for key in ("pd", "fa"))
        if len(grids) == 1 and drawn and all(curve.get("pixels") for curve in curves):
            written.append(path.with_name(f"{path.stem}_{protocol.name}.png"))
            labelled = dict(zip(names, curves, strict=True))
            title = f"Pd over Fa, all targets, {protocol.title}"
            draw_pd_fa(written[-1], labelled, counted[0]["thresholds"], title)
    return written


if __name__ == "__main__":
    run_command(lambda: main(parse_args()))
