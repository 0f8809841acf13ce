"""report.html: a test's results on one page that needs nothing beside it."""

import base64
import inspect
from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import NamedTuple

from utils.efficiency import efficiency_line
from utils.files import short_name, write_text, write_whole
from utils.protocols import MAIN, PROTOCOLS
from utils.report.figures import draw_pd_fa, draw_profile, draw_rates
from utils.report.marks import ALARM, DETECTION, FOUND, MISSED
from utils.report.metrics_file import (
    STEPS,
    SUBSETS,
    column_texts,
    figure_at,
    figure_text,
    normalisation_text,
    shown_at,
)
from utils.report.overlay import COLOURS, draw_frame, report_scale
from utils.report.published import (
    AUC_NOTE,
    MODEL_NOTES,
    PROTOCOL_NOTE,
    compare_targets,
    model_title,
    protocol_title,
    published_rows,
)
from utils.run_dir import make_folder

# The count behind a ratio, and its title: they stand left of it where a protocol has them.
COUNTS = {"pd": ("found", "detected"), "fa": ("alarms", "false_alarm_pixels")}


class Curves(NamedTuple):
    """A figure of rates, for the protocols that have these keys."""

    keys: set
    stem: str
    title: str
    draw: Callable


CURVES = (
    Curves({"pd", "fa", "pixels"}, "pd_fa", "Pd over Fa", draw_pd_fa),
    Curves({"tpr", "fpr", "background_pixels"}, "rates", "Rates over the threshold", draw_rates),
)
STYLE = """
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
  color: #22262c; background: #fff; margin: 0 auto; padding: 16px; max-width: 1160px; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 8px 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 40px 0 8px; border-bottom: 1px solid #d8dce2; }
h3 { font-size: 1rem; margin: 24px 0 4px; overflow-wrap: anywhere; }
p { margin: 8px 0; max-width: 50rem; }
.quiet { color: #5a626c; overflow-wrap: anywhere; }
.lines { white-space: pre-line; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 8px 0; }
th, td { padding: 4px 10px; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid #22262c; font-weight: 600; vertical-align: top; }
td { border-bottom: 1px solid #e4e7ec; }
th small { display: block; font-weight: 400; font-size: .75rem; color: #5a626c; }
th:first-child, td:first-child, .words { text-align: left; }
tr.ours td { background: #eef4fb; font-weight: 600; }
.grid { display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.strip { grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); }
figure { margin: 0; } img { width: 100%; height: auto; display: block; }
figcaption { font-size: .875rem; color: #5a626c; }
.marks span { display: inline-block; margin-right: 20px; white-space: nowrap; }
.marks svg { vertical-align: -4px; margin-right: 6px; background: #22262c; }
@media (max-width: 700px) { body { padding: 10px; }
  .minor { display: none; } th, td { padding: 4px; font-size: .875rem; }
  .words { white-space: normal; } }
"""


class Section(NamedTuple):
    """A part of the page that others bring: paragraphs, and figures with captions.

    Attributes:
        title: its heading.
        paragraphs: of plain text.
        figures: of (path of a PNG, caption).
    """

    title: str
    paragraphs: list
    figures: list


def write_report(path, metrics, strips, protocol, more=()):
    """Writes the page, and beside it a folder of its name with the PNGs it is made of.

    Args:
        path: of the page.
        metrics: from `utils.report.results.summarise`.
        strips: from `utils.report.highlights.Highlights`.
        protocol: `utils.protocols.Protocol` by which the strips were judged.
        more: `Section`s to add.

    Raises:
        OSError: a file could not be written.
    """
    folder = make_folder(path.with_suffix(""))
    sections = [
        _head(metrics),
        _curves(metrics, folder),
        _published(metrics),
        _sequences(metrics),
        _strips(strips, folder, protocol, metrics["threshold_eval"]),
        _profiles(strips, folder),
        *map(_added, more),
        _timing(metrics),
        _definitions(metrics),
    ]
    title = escape(f"{metrics['model']} on {metrics['dataset']}")
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )
    write_text(path, page)


def _head(metrics):
    counted = metrics["protocols"][MAIN]
    everything = counted["subsets"]["all"]
    frames = sum(sequence["frames"] for sequence in counted["sequences"].values())
    levels, reach = normalisation_text(metrics), metrics.get("mark_reach")
    marked = "" if reach is None else f"; detections marked up to {reach:g} px from their centroids"
    return (
        f"<h1>{escape(model_title(metrics['model']))} on {escape(metrics['dataset'])}</h1>"
        f'<p class="quiet">Run {escape(metrics["run"])}, clips of {metrics["seqlen"]} frames'
        f"{', laid on each other' if metrics.get('stabilised') else ''}"
        f"{'' if levels is None else f'; grey levels normalised by {levels}'}{marked}</p>"
        f"<p>{len(counted['sequences'])} sequences, {frames} frames, {everything['targets']} "
        f"targets. IoU of positive and mask pixels at threshold {metrics['threshold_eval']}: "
        f"{metrics['iou']:.4f}.</p>"
    )


def _curves(metrics, folder):
    """Detection and false alarms under every protocol that has both over its thresholds."""
    figures = []
    for name, counted in metrics["protocols"].items():
        kinds = [kind for kind in CURVES if kind.keys <= counted["subsets"]["all"].keys()]
        curves = {
            f"{words} ({counted['subsets'][subset]['targets']} targets)": counted["subsets"][subset]
            for subset, words in reversed(SUBSETS.items())
            if kinds and subset in counted["subsets"]
        }
        for kind in kinds:
            path, title = folder / f"{kind.stem}_{name}.png", PROTOCOLS[name].title
            kind.draw(path, curves, counted["thresholds"], f"{kind.title}, {title}")
            figures.append(_figure(path, f"{kind.title} under {title}", ""))
    return f'<h2>Pd over Fa</h2><div class="grid">{"".join(figures)}</div>'


def _published(metrics):
    """This run under all protocols, and the published rows of its data set, by subset.

    Protocols whose figures have other columns than the published ones get a table of their own.
    """
    parts = [f"<p>{escape(compare_targets(metrics).note)}</p>"]
    if published_rows(metrics["dataset"], "all"):
        parts.append(f"<p>{escape(PROTOCOL_NOTE)}</p>")
    if metrics["model"] in MODEL_NOTES:
        parts.append(f"<p>{escape(MODEL_NOTES[metrics['model']])}</p>")
    ours = model_title(metrics["model"])
    alike = {}  # protocols by their columns
    for name, counted in metrics["protocols"].items():
        alike.setdefault(PROTOCOLS[name].columns, {})[name] = counted
    for columns, protocols in alike.items():
        rows = []
        for subset, title in SUBSETS.items():
            for name, counted in protocols.items():
                if subset in counted["subsets"]:
                    texts = column_texts(PROTOCOLS[name], counted, counted["subsets"][subset])
                    words = [title, f"this run, {ours}", PROTOCOLS[name].title]
                    rows.append(("ours", [*words, *(text for _, text in texts)]))
            if columns == PROTOCOLS[MAIN].columns:
                for row in published_rows(metrics["dataset"], subset):
                    words = [title, f"{row.model}, published", protocol_title(row)]
                    numbers = [f"{row.pd:.2f}", f"{row.fa:.2f}", f"{row.auc:.4f}"]
                    rows.append(("", [*words, *numbers]))
        head = ["targets", "model", "protocol", *(column[0] for column in columns)]
        note = AUC_NOTE if columns == PROTOCOLS[MAIN].columns else ""
        parts.append(f"<p>{_sentence(shown_at(columns))} {note}</p>")
        parts.append(_table(head, rows, words=(1, 2)))
    return "<h2>Beside the published rows</h2>" + "".join(parts)


def _sequences(metrics):
    """Every sequence, sorted by Pd, then by Fa: the worst first."""
    protocols = metrics["protocols"]
    columns = [column for name in protocols for column in _sequence_columns(name, protocols[name])]
    rows = []
    for sequence in sorted(protocols[MAIN]["sequences"], key=lambda name: _rank(metrics, name)):
        entry = protocols[MAIN]["sequences"][sequence]
        cells = [sequence, entry["frames"], entry.get("targets", "-")]
        for _, name, key, factor, digits in columns:
            counted = protocols[name]
            figure = figure_at(counted, counted["sequences"][sequence], key)
            cells.append(figure_text(figure, factor, digits))
        rows.append(("", cells))
    head = ["sequence", "frames", "targets"]
    head += [(title, PROTOCOLS[name].title) for title, name, *_ in columns]
    behind = {key for _, key in COUNTS.values()}
    minor = [3 + index for index, (_, _, key, *_) in enumerate(columns) if key in behind]
    scaled = dict.fromkeys(column for name in protocols for column in PROTOCOLS[name].columns)
    return (
        f"<h2>Sequences</h2><p>{_sentence(shown_at(scaled))} Lowest Pd first, then highest Fa, "
        f"under {PROTOCOLS[MAIN].title}. Found targets and alarm pixels are left of the rates that "
        "they make.</p>" + _table(head, rows, minor=(1, *minor))
    )


def _sequence_columns(name, counted):
    """(title, protocol, key, factor, digits) of what is shown of a sequence under a protocol.

    Figures over all thresholds, such as the area under a curve, say little of one sequence.
    """
    everything, columns = counted["subsets"]["all"], []
    for title, key, factor, digits in PROTOCOLS[name].columns:
        if isinstance(everything[key], list):
            behind, count = COUNTS.get(key, (None, None))
            if count in everything:
                columns.append((behind, name, count, 1, 0))
            columns.append((title, name, key, factor, digits))
    return columns


def _rank(metrics, sequence):
    counted = metrics["protocols"][MAIN]
    entry = counted["sequences"][sequence]
    pd, fa = figure_at(counted, entry, "pd"), figure_at(counted, entry, "fa")
    return 1 if pd is None else pd, -(fa or 0)


def _strips(strips, folder, protocol, threshold):
    parts = [
        "<h2>The worst sequences</h2>",
        f"<p>Frames with the most missed targets and false alarms of each part of the sequence, "
        f"at threshold {threshold}, {protocol.title}.</p>{_legend()}",
    ]
    for strip in strips:
        figures = []
        for number, frame, marks, caption in zip(
            strip.numbers, strip.frames, strip.marks, strip.captions, strict=True
        ):
            path = folder / f"frame_{short_name(strip.sequence)}_{number:05d}.png"
            picture = draw_frame(frame, marks, strip.limits, report_scale(*frame.shape))
            write_whole(path, partial(picture.save, format="PNG"), lasting=False)
            figures.append(
                _figure(path, f"{strip.sequence}, frame {number}", f"Frame {number}: {caption}")
            )
        parts.append(f"<h3>{escape(strip.sequence)}</h3>")
        parts.append(f'<div class="grid strip">{"".join(figures)}</div>')
    return "\n".join(parts) if strips else ""


def _profiles(strips, folder):
    figures = []
    for profile in (profile for strip in strips for profile in strip.profiles):
        place = f"{profile.row}_{profile.column}_{len(figures)}"
        name = f"profile_{short_name(profile.sequence)}_{place}.png"
        draw_profile(folder / name, profile)
        figures.append(_figure(folder / name, f"Temporal profile in {profile.sequence}", ""))
    if not figures:
        return ""
    return (
        "<h2>Temporal profiles</h2><p>The grey level of one target pixel over time and the score "
        "that it got. Shaded: frames in which the target covers it. Dotted: the threshold. Found "
        "or missed is by the protocol, which may count none at the border of the image.</p>"
        f'<div class="grid">{"".join(figures)}</div>'
    )


def _added(section):
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in section.paragraphs)
    figures = "".join(_figure(path, caption, caption) for path, caption in section.figures)
    return f'<h2>{escape(section.title)}</h2>{paragraphs}<div class="grid">{figures}</div>'


def _timing(metrics):
    timing = metrics["timing"]
    cost = metrics.get("efficiency")
    cost = "" if cost is None else f"<p>{escape(efficiency_line(cost))}</p>"
    rows = []
    for step in (*STEPS, "total"):
        seconds = timing[f"{step}_seconds"]
        share = 100 * seconds / timing["total_seconds"] if timing["total_seconds"] else 0
        rows.append(("", [step, f"{seconds:.2f}", f"{share:.1f} %"]))
    return (
        "<h2>Where the time went</h2><p>Reading, scoring and output (pictures, tables) run beside "
        f"the network, so the parts may add up to more than the total. {timing['frames']} frames, "
        f"{timing['frames_per_second'] or 0:.1f} a second.</p>"
        + _table(["step", "seconds", "of the total"], rows)
        + cost
    )


def _definitions(metrics):
    """The rules of the protocols, as their classes state them."""
    kinds, parts = {}, []
    for name in metrics["protocols"]:
        kinds.setdefault(type(PROTOCOLS[name]), []).append(PROTOCOLS[name].title)
    for kind, titles in kinds.items():
        text = (inspect.getdoc(kind) or "").split("\nAttributes:")[0].replace("`", "")
        parts.append(f"<h3>{escape('; '.join(titles))}</h3>")
        for paragraph in text.strip().split("\n\n"):
            # Lists and formulas keep their lines.
            listed = any(line.startswith((" ", "- ")) for line in paragraph.splitlines())
            style = "quiet lines" if listed else "quiet"
            parts.append(f'<p class="{style}">{escape(inspect.cleandoc(paragraph))}</p>')
    parts.append('<p class="quiet">The counts and figures are in metrics.json.</p>')
    return "<h2>What the numbers mean</h2>" + "".join(parts)


def _sentence(text):
    return f"{text[0].upper()}{text[1:]}."


def _table(head, rows, words=(), minor=()):
    """An HTML table.

    Args:
        head: its first row; a pair is a title with a smaller line below it.
        rows: of (CSS class, cells).
        words: columns of text rather than numbers, beside the first.
        minor: columns that a narrow screen leaves out.
    """
    classes = [
        " ".join(name for name, columns in (("words", words), ("minor", minor)) if index in columns)
        for index in range(len(head))
    ]
    lines = [_row("", "th", [_title(title) for title in head], classes)]
    lines += [_row(name, "td", [escape(str(cell)) for cell in row], classes) for name, row in rows]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _row(name, tag, cells, classes):
    """A row of an HTML table, of the CSS class `name`."""
    row = "".join(
        f'<{tag} class="{kind}">{cell}</{tag}>' for kind, cell in zip(classes, cells, strict=True)
    )
    return f'<tr class="{name}">{row}</tr>'


def _title(title):
    if isinstance(title, str):
        return escape(title)
    return f"{escape(title[0])}<small>{escape(title[1])}</small>"


def _figure(path, text, caption):
    data = base64.b64encode(Path(path).read_bytes()).decode("ascii")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{escape(text)}" src="data:image/png;base64,{data}">{below}</figure>'


def _legend():
    """What the marks are, drawn as they are in the frames."""
    shapes = {
        FOUND: '<rect x="3" y="3" width="14" height="14" stroke-width="2"/>',
        MISSED: '<path d="M10 2 L18 10 L10 18 L2 10 Z" stroke-width="3"/>',
        DETECTION: '<circle cx="10" cy="10" r="6" stroke-width="2"/>',
        ALARM: '<path d="M4 4 L16 16 M16 4 L4 16" stroke-width="3"/>',
    }
    items = [
        f'<span><svg width="20" height="20" fill="none" stroke="rgb{COLOURS[kind]}">{shape}</svg>'
        f"{escape(kind)}</span>"
        for kind, shape in shapes.items()
    ]
    return f'<p class="marks">{"".join(items)}</p>'
