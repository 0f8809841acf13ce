"""The published tables anew: what runs cost and find here, beside the quoted rows."""

from utils.compare.joint import aligned
from utils.efficiency import PRODUCTS_RULE, SPEED_RULE
from utils.protocols import MAIN, PROTOCOLS
from utils.report.metrics_file import SUBSETS, column_texts, shown_at
from utils.report.published import (
    AUC_NOTE,
    MODEL_NOTES,
    NOT_REPRODUCIBLE,
    PROTOCOL_NOTE,
    PUBLISHED_COST,
    compare_targets,
    model_title,
    protocol_title,
    published_row,
)

COST_TITLES = ("KiB", "G", "G +BN", "frames/s")
NOT_SAID = "-"


def published_table(runs):
    """The efficiency columns and Pd, Fa, AUC of runs and of the published rows, as lines of text.

    A run has a row for each of its protocols with these figures; the quoted row of its model stands
    below it. Below the table each rule is named, and what is not reproducible.

    Args:
        runs: contents of metrics.json of each, all of one data set, with "efficiency".
    """
    columns = PROTOCOLS[MAIN].columns
    groups, titles = [""] * 6, ["", *COST_TITLES, "protocol"]
    for subset in SUBSETS.values():
        groups += [subset, *[""] * (len(columns) - 1)]
        titles += [title for title, *_ in columns]
    rows, models = [groups, titles], [run["model"] for run in runs]
    for number, run in enumerate(runs, 1):
        rows += own_rows(number, run)
        if run["model"] in PUBLISHED_COST and run["model"] not in models[number:]:
            rows.append(quoted_row(run["dataset"], run["model"]))
    rows += [quoted_row(runs[0]["dataset"], name) for name in PUBLISHED_COST if name not in models]
    sizes = dict.fromkeys(
        f"{run['efficiency']['height']}x{run['efficiency']['width']}" for run in runs
    )
    lines = [f"Cost at frames of {', '.join(sizes)}; {shown_at(columns)}"]
    return lines + aligned(rows, words=(5,)) + [f"  {note}" for note in table_notes(runs)]


def own_rows(number, run):
    """A row of cells for each protocol of a run; its cost stands in the first."""
    cost = run["efficiency"]
    keys = "kib", "gmac", "gmac_with_norms", "frames_per_second"
    begin = [f"{number} {model_title(run['model'])}", *(f"{cost[key]:.2f}" for key in keys)]
    rows = []
    for name, counted in run["protocols"].items():
        protocol = PROTOCOLS.get(name)
        if protocol is None or protocol.columns != PROTOCOLS[MAIN].columns:
            continue
        row = [*begin, protocol.title]
        for subset in SUBSETS:
            if subset in counted["subsets"]:
                texts = column_texts(protocol, counted, counted["subsets"][subset])
                row += [text for _, text in texts]
            else:
                row += [NOT_SAID] * len(protocol.columns)
        rows.append(row)
        begin = [""] * len(begin)
    return rows


def quoted_row(dataset, model):
    """The cells of a published row; figures of data sets without published rows are left out."""
    cost = PUBLISHED_COST[model]
    mark = "*" if model in NOT_REPRODUCIBLE else ""
    numbers = f"{cost.kib:g}{mark}", NOT_SAID, f"{cost.gmac:.1f}{mark}"
    numbers += (f"{cost.frames_per_second:.2f}",)
    found = {subset: published_row(dataset, subset, model) for subset in SUBSETS}
    protocol = next((protocol_title(row) for row in found.values() if row), NOT_SAID)
    cells = [f"  quoted: {model}", *numbers, protocol]
    for row in found.values():
        if row is None:
            cells += [NOT_SAID] * 3
        else:
            cells += [f"{row.pd:.2f}", f"{row.fa:.2f}", f"{row.auc:.4f}"]
    return cells


def table_notes(runs):
    """The rules of the numbers, and what they are not."""
    notes = [PRODUCTS_RULE, SPEED_RULE]
    for number, run in enumerate(runs, 1):
        cost = run["efficiency"]
        notes.append(
            f"{number}: {run['run']}; {cost['runs']} runs of {cost['frames']} frames, "
            f"{cost['setting']}, {cost['hardware']}"
        )
        if cost["gmac_streamed"] is not None:
            notes[-1] += f"; streamed here, {cost['gmac_streamed']:.2f} G +BN a frame"
        if cost["parameters"] == 0:
            notes[-1] += "; a filter: without weights no operations are counted"
    notes += [
        "quoted: the numbers of the paper's tables as printed, not measured here; its G are at "
        "480x720, its frames/s on its authors' hardware.",
        *MODEL_NOTES.values(),
        *dict.fromkeys(compare_targets(run).note for run in runs),
        PROTOCOL_NOTE,
        AUC_NOTE,
    ]
    return notes
