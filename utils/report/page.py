"""report.html: a test's results on one page that needs nothing beside it."""

import base64
from html import escape
from pathlib import Path

from utils.protocols import PROTOCOLS
from utils.report.figures import OPERATING_POINT, draw_curves, draw_profile
from utils.report.overlay import ALARM, COLOURS, DETECTION, FOUND, MISSED, draw_frame
from utils.report.published import PROTOCOL_NOTE, comparison_note, published_rows
from utils.report.results import STEPS
from utils.run_dir import make_folder

SUBSETS = {"low_snr": "low SNR", "high_snr": "high SNR", "all": "all"}
STYLE = """
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
  color: #22262c; background: #fff; margin: 0 auto; padding: 16px; max-width: 1160px; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 8px 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 40px 0 8px; border-bottom: 1px solid #d8dce2; }
h3 { font-size: 1rem; margin: 24px 0 4px; overflow-wrap: anywhere; }
p { margin: 8px 0; max-width: 50rem; }
.quiet { color: #5a626c; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 8px 0; }
th, td { padding: 4px 10px; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid #22262c; font-weight: 600; }
td { border-bottom: 1px solid #e4e7ec; }
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


def write_report(path, metrics, strips, protocol="hit1_guard4", threshold=0.5):
    """Writes the page, and beside it a folder of its name with the PNGs it is made of.

    Args:
        path: of the page.
        metrics: from `utils.report.results.summarise`.
        strips: from `utils.report.highlights.Highlights`.
        protocol: under which the strips were judged.
        threshold: at which they were judged.

    Raises:
        OSError: a file could not be written.
    """
    folder = make_folder(path.with_suffix(""))
    for old in folder.glob("*.png"):
        old.unlink()
    sections = [
        _head(metrics),
        _curves(metrics, folder),
        _published(metrics),
        _sequences(metrics),
        _strips(strips, folder, protocol, threshold),
        _profiles(strips, folder),
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
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise OSError(f"{path}: could not be written ({error.strerror})") from error


def _head(metrics):
    counts = metrics["protocols"]["hit1_guard4"]
    everything = counts["subsets"]["all"]
    frames = sum(sequence["frames"] for sequence in counts["sequences"].values())
    return (
        f"<h1>{escape(metrics['model'])} on {escape(metrics['dataset'])}</h1>"
        f'<p class="quiet">Run {escape(metrics["run"])}, clips of {metrics["seqlen"]} frames</p>'
        f"<p>{len(counts['sequences'])} sequences, {frames} frames, {everything['targets']} "
        f"targets. IoU of positive and mask pixels at threshold {metrics['threshold_eval']}: "
        f"{metrics['iou']:.4f}.</p>"
    )


def _curves(metrics, folder):
    figures = []
    for protocol, counts in metrics["protocols"].items():
        curves = {
            f"{title} ({counts['subsets'][name]['targets']} targets)": counts["subsets"][name]
            for name, title in reversed(SUBSETS.items())
            if name in counts["subsets"]
        }
        path = folder / f"pd_fa_{protocol}.png"
        draw_curves(path, curves, f"Pd over Fa, {protocol_title(protocol)}")
        figures.append(_figure(path, f"Pd over Fa under {protocol_title(protocol)}", ""))
    return f'<h2>Pd over Fa</h2><div class="grid">{"".join(figures)}</div>'


def _published(metrics):
    """This run under both protocols, and the published rows of its data set, by subset."""
    rows = []
    subsets = metrics["protocols"]["hit1_guard4"]["subsets"]
    for subset, title in ((name, title) for name, title in SUBSETS.items() if name in subsets):
        for protocol, counts in metrics["protocols"].items():
            cells = [title, f"this run, {metrics['model']}", protocol_title(protocol)]
            rows.append(("ours", [*cells, *operating_point(counts["subsets"][subset])]))
        for row in published_rows(metrics["dataset"], subset):
            numbers = [f"{row.pd:.2f}", f"{row.fa:.2f}", f"{row.auc:.4f}"]
            model = f"{row.model}, published"
            rows.append(("", [title, model, protocol_title(row.protocol), *numbers]))
    notes = [f"<p>Threshold 0.5; Pd in 1e-2, Fa in 1e-5. {escape(comparison_note(metrics))}</p>"]
    if published_rows(metrics["dataset"], "all"):
        notes.append(f"<p>{escape(PROTOCOL_NOTE)}</p>")
    head = ["targets", "model", "protocol", "Pd", "Fa", "AUC"]
    return "<h2>Beside the published rows</h2>" + "".join(notes) + _table(head, rows, words=(1, 2))


def _sequences(metrics):
    """Every sequence, sorted by Pd, then by Fa: the worst first."""
    protocols = metrics["protocols"]
    names = sorted(protocols["hit1_guard4"]["sequences"], key=lambda name: _rank(metrics, name))
    rows = []
    for name in names:
        sequence = protocols["hit1_guard4"]["sequences"][name]
        cells = [name, sequence["frames"], sequence["targets"]]
        for counts in protocols.values():
            cells += _sequence_cells(counts["sequences"][name])
        rows.append(("", cells))
    head = ["sequence", "frames", "targets"]
    for protocol in protocols:
        hit, guard = PROTOCOLS[protocol]
        head += ["found", f"Pd {hit}/{guard}", "alarms", f"Fa {hit}/{guard}"]
    return (
        "<h2>Sequences</h2><p>Threshold 0.5; lowest Pd first, then highest Fa, under hit 1, "
        "guard 4. Pd in 1e-2, Fa in 1e-5; 1/4 and 2/5 are hit and guard. Found targets and alarm "
        "pixels are left of the rates that they make.</p>"
        + _table(head, rows, minor=(1, 3, 5, 7, 9))
    )


def _rank(metrics, name):
    counts = metrics["protocols"]["hit1_guard4"]["sequences"][name]
    pd = counts["detected"][OPERATING_POINT] / counts["targets"] if counts["targets"] else 1
    return pd, -counts["false_alarm_pixels"][OPERATING_POINT] / counts["pixels"]


def _sequence_cells(counts):
    detected, alarms = (counts[key][OPERATING_POINT] for key in ("detected", "false_alarm_pixels"))
    pd = f"{100 * detected / counts['targets']:.2f}" if counts["targets"] else "-"
    return [detected, pd, alarms, f"{1e5 * alarms / counts['pixels']:.2f}"]


def _strips(strips, folder, protocol, threshold):
    parts = [
        "<h2>The worst sequences</h2>",
        f"<p>Frames with the most missed targets and false alarms of each part of the sequence, "
        f"at threshold {threshold}, {protocol_title(protocol)}.</p>{_legend()}",
    ]
    for strip in strips:
        figures = []
        for number, frame, marks, caption in zip(
            strip.numbers, strip.frames, strip.marks, strip.captions, strict=True
        ):
            path = folder / f"frame_{strip.sequence}_{number:05d}.png"
            draw_frame(frame, marks, strip.limits).save(path)
            figures.append(
                _figure(path, f"{strip.sequence}, frame {number}", f"Frame {number}: {caption}")
            )
        parts.append(f"<h3>{escape(strip.sequence)}</h3>")
        parts.append(f'<div class="grid strip">{"".join(figures)}</div>')
    return "\n".join(parts) if strips else ""


def _profiles(strips, folder):
    figures = []
    for profile in (profile for strip in strips for profile in strip.profiles):
        name = f"profile_{profile.sequence}_{profile.row}_{profile.column}_{len(figures)}.png"
        draw_profile(folder / name, profile)
        figures.append(_figure(folder / name, f"Temporal profile in {profile.sequence}", ""))
    if not figures:
        return ""
    return (
        "<h2>Temporal profiles</h2><p>The grey level of one target pixel over time and the score "
        "that it got. Shaded: frames in which the target covers it. Dotted: the threshold.</p>"
        f'<div class="grid">{"".join(figures)}</div>'
    )


def _timing(metrics):
    timing = metrics["timing"]
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
    )


def _definitions(metrics):
    return (
        '<h2>What the numbers mean</h2><p class="quiet">Targets are the 8-connected components of '
        "the centroid masks. A target is detected if a pixel with score &ge; threshold lies within "
        "<i>hit</i> pixels of it. False alarms are such pixels outside the squares of half-width "
        "<i>guard</i> around all target pixels. Pd is detected / targets, Fa is false-alarm pixels "
        "/ pixels, AUC the area under Pd over Fa at the 27 published thresholds; it is dominated "
        "by thresholds below 1e-5. Squares that would reach over the upper or left border are "
        "empty, as in the published counts. The same counts are in metrics.json.</p>"
    )


def protocol_title(protocol):
    """A protocol in words: hit 1, guard 4."""
    hit, guard = PROTOCOLS[protocol]
    return f"hit {hit}, guard {guard}"


def operating_point(counts):
    """[Pd in 1e-2, Fa in 1e-5, AUC] of a subset at threshold 0.5, as text."""
    pd, fa, auc = counts["pd"][OPERATING_POINT], counts["fa"][OPERATING_POINT], counts["auc"]
    return [
        "-" if pd is None else f"{100 * pd:.2f}",
        "-" if fa is None else f"{1e5 * fa:.2f}",
        "-" if auc is None else f"{auc:.4f}",
    ]


def _table(head, rows, words=(), minor=()):
    """An HTML table.

    Args:
        head: its first row.
        rows: of (CSS class, cells).
        words: columns of text rather than numbers, beside the first.
        minor: columns that a narrow screen leaves out.
    """
    classes = [
        " ".join(name for name, columns in (("words", words), ("minor", minor)) if index in columns)
        for index in range(len(head))
    ]
    lines = []
    for name, tag, cells in [("", "th", head), *((name, "td", cells) for name, cells in rows)]:
        row = "".join(
            f'<{tag} class="{kind}">{escape(str(cell))}</{tag}>'
            for kind, cell in zip(classes, cells, strict=True)
        )
        lines.append(f'<tr class="{name}">{row}</tr>')
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


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
