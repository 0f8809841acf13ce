"""PNGs read here: 8-bit grey ones, nearly all frames and masks, with little around the pixels; and
16-bit colour, of which the image library would drop half of the bits.

Reads the file's own structure (PNG specification, sections 5 and 11) and leaves the pixels to
zlib-ng and the image library's filters: in a cache being built, several threads then share Python's
lock far less than with a whole image object for every file. What damages the pixels is refused with
None, for the library to read or to name; checksums of chunks but the header's are not looked at.
"""

import numpy as np
from PIL import Image
from zlib_ng import zlib_ng

from data.formats.library import orientation_of

HEADER = 33  # bytes: signature, and the chunk that gives size and kind
EXIF = b"eXIf"  # a chunk
_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_GREY = b"\x08\0\0\0\0"  # 8 bits, grey, deflated, adaptive filters, not interlaced
_DEEP_COLOURS = {b"\x10%c\0\0\0" % kind: channels for kind, channels in ((2, 3), (4, 2), (6, 4))}
FEW_ROWS = 32  # that are quicker to unfilter here than to leave to the image library


def size_of(content):
    """(height, width) that an 8-bit grey file tells in its first `HEADER` bytes; None: no such."""
    return _size(content) if content[24:29] == _GREY else None


def decode_grey(content):
    """Pixels (H, W) uint8 of an 8-bit grey file's content.

    Inflates an image at once: the image library does so row by row, which takes it up to twice as
    long, and far longer where an image is all but empty, as masks are. It is left the filters.

    Returns:
        None for another kind of file, or one that is damaged or has unknown critical chunks.
    """
    size = size_of(content)
    lines = None if size is None else _inflate(content, *size)
    return None if lines is None else _unfilter(lines[:, 0], lines[:, 1:])


def orientation(content):
    """How a file's EXIF data, if there are any, say that it is turned."""
    if not content.startswith(_START):
        return 1
    exif = next((data for name, data in _chunks(content) if name == EXIF), None)
    return 1 if exif is None else orientation_of(bytes(exif))


def is_animated(content):
    """Whether it is a PNG of several pictures, of which others than the first would be lost."""
    return content.startswith(_START) and b"acTL" in content[: content.find(b"IDAT")]


def is_deep_colour(content):
    """Whether it is a PNG of 16-bit colour, or of 16-bit grey with transparency."""
    return content.startswith(_START) and content[24] == 16 and content[25] in (2, 4, 6)


def decode_deep_colour(content):
    """Pixels (H, W, C) uint16 of a file for which `is_deep_colour`; None: damaged or interlaced.

    Filters act byte by byte on the same byte of the neighbouring pixels: each of a pixel's bytes
    makes a grey picture of its own, with the filters of all.
    """
    size, channels = _size(content), _DEEP_COLOURS.get(content[24:29])
    if size is None or channels is None:
        return None
    height, width = size
    lines = _inflate(content, height, 2 * channels * width)
    if lines is None:
        return None
    levels = np.empty((height, width, channels, 2), np.uint8)
    packed = lines[:, 1:].reshape(levels.shape)
    for channel, byte in np.ndindex(channels, 2):
        pixels = _unfilter(lines[:, 0], packed[..., channel, byte])
        if pixels is None:
            return None
        levels[..., channel, byte] = pixels
    return levels.view(">u2")[..., 0].astype(np.uint16)


def _size(content):
    header = content[:HEADER]
    whole = len(header) == HEADER and header.startswith(_START)
    if not whole or zlib_ng.crc32(header[12:29]) != int.from_bytes(header[29:33], "big"):
        return None
    width, height = int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")
    most = Image.MAX_IMAGE_PIXELS  # None: no limit
    return (height, width) if height * width > 0 and (not most or height * width <= most) else None


def _chunks(content):
    """Yields (name, data, a view) of the chunks after the header; (b"", no data): it is cut."""
    place, view = HEADER, memoryview(content)
    while (name := content[place + 4 : place + 8]) != b"IEND":
        size = int.from_bytes(content[place : place + 4], "big")
        yield name, view[place + 8 : place + 8 + size]
        if not name:
            return
        place += size + 12  # length, name and checksum


def _data_of(content):
    """The IDAT chunks' data, joined; empty if the chunks do not end as they should."""
    pieces = []
    for name, data in _chunks(content):
        if name == b"IDAT":
            pieces.append(data)
        elif not name[:1].islower():  # critical, or the file is cut
            return b""
    return b"".join(pieces)


def _inflate(content, height, width):
    """The image's lines (H, 1 + W) uint8, each a filter and a filtered row of `width` bytes.

    Returns:
        None if it is damaged.
    """
    stream = zlib_ng.decompressobj()
    try:
        lines = stream.decompress(_data_of(content), height * (width + 1) + 1)
    except zlib_ng.error:
        return None
    if not stream.eof or len(lines) != height * (width + 1):
        return None
    return np.frombuffer(lines, np.uint8).reshape(height, width + 1)


def _unfilter(filters, pixels):
    """Undoes the filters (H,) of rows of bytes (H, W); None for a filter that is none."""
    unfiltered = _unfilter_few(filters, pixels)
    if unfiltered is not None:
        return unfiltered
    lines = np.column_stack([filters, pixels])
    height, width = pixels.shape
    try:
        image = Image.frombytes("L", (width, height), zlib_ng.compress(lines, 0), "zip", "L")
    except ValueError:
        return None
    return np.asarray(image)


def _unfilter_few(filters, pixels):
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
