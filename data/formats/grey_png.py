"""8-bit grey PNGs, the format of nearly all frames and masks, decoded with little around it.

Reads the file's own structure (PNG specification, sections 5 and 11) and leaves the pixels to
zlib-ng and the image library's filters: in a cache being built, several threads then share Python's
lock far less than with a whole image object for every file. What damages the pixels is refused with
None, for the library to read or to name; checksums of chunks but the header's are not looked at.
"""

import numpy as np
from PIL import Image
from zlib_ng import zlib_ng

HEADER = 33  # bytes: signature, and the chunk that gives size and kind
_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_KIND = b"\x08\0\0\0\0"  # 8 bits, grey, deflated, adaptive filters, not interlaced
FEW_ROWS = 32  # that are quicker to unfilter here than to leave to the image library


def size_of(content):
    """(height, width) that a file tells in its first `HEADER` bytes; None: another kind of file."""
    header = content[:HEADER]
    whole = len(header) == HEADER and header.startswith(_START) and header[24:29] == _KIND
    if not whole or zlib_ng.crc32(header[12:29]) != int.from_bytes(header[29:33], "big"):
        return None
    width, height = int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")
    most = Image.MAX_IMAGE_PIXELS  # None: no limit
    return (height, width) if height * width > 0 and (not most or height * width <= most) else None


def decode(content):
    """Pixels (H, W) uint8 of a file's content.

    Inflates an image at once: the image library does so row by row, which takes it up to twice as
    long, and far longer where an image is all but empty, as masks are. It is left the filters.

    Returns:
        None for another kind of file, or one that is damaged or has unknown critical chunks.
    """
    size = size_of(content)
    lines = None if size is None else _inflate(content, size)
    if lines is None:
        return None
    pixels = _unfilter(lines[:, 0], lines[:, 1:])
    if pixels is None:
        height, width = size
        try:
            image = Image.frombytes("L", (width, height), zlib_ng.compress(lines, 0), "zip", "L")
        except ValueError:  # a filter that is none
            return None
        pixels = np.asarray(image)
    return pixels


def _data_of(content):
    """The IDAT chunks' data, joined; empty if the chunks do not end as they should."""
    place, pieces = HEADER, []
    while (name := content[place + 4 : place + 8]) != b"IEND":
        size = int.from_bytes(content[place : place + 4], "big")
        if name == b"IDAT":
            pieces.append(content[place + 8 : place + 8 + size])
        elif not name[:1].islower():  # critical, or the file is cut
            return b""
        place += size + 12  # length, name and checksum
    return b"".join(pieces)


def _inflate(content, size):
    """The image's lines (H, 1 + W) uint8, each a filter and the filtered row; None if damaged."""
    height, width = size
    stream = zlib_ng.decompressobj()
    try:
        lines = stream.decompress(_data_of(content), height * (width + 1) + 1)
    except zlib_ng.error:
        return None
    if not stream.eof or len(lines) != height * (width + 1):
        return None
    return np.frombuffer(lines, np.uint8).reshape(height, width + 1)


def _unfilter(filters, pixels):
    """Undoes filters of rows, 1 (left) and 2 (up); None where that is no quick matter."""
    if filters.max() > 2:
        return None
    rows = np.flatnonzero(filters)
    if len(rows) == 0:
        return pixels
    rows = rows[(filters[rows] != 1) | pixels[rows].any(axis=1)]
    if len(rows) > FEW_ROWS:
        return None
    pixels = pixels.copy()
    for row in rows:
        if filters[row] == 1:
            pixels[row] = np.cumsum(pixels[row], dtype=np.uint8)
        elif row > 0:
            pixels[row] += pixels[row - 1]
    return pixels
