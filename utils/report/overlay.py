"""Pictures of frames: targets, detections and false alarms drawn over them.

A target that was found is a square, one that was missed a diamond, a detection a circle, a false
alarm a cross: shape and colour both tell.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.evaluation import resize_scores
from utils.report.aside import Aside
from utils.report.gif import GifStream
from utils.report.marks import ALARM, DETECTION, FOUND, MISSED, Mark, legible

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
LARGEST_SIDE = 2000  # of a frame in a report; larger ones are drawn smaller
LEGEND_WIDTH, LEGEND_HEIGHT = 560, 48
MOST_PAGES = 120  # of a GIF; of a longer sequence every n-th frame is drawn
FEWEST_PAGES = 24  # that the pages of large frames are cut down to before they are drawn smaller
MOST_PIXELS = 120_000_000  # of all pages of a GIF together
PAGE_MILLISECONDS = 80


def grey_limits(frames):
    """The grey levels drawn as black and white: the 0.5th and 99.9th percentile of some frames."""
    some = frames[:: max(len(frames) // 8, 1)]
    low, high = np.percentile(some, (0.5, 99.9))
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1)


def frames_at_score_size(block, chosen):
    """Some frames of a block (n, H, W), resized bilinearly if its scores are of another size."""
    frames, size = block.frames[chosen], block.scores.shape[1:]
    if frames.shape[1:] == size:
        return frames
    return resize_scores(frames.astype(np.float32), size)


def enlargement(height, width):
    """The whole number of screen pixels that a pixel is drawn as: 1 where frames are large."""
    if min(height, width) >= SHORTEST_SIDE:
        return 1
    return max(min(-(-SHORTEST_SIDE // min(height, width)), LONGEST_SIDE // max(height, width)), 2)


def report_scale(height, width):
    """Screen pixels of a pixel in a report: `enlargement`, or 1/2, 1/3 ... of very large frames."""
    longest = max(height, width)
    if longest > LARGEST_SIDE:
        return 1 / math.ceil(longest / LARGEST_SIDE)
    return enlargement(height, width)


def plan_pages(frames, height, width):
    """(step, scale) of a GIF within `MOST_PIXELS`: every step-th frame is drawn, enlarged by scale.

    Fewer pages come first, then smaller pictures.

    Args:
        frames: of the sequence.
        height, width: of a frame.

    Returns:
        `scale` in screen pixels of a pixel: a whole number or 1/2, 1/3 ...
    """
    scale = enlargement(height, width)
    area = page_pixels(height, width, scale)
    pages = min(frames, MOST_PAGES, max(MOST_PIXELS // area, FEWEST_PAGES))
    while pages * area > MOST_PIXELS:
        scale = scale - 1 if scale > 1 else 1 / (round(1 / scale) + 1)
        area = page_pixels(height, width, scale)
    return -(-frames // pages), scale


def page_pixels(height, width, scale):
    """Pixels of a page: a frame of that scale under its legend."""
    return (round(height * scale) + LEGEND_HEIGHT) * max(round(width * scale), LEGEND_WIDTH)


def draw_frame(frame, marks, limits, scale, levels=256):
    """One frame with its marks, an RGB image.

    Args:
        frame: (H, W) grey levels.
        marks: list of `Mark`.
        limits: from `grey_limits`.
        scale: screen pixels of a pixel: a whole number or 1/2, 1/3 ...
        levels: number of different greys.
    """
    low, high = limits
    if scale < 1:
        frame = np.asarray(Image.fromarray(frame.astype(np.float32)).reduce(round(1 / scale)))
    shade = np.clip((frame.astype(np.float32) - low) / (high - low), 0, 1)
    shade = np.rint(np.rint(shade * (levels - 1)) * (255 / (levels - 1))).astype(np.uint8)
    if scale > 1:
        shade = shade.repeat(scale, axis=0).repeat(scale, axis=1)
    image = Image.fromarray(shade).convert("RGB")
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


class Overlay:
    """An animated GIF of one sequence with its marks, and lines that say what they are.

    It is written page by page; its grey limits are those of the first block.

    Args:
        path: of the GIF.
        block: the first of the sequence, a `utils.evaluation.ScoredBlock`.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path, block):
        self.sequence, self.labelled = block.sequence, block.centroids is not None
        self.limits = grey_limits(block.frames)
        self.step, self.scale = plan_pages(len(block.sequence), *block.scores.shape[1:])
        self.palette = _palette()
        self.file = Aside(path)
        self.gif = GifStream(self.file.write, PAGE_MILLISECONDS * self.step)

    def add(self, block, marked):
        """Draws the next block; `marked` are its `utils.report.marks.MarkedFrames`."""
        chosen = np.arange(-block.start % self.step, len(block.scores), self.step)
        numbers, last = list(block.numbers), self.sequence.numbers[-1]
        for index, frame in zip(chosen, frames_at_score_size(block, chosen), strict=True):
            picture = draw_frame(frame, marked.marks[index], self.limits, self.scale, GREYS)
            place = f"{self.sequence.name}  {numbers[index]}/{last}"
            counts = f"{marked.detections[index]} detections"
            if self.labelled:
                targets = marked.targets[index]
                counts = f"{targets - marked.missed[index]} of {targets} targets"
            page = with_legend(picture, place, counts, COLOURS if self.labelled else (DETECTION,))
            self.gif.add(page.quantize(palette=self.palette, dither=Image.Dither.NONE))

    def close(self):
        self.gif.close()
        self.file.keep()

    def drop(self):
        """Forgets the GIF, in place of `close`."""
        self.file.drop()


def _palette():
    """The greys of the frames and the few colours drawn over them."""
    greys = [(round(level * 255 / (GREYS - 1)),) * 3 for level in range(GREYS)]
    colours = [*greys, *COLOURS.values(), BACKGROUND, TEXT]
    image = Image.new("P", (1, 1))
    image.putpalette([value for colour in colours for value in colour])
    return image


def with_legend(picture, place, counts, kinds):
    """The picture under two lines: where in the sequence and counts; and what each mark is."""
    font = ImageFont.load_default(15)
    size = (max(picture.width, LEGEND_WIDTH), picture.height + LEGEND_HEIGHT)
    page = Image.new("RGB", size, BACKGROUND)
    page.paste(picture, ((page.width - picture.width) // 2, LEGEND_HEIGHT))
    pen = ImageDraw.Draw(page)
    pen.fontmode = "1"  # no half tones: they are not in the palette
    pen.text((8, 4), legible(place), fill=TEXT, font=font)
    pen.text((page.width - 8, 4), counts, fill=TEXT, font=font, anchor="ra")
    width = page.width / max(len(kinds), 2)
    for column, kind in enumerate(kinds):
        # Marks are drawn with a gap that suits an enlarged frame; here they frame nothing.
        x = 16 + column * width
        draw_mark(pen, Mark(kind, 34.5, x - 0.5, 7 - GAPS[kind]), 1)
        pen.text((x + 20, 26), kind, fill=TEXT, font=font)
    return page
