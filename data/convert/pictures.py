"""A sheet of targets as they were labelled, to look at: frames around a target, box and mask."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

MOST_TILES, _COLUMNS = 40, 8
_HALF, _SCALE = 16, 5  # pixels around the target, and how often each is enlarged
_BOX, _MASK, _TEXT = (230, 60, 50), (60, 200, 80), (240, 240, 240)


def draw_tile(frame, box, mask, title):
    """A tile (S, S, 3) uint8 around one target: the box red, the outline of the mask green.

    Args:
        frame: (H, W) grey levels; those around the target are stretched to 0 ... 255.
        box: `data.convert.boxes.Box`.
        mask: (H, W) uint8 in {0, 1}.
        title: a short text.
    """
    row, column = (
        min(max(round(value), 0), size - 1)  # a point may lie on the border
        for value, size in zip(box.centre, frame.shape, strict=True)
    )
    padded = np.pad(frame.astype(float), _HALF, mode="edge")
    part = padded[row : row + 2 * _HALF + 1, column : column + 2 * _HALF + 1]
    low, high = part.min(), part.max()
    grey = (255 * (part - low) / max(high - low, 1)).astype(np.uint8)
    tile = Image.fromarray(grey.repeat(_SCALE, 0).repeat(_SCALE, 1)).convert("RGB")
    draw = ImageDraw.Draw(tile)
    inside = np.pad(mask, _HALF + 1)[row : row + 2 * _HALF + 3, column : column + 2 * _HALF + 3]
    for r, c in np.argwhere(inside[1:-1, 1:-1]):
        top, left, bottom, right = (_SCALE * x for x in (r, c, r + 1, c + 1))
        for other, line in (
            (inside[r, c + 1], (left, top, right, top)),
            (inside[r + 2, c + 1], (left, bottom, right, bottom)),
            (inside[r + 1, c], (left, top, left, bottom)),
            (inside[r + 1, c + 2], (right, top, right, bottom)),
        ):
            if not other:
                draw.line(line, fill=_MASK)
    left, top = (
        _SCALE * (edge - centre + _HALF) for edge, centre in ((box.left, column), (box.top, row))
    )
    draw.rectangle((left, top, left + _SCALE * box.width, top + _SCALE * box.height), outline=_BOX)
    draw.text((3, 2), title, fill=_TEXT)
    return np.asarray(tile)


def write_sheet(path, tiles):
    """Writes tiles of one size, as `draw_tile` gives them, as a page: an image would be a frame."""
    side = tiles[0].shape[0]
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = np.zeros((rows * side, columns * side, 3), np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        sheet[row * side : (row + 1) * side, column * side : (column + 1) * side] = tile
    content = io.BytesIO()
    Image.fromarray(sheet).save(content, "PNG")
    image = base64.b64encode(content.getvalue()).decode()
    page = (
        "<!doctype html><meta charset=utf-8><title>Targets as labelled</title>"
        "<p>Targets as labelled: the box red, the outline of the mask green.</p>"
        f'<img alt="targets" src="data:image/png;base64,{image}">\n'
    )
    Path(path).write_text(page, encoding="utf-8")
