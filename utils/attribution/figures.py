"""The figures of attributions: one of each target, one of the influence of reference frames."""

import itertools

import numpy as np

from utils.attribution.intervention import SHARES
from utils.attribution.maps import DRAWN, frame_influence, normalised_map
from utils.report.figures import GRID, INK, STYLES, as_text, new_figure, save_figure

SLICES = 12
MARGIN = 16  # pixels around the target that are drawn where the whole frame is attributed
BLUE, ORANGE, GREEN = (colour for _, colour, _ in STYLES[:3])
TARGET = "#f2a900"
COLOURS_OF_VALUES = "autumn_r"
BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.25), "ncols": 2, "frameon": False}


def draw_attribution(path, attribution):
    """One target's attribution; writes a PNG.

    The voxels above 0.1 of the normalised map in (column, row, frame), as in the paper; what each
    frame adds to the score; what interventions do to it; the map over some of the frames.

    Args:
        path: of the PNG.
        attribution: `utils.attribution.explain.Attribution`.
    """
    figure, _ = new_figure(9.6, 9.4, rows=0)
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    left, right = upper.subfigures(1, 2, width_ratios=(1.15, 1))
    window = _window(attribution)
    _draw_voxels(left.add_subplot(projection="3d"), attribution, window)
    panels = right.subplots(2)
    _draw_frames(panels[0], attribution)
    _draw_interventions(panels[1], attribution.intervention)
    _draw_slices(lower, attribution, window)
    target = attribution.target
    rows, columns = target.pixels.mean(axis=0) + (attribution.top, attribution.left)
    figure.suptitle(
        f"{as_text(attribution.sequence)}, frame {attribution.number}: {target.kind} of "
        f"{len(target.pixels)} pixels at row {rows:.0f}, column {columns:.0f}\n"
        f"score {attribution.integral.end:.2f}, at the start of the path "
        f"{attribution.integral.begin:.2f}; completeness error "
        f"{100 * attribution.integral.error:+.2f} %",
        fontsize=10,
    )
    save_figure(figure, path)


def draw_influence(path, curves, title):
    """The influence of reference frames over their distance from the attributed one; writes a PNG.

    Args:
        path: of the PNG.
        curves: {label: list of (offsets, influence) of one or several runs}; of several, the mean
            and the band from the smallest to the largest.
        title: of the figure.
    """
    figure, axes = new_figure(6.4, 4.2)
    for (label, runs), (line, colour, _) in zip(
        curves.items(), itertools.cycle(STYLES), strict=False
    ):
        shared = sorted(set.intersection(*(set(offsets) for offsets, _ in runs)))
        table = np.array([[dict(zip(*run, strict=True))[at] for at in shared] for run in runs])
        if len(runs) > 1:
            label = f"{label}, {len(runs)} runs"
            low, high = table.min(axis=0), table.max(axis=0)
            axes.fill_between(shared, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(shared, table.mean(axis=0), linestyle=line, color=colour, label=label)
    axes.axvline(0, color=TARGET, linewidth=5, alpha=0.35, zorder=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("reference frame less attributed frame")
    axes.set_ylabel("largest value of the normalised map")
    axes.set_title(title, fontsize=10.5, loc="left")
    axes.legend(fontsize=9)
    save_figure(figure, path)


def draw_influence_of(path, tests):
    """`draw_influence` of several tests, those of one model as a band.

    Args:
        path: of the PNG.
        tests: contents of metrics.json with `attribution`.
    """
    curves = {}
    for metrics in tests:
        found = metrics.get("attribution")
        if found is not None:
            curve = found["offsets"], found["influence"]
            curves.setdefault(metrics["model"], []).append(curve)
    draw_influence(path, curves, "Influence of reference frames")


def _window(attribution):
    """Slices of the rows and columns that are drawn."""
    top, left, bottom, right = attribution.target.box()
    _, height, width = attribution.frames.shape
    if height <= 4 * MARGIN and width <= 4 * MARGIN:
        return slice(0, height), slice(0, width)
    rows = slice(max(top - MARGIN, 0), min(bottom + MARGIN, height))
    return rows, slice(max(left - MARGIN, 0), min(right + MARGIN, width))


def _draw_voxels(axes, attribution, window):
    values = normalised_map(attribution.integral.attribution)
    drawn = np.zeros(values.shape, bool)
    drawn[:, *window] = values[:, *window] > DRAWN
    frames, rows, columns = np.nonzero(drawn)
    points = axes.scatter(
        columns + attribution.left,
        rows + attribution.top,
        attribution.numbers[frames],
        c=values[drawn],
        cmap=COLOURS_OF_VALUES,
        vmin=0,
        vmax=1,
        s=14,
        alpha=0.7,
        linewidths=0,
        depthshade=False,
    )
    own = attribution.target.pixels + (attribution.top, attribution.left)
    axes.scatter(own[:, 1], own[:, 0], attribution.number, color=BLUE, s=14, marker="s")
    rows, columns = window
    axes.set_xlim(attribution.left + columns.start, attribution.left + columns.stop - 1)
    axes.set_ylim(attribution.top + rows.stop - 1, attribution.top + rows.start)
    axes.set_zlim(attribution.numbers[0], attribution.numbers[-1])
    axes.set_xlabel("column")
    axes.set_ylabel("row")
    axes.set_zlabel("frame")
    axes.set_title("normalised map above 0.1; blue: the target", fontsize=9)
    axes.figure.colorbar(points, ax=axes, shrink=0.6, pad=0.12)


def _draw_frames(axes, attribution):
    """What each frame adds: all its pixels, and the target's own."""
    values, target = attribution.integral.attribution, attribution.target
    numbers, pixels = attribution.numbers, target.pixels.T
    axes.bar(numbers, values.sum(axis=(1, 2)), color=BLUE, label="all pixels")
    own = values[:, pixels[0], pixels[1]].sum(axis=1)
    axes.plot(numbers, own, "D", color=TARGET, markersize=3.5, label="the target's")
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.axvline(attribution.number, color=TARGET, linewidth=5, alpha=0.35, zorder=0)
    axes.set_ylabel("attribution")
    axes.set_xlabel("frame")
    axes.grid(True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    influence = axes.twinx()
    influence.plot(numbers, frame_influence(values), color=ORANGE, linewidth=1.2, linestyle="--")
    influence.set_ylim(0, 1.05)
    influence.set_ylabel("influence (dashed)", color=ORANGE)
    axes.legend(fontsize=7, **BELOW)


def _draw_interventions(axes, made):
    axes.grid(True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel("share of the influence, largest first")
    axes.set_ylabel("score")
    axes.set_ylim(-0.03, 1.05)
    if made is None:
        axes.set_title("no intervention was made", fontsize=9)
        return
    curves = (
        (made.deletion, BLUE, "-", "taken away"),
        (made.random_deletion, BLUE, ":", "as many at random"),
        (made.insertion, ORANGE, "-", "put in"),
        (made.random_insertion, ORANGE, ":", "as many at random"),
    )
    for curve, colour, line, label in curves:
        axes.plot(SHARES, curve, color=colour, linestyle=line, label=label)
    axes.legend(fontsize=7, **BELOW)


def _draw_slices(figure, attribution, window):
    """The frames with the map over them: some of all, the attributed one among them."""
    seen = np.arange(attribution.real.start, attribution.real.stop)
    own = attribution.target.frame
    places = np.linspace(0, len(seen) - 1, min(SLICES, len(seen))).round().astype(int)
    if own not in seen[places]:
        places[np.abs(seen[places] - own).argmin()] = np.searchsorted(seen, own)
    values = normalised_map(attribution.integral.attribution)
    frames = attribution.frames[:, *window]
    low, high = np.percentile(frames[seen], (1, 99.8))
    panels = figure.subplots(2, -(-len(places) // 2), squeeze=False)
    corner = attribution.left - 0.5 + window[1].start, attribution.top - 0.5 + window[0].start
    height, width = frames.shape[1:]
    extent = corner[0], corner[0] + width, corner[1] + height, corner[1]
    for axes, frame in itertools.zip_longest(panels.flat, seen[places]):
        axes.set_axis_off()
        if frame is None:
            continue
        axes.imshow(frames[frame], cmap="gray", vmin=low, vmax=max(high, low + 1), extent=extent)
        over = values[frame, *window]
        shown = np.ma.masked_less_equal(over, DRAWN)
        axes.imshow(shown, cmap=COLOURS_OF_VALUES, vmin=0, vmax=1, alpha=0.75, extent=extent)
        axes.set_title(
            f"{attribution.numbers[frame]}{' (attributed)' if frame == own else ''}", fontsize=8
        )
