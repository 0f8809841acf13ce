"""Animated GIFs written page by page: one page is in memory, however many there are."""

import io
import struct

import numpy as np

# The GIF specification's bytes (version 89a, with the extension that makes a player start again).
VERSION, END = b"GIF89a", b";"
LOOP = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"
SCREEN = slice(6, 13)  # size of the screen and of the table of colours
IMAGE = b","  # first byte of an image


class GifStream:
    """Writes the pages of a GIF as they come.

    Args:
        write: takes the bytes of the file in order.
        duration: of a page, milliseconds.
    """

    def __init__(self, write, duration):
        self.write = write
        # A control block: keep the page as the ground of the next; hundredths of a second.
        self.control = b"\x21\xf9\x04\x04" + struct.pack("<H", round(duration / 10)) + b"\x00\x00"
        self.last = None

    def add(self, page):
        """Adds a page: an image of mode P; all are of one size and of one palette."""
        pixels = np.asarray(page)
        top, bottom, left, right = 0, page.height, 0, page.width
        if self.last is not None:
            top, bottom, left, right = changed_box(self.last, pixels)
        screen, colours, image = encode(page.crop((left, top, right, bottom)))
        if self.last is None:
            self.write(VERSION + screen + colours + LOOP)
        self.write(self.control + IMAGE + struct.pack("<HH", left, top) + image[5:])
        self.last = pixels

    def close(self):
        """Ends the file; it needs at least one page."""
        self.write(END)


def changed_box(before, after):
    """(top, bottom, left, right) of the pixels that differ; of one pixel where none does."""
    differs = before != after
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    if len(rows) == 0:
        return 0, 1, 0, 1
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def encode(page):
    """(screen, table of colours, image) of a GIF of one page, as bytes."""
    buffer = io.BytesIO()
    page.save(buffer, "GIF", optimize=False, interlace=0)
    data = buffer.getvalue()
    screen = data[SCREEN]
    colours = 3 * 2 ** ((screen[4] & 7) + 1)  # bytes of their table
    body = data[SCREEN.stop + colours :]
    assert body.startswith(IMAGE) and body.endswith(END)
    return screen, data[SCREEN.stop : SCREEN.stop + colours], body[: -len(END)]
