"""Pictures of sequences: targets, detections and false alarms drawn over the frames.

A target that was found is a square, one that was missed a diamond, a detection a circle, a false
alarm a cross: shape and colour both tell.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.metrics import best_scores, find_targets, guarded_pixels

FOUND, MISSED, DETECTION, ALARM = "target, found", "target, missed", "detection", "false alarm"
COLOURS = {
    FOUND: (110, 220, 120),
    MISSED: (255, 170, 0),
    DETECTION: (70, 190, 255),
    ALARM: (255, 70, 90),
}
GAPS = {FOUND: 14, MISSED: 14, DETECTION: 7, ALARM: 5}  # around what is marked, screen pixels
BACKGROUND, TEXT = (20, 22, 26), (235, 235, 235)
GREYS = 40  # grey levels of a GIF: fewer make smaller files
SHORTEST_SIDE, LONGEST_SIDE = 420, 900  # of an enlarged frame, pixels
MOST_FRAMES = 120  # of a GIF; of a longer sequence every n-th frame is drawn


@dataclass(frozen=True)
class Mark:
    """Something to draw in a frame.

    Attributes:
        kind: `FOUND`, `MISSED`, `DETECTION` or `ALARM`.
        row, column: centre, pixels.
        radius: half its extent, pixels.
    """

    kind: str
    row: float
    column: float
    radius: float


@dataclass(frozen=True)
class Verdict:
    """What one threshold and protocol make of a sequence, frame by frame.

    Attributes:
        marks: a list of `Mark` for each frame.
        missed: (N,) targets not detected.
        targets: (N,) targets.
        alarm_pixels: (N,) false-alarm pixels.
        detections: (N,) connected detections, false alarms included.
    """

    marks: list
    missed: np.ndarray
    targets: np.ndarray
    alarm_pixels: np.ndarray
    detections: np.ndarray


def judge(scores, centroids, threshold, hit, guard):
    """Marks the targets, detections and false alarms of a sequence; see `Verdict`.

    A detection is a false alarm if any of its pixels lies outside the guard squares.

    Args:
        scores: (N, H, W).
        centroids: (N, H, W), or None where nothing is known of the targets.
        threshold: a pixel is positive if its score is at least this.
        hit, guard: the protocol; see `utils.metrics.PdFaCurve`.
    """
    frames = len(scores)
    marks = [[] for _ in range(frames)]
    missed, targets, detections = (np.zeros(frames, dtype=int) for _ in range(3))
    positive = scores >= scores.dtype.type(threshold)
    alarms = np.zeros_like(positive)
    if centroids is not None:
        labelled = find_targets(centroids)
        alarms = positive.copy()
        alarms.ravel()[guarded_pixels(labelled, guard, scores.shape)] = False
    components = find_targets(positive)
    outside = np.zeros(components.count, dtype=bool)
    np.logical_or.at(outside, components.owner, alarms[tuple(components.pixels.T)])
    for frame, row, column, radius, index in _extents(components):
        marks[frame].append(Mark(ALARM if outside[index] else DETECTION, row, column, radius))
        detections[frame] += 1
    if centroids is not None:  # last, so that nothing is drawn over the targets
        found = best_scores(scores, labelled, hit) >= scores.dtype.type(threshold)
        for frame, row, column, radius, index in _extents(labelled):
            marks[frame].append(Mark(FOUND if found[index] else MISSED, row, column, radius))
            targets[frame] += 1
            missed[frame] += not found[index]
    alarm_pixels = np.count_nonzero(alarms, axis=(1, 2))
    return Verdict(marks, missed, targets, alarm_pixels, detections)


def _extents(components):
    """(frame, centre row, centre column, half extent, index) of each component."""
    frames, rows, columns = components.pixels.T
    owner, count = components.owner, components.count
    frame = np.zeros(count, dtype=int)
    frame[owner] = frames
    ends = []
    for positions in (rows, columns):
        first, last = np.full(count, np.iinfo(int).max), np.full(count, -1)
        np.minimum.at(first, owner, positions)
        np.maximum.at(last, owner, positions)
        ends.append((first, last))
    (top, bottom), (left, right) = ends
    radius = np.maximum(bottom - top, right - left) / 2 + 0.5
    table = (frame, (top + bottom) / 2, (left + right) / 2, radius, np.arange(count))
    return list(zip(*(column.tolist() for column in table), strict=True))


def grey_limits(frames):
    """The grey levels drawn as black and white: the 0.5th and 99.9th percentile of some frames."""
    some = frames[:: max(len(frames) // 8, 1)]
    low, high = np.percentile(some, (0.5, 99.9))
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1)


def match_size(frames, size):
    """Frames (N, h, w) resized bilinearly to `size` = (H, W), if they are not of that size."""
    if frames.shape[1:] == tuple(size):
        return frames
    return np.stack(
        [
            np.asarray(
                Image.fromarray(frame.astype(np.float32)).resize(
                    (size[1], size[0]), Image.Resampling.BILINEAR
                )
            )
            for frame in frames
        ]
    )


def enlargement(height, width):
    """The whole number of screen pixels that a pixel is drawn as: at least 2, whatever the size."""
    return max(min(-(-SHORTEST_SIDE // min(height, width)), LONGEST_SIDE // max(height, width)), 2)


def draw_frame(frame, marks, limits, scale=None, levels=256):
    """One enlarged frame with its marks, an RGB image.

    Args:
        frame: (H, W) grey levels.
        marks: list of `Mark`.
        limits: from `grey_limits`.
        scale: screen pixels of a pixel; from `enlargement` if None.
        levels: number of different greys.
    """
    scale = scale or enlargement(*frame.shape)
    low, high = limits
    shade = np.clip((frame.astype(np.float32) - low) / (high - low), 0, 1)
    shade = np.rint(np.rint(shade * (levels - 1)) * (255 / (levels - 1))).astype(np.uint8)
    image = Image.fromarray(shade.repeat(scale, axis=0).repeat(scale, axis=1)).convert("RGB")
    pen = ImageDraw.Draw(image)
    for mark in marks:
        draw_mark(pen, mark, scale)
    return image


def draw_mark(pen, mark, scale):
    """Draws a square, diamond, circle or cross around (not over) what it marks."""
    x, y = (mark.column + 0.5) * scale, (mark.row + 0.5) * scale
    inner = mark.radius * scale
    outer = inner + GAPS[mark.kind]
    colour, box = COLOURS[mark.kind], (x - outer, y - outer, x + outer, y + outer)
    if mark.kind == FOUND:
        pen.rectangle(box, outline=colour, width=2)
    elif mark.kind == DETECTION:
        pen.ellipse(box, outline=colour, width=2)
    elif mark.kind == MISSED:
        reach = 1.3 * outer
        tips = [(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)]
        pen.line([*tips, *tips[:2]], fill=colour, width=3, joint="curve")
    else:
        for down in (-1, 1):
            for right in (-1, 1):
                near, far = inner + 2, outer + 4
                ends = (x + right * near, y + down * near, x + right * far, y + down * far)
                pen.line(ends, fill=colour, width=3)


def write_overlay(path, name, frames, verdict, first_frame=1, duration=80):
    """Writes an animated GIF of a sequence with its marks, and a line that says what they are.

    Args:
        path: of the GIF.
        name: of the sequence.
        frames: (N, H, W) grey levels.
        verdict: from `judge`, of scores of the same size.
        first_frame: number of the first frame.
        duration: of a frame, milliseconds.
    """
    limits, scale = grey_limits(frames), enlargement(*frames.shape[1:])
    step = -(-len(frames) // MOST_FRAMES)
    palette = _palette()
    pages = []
    for index in range(0, len(frames), step):
        picture = draw_frame(frames[index], verdict.marks[index], limits, scale, GREYS)
        text = f"{name}  {first_frame + index}/{first_frame + len(frames) - 1}"
        page = _with_legend(picture, text, verdict, index)
        pages.append(page.quantize(palette=palette, dither=Image.Dither.NONE))
    pages[0].save(
        path,
        save_all=True,
        append_images=pages[1:],
        duration=duration * step,
        loop=0,
        optimize=False,
    )


def _palette():
    """The greys of the frames and the few colours drawn over them."""
    greys = [(round(level * 255 / (GREYS - 1)),) * 3 for level in range(GREYS)]
    colours = [*greys, *COLOURS.values(), BACKGROUND, TEXT]
    image = Image.new("P", (1, 1))
    image.putpalette([value for colour in colours for value in colour])
    return image


def _with_legend(picture, text, verdict, index):
    """The picture under two lines: sequence, frame, counts; and what each mark is."""
    font = ImageFont.load_default(15)
    page = Image.new("RGB", (max(picture.width, 560), picture.height + 48), BACKGROUND)
    page.paste(picture, ((page.width - picture.width) // 2, 48))
    pen = ImageDraw.Draw(page)
    pen.fontmode = "1"  # no half tones: they are not in the palette
    counts = f"{verdict.detections[index]} detections"
    if verdict.targets.any():
        counts = (
            f"{verdict.targets[index] - verdict.missed[index]} of {verdict.targets[index]} targets"
        )
    pen.text((8, 4), text, fill=TEXT, font=font)
    pen.text((page.width - 8, 4), counts, fill=TEXT, font=font, anchor="ra")
    kinds = COLOURS if verdict.targets.any() else (DETECTION,)
    width = page.width / max(len(kinds), 2)
    for place, kind in enumerate(kinds):
        # Marks are drawn with a gap that suits an enlarged frame; here they frame nothing.
        x = 16 + place * width
        draw_mark(pen, Mark(kind, 34.5, x - 0.5, 7 - GAPS[kind]), 1)
        pen.text((x + 20, 26), kind, fill=TEXT, font=font)
    return page
