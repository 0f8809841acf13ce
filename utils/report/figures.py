"""The figures of a report: Pd over Fa, rates over the threshold, profiles, surfaces of scores."""

import itertools
import textwrap
from functools import partial

import numpy as np

from utils.files import write_whole
from utils.protocols import operating_point
from utils.report.marks import legible

# Line, colour and marker of a curve: each alone tells curves apart.
STYLES = (
    ("-", "#1f5fa8", "o"),
    ("--", "#c4500a", "s"),
    ("-.", "#2a8a4a", "^"),
    (":", "#8a3fa0", "D"),
    ((0, (5, 1, 1, 1, 1, 1)), "#555555", "v"),
)
LABEL_WIDTH = 62  # letters of a line in the legend
SURFACE_SIDE = 128  # cells along the longer side of a surface
INK, GRID = "#22262c", "#d8dce2"


def draw_pd_fa(path, curves, thresholds, title):
    """Pd over Fa on a logarithmic axis, threshold 0.5 marked; writes a PNG.

    A false-alarm rate of 0 is drawn as half a pixel of its set.

    Args:
        path: of the PNG.
        curves: {label: dict with `pd`, `fa` over the thresholds, and `pixels`}; curves without
            targets are left out.
        thresholds: of all curves.
        title: of the figure.
    """
    curves = {label: curve for label, curve in curves.items() if curve["pd"][0] is not None}
    marked = operating_point(thresholds)
    figure, axes = new_figure(5.6, 4.6)
    leftmost, rightmost, lowest = 0.1, 0.0, 1.0
    for (label, curve), (line, colour, marker) in zip(
        curves.items(), itertools.cycle(STYLES), strict=False
    ):
        pd, fa = np.array(curve["pd"]), np.maximum(curve["fa"], 0.5 / curve["pixels"])
        label = textwrap.fill(as_text(label), LABEL_WIDTH)
        axes.plot(fa, pd, linestyle=line, color=colour, linewidth=1.8, label=label)
        axes.plot(
            fa[marked], pd[marked], marker, color=colour, markersize=9, markeredgecolor="white"
        )
        leftmost, rightmost = min(leftmost, fa.min()), max(rightmost, fa.max())
        lowest = min(lowest, pd.min())
    axes.set_xscale("log")
    axes.set_xlim(leftmost * 0.6, (rightmost or 1) * 1.3)
    axes.set_ylim(max(lowest - 0.05, -0.02), 1.01)
    axes.set_xlabel("Fa: false-alarm pixels / pixels")
    axes.set_ylabel("Pd: detected / targets")
    axes.set_title(title, fontsize=11, loc="left")
    _draw_legend(figure, axes)
    save_figure(figure, path)


def draw_rates(path, curves, thresholds, title):
    """TPR and, on a logarithmic axis, FPR over the threshold, 0.5 marked; writes a PNG.

    With TPR over FPR these are the projections of the 3-D ROC. An FPR of 0 is drawn as half a pixel
    of its set.

    Args:
        path: of the PNG.
        curves: {label: dict with `tpr`, `fpr` over the thresholds, and `background_pixels`}; curves
            without targets are left out.
        thresholds: of all curves.
        title: of the figure.
    """
    curves = {label: curve for label, curve in curves.items() if curve["tpr"][0] is not None}
    marked = operating_point(thresholds)
    figure, (upper, lower) = new_figure(5.6, 4.6, rows=2)
    for (label, curve), (line, colour, marker) in zip(
        curves.items(), itertools.cycle(STYLES), strict=False
    ):
        rates = np.array(curve["tpr"]), np.maximum(curve["fpr"], 0.5 / curve["background_pixels"])
        for axes, rate in zip((upper, lower), rates, strict=True):
            axes.plot(thresholds, rate, linestyle=line, color=colour, linewidth=1.8, label=label)
            at = thresholds[marked], rate[marked]
            axes.plot(*at, marker, color=colour, markersize=9, markeredgecolor="white")
    lower.set_yscale("log")
    upper.set_ylim(-0.02, 1.02)
    upper.set_ylabel("TPR: of the targets")
    lower.set_ylabel("FPR: of the background")
    lower.set_xlabel("threshold")
    upper.set_title(title, fontsize=11, loc="left")
    _draw_legend(figure, upper)
    save_figure(figure, path)


def _draw_legend(figure, axes):
    """The labelled curves of a panel, below the figure."""
    curves, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    if curves:
        figure.legend(
            curves,
            labels,
            loc="outside lower center",
            ncols=3 if longest < 24 else 1,
            columnspacing=1.2,
            handlelength=1.8,
            fontsize=9,
            title="marked: threshold 0.5",
            title_fontsize=9,
        )


def draw_surface(path, scores, targets, title):
    """The scores of a frame as a surface over its pixels; writes a PNG.

    A large frame is drawn in cells of several pixels, each with its largest score.

    Args:
        path: of the PNG.
        scores: (H, W) in [0, 1].
        targets: (row, column) of each target, drawn as a ring at the height of its cell's score.
        title: of the figure.
    """
    figure, _ = new_figure(6.4, 4.8, rows=0)
    axes = figure.add_subplot(projection="3d", computed_zorder=False)
    side = -(-max(scores.shape) // SURFACE_SIDE)
    margins = [(0, -length % side) for length in scores.shape]
    cells = np.pad(scores, margins, constant_values=-np.inf)
    cells = cells.reshape(len(cells) // side, side, -1, side).max((1, 3))
    rows, columns = (side * np.arange(n) + (side - 1) / 2 for n in cells.shape)
    look = {"cmap": "viridis", "vmin": 0, "vmax": 1, "antialiased": False}
    axes.plot_surface(*np.meshgrid(columns, rows), cells, rstride=1, cstride=1, **look)
    for row, column in targets:
        height = cells[int(row) // side, int(column) // side]
        ring = {"color": "#c4500a", "fillstyle": "none", "markersize": 9, "zorder": 5}
        axes.plot(column, row, height, "o", **ring)
    height, width = scores.shape
    axes.set(xlim=(0, width), ylim=(height, 0), zlim=(0, 1))
    axes.set(xlabel="column", ylabel="row", zlabel="score")
    axes.set_box_aspect((width / max(scores.shape), height / max(scores.shape), 0.5), zoom=1.05)
    axes.view_init(elev=32, azim=-62)
    axes.set_title(as_text(title), fontsize=10.5, loc="left")
    save_figure(figure, path)


def draw_profile(path, profile):
    """The grey level of one pixel over time, the score over it; writes a PNG.

    Args:
        path: of the PNG.
        profile: `utils.report.highlights.Profile`.
    """
    figure, axes = new_figure(6.4, 2.9)
    numbers = profile.numbers
    covered = np.flatnonzero(profile.on_target)
    for first, last in _runs(covered):
        axes.axvspan(
            numbers[first] - 0.5, numbers[last] + 0.5, color="#f2c14e", alpha=0.45, linewidth=0
        )
    axes.plot(numbers, profile.levels, color=INK, linewidth=1.3, label="grey level")
    axes.set_xlabel("frame")
    axes.set_ylabel("grey level")
    axes.margins(x=0.01)
    scores = _draw_scores(axes, numbers, profile.scores)
    scores.axhline(profile.threshold, color="#c4500a", linewidth=0.8, linestyle=":")
    place = f"{as_text(profile.sequence)}, row {profile.row}, column {profile.column}"
    axes.set_title(f"{place}: {profile.verdict}", fontsize=10.5, loc="left")
    save_figure(figure, path)


def _draw_scores(axes, numbers, scored):
    """Scores over frames on an axis of their own at the right; returns it."""
    scores = axes.twinx()
    scores.plot(numbers, scored, color="#c4500a", linewidth=1.5, linestyle="--")
    scores.set_ylim(-0.03, 1.05)
    scores.set_ylabel("score (dashed)", color="#c4500a")
    scores.tick_params(axis="y", colors="#c4500a")
    return scores


def as_text(name):
    """A `legible` name that matplotlib takes for no formula."""
    return legible(name).replace("$", r"\$")


def new_figure(width, height, rows=1):
    """A figure of this size in inches, and its panels, one below the other."""
    # Here, not above: half a second that only those who draw should wait for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, sharex=True) if rows else []
    for axes in np.atleast_1d(panels):
        axes.grid(True, color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure, panels


def save_figure(figure, path):
    """Writes a figure as a PNG, whole or not at all: see `write_whole`."""
    save = partial(figure.savefig, format="png", metadata={"Software": None})
    write_whole(path, save, lasting=False)


def _runs(indices):
    """(first, last) of each run of consecutive integers."""
    if len(indices) == 0:
        return []
    breaks = np.flatnonzero(np.diff(indices) > 1)
    return list(zip(indices[np.r_[0, breaks + 1]], indices[np.r_[breaks, -1]], strict=True))
