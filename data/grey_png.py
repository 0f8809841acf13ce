"""8-bit grey PNGs, the format of nearly all frames and masks, decoded with little around it.

Reads the file's own structure (PNG specification, sections 5 and 11) and leaves the pixels to zlib
and the image library's decoder: in a cache being built, several threads then share Python's lock
far less than with a whole image object for every file. What damages the pixels is refused with
None, for the library to read or to name; checksums of other chunks are not looked at.
"""

import zlib

import numpy as np
from PIL import Image

HEADER = 33  # bytes: signature, and the chunk that gives size and kind
_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_KIND = b"\x08\0\0\0\0"  # 8 bits, grey, deflated, adaptive filters, not interlaced
FEW_ROWS = 32  # that are quicker to unfilter here than to leave to the image library


def size_of(content):
    """(height, width) that a file tells in its first `HEADER` bytes; None: another kind of file."""
    header = content[:HEADER]
    whole = len(header) == HEADER and header.startswith(_START) and header[24:29] == _KIND
    if not whole or zlib.crc32(header[12:29]) != int.from_bytes(header[29:33], "big"):
        return None
    width, height = int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")
    most = Image.MAX_IMAGE_PIXELS  # None: no limit
    return (height, width) if height * width > 0 and (not most or height * width <= most) else None


def decode(content, sparse=False):
    """Pixels (H, W) uint8.

    Args:
        content: of the file.
        sparse: the way for images that are all but empty, as masks are; the same pixels.

    Returns:
        None for another kind of file, or one that is damaged or has unknown critical chunks.
    """
    size = size_of(content)
    pieces = None if size is None else data_of(content)
    if pieces is None:
        return None
    pixels = _inflate(pieces, size) if sparse else None
    if pixels is None:
        height, width = size
        try:
            image = Image.frombytes("L", (width, height), _joined(pieces), "zip", "L")
            pixels = np.asarray(image)
        except ValueError:
            return None
    return pixels


def data_of(content):
    """The IDAT chunks, each with its checksum; None if the chunks do not end as they should."""
    place, pieces = HEADER, []
    while (name := content[place + 4 : place + 8]) != b"IEND":
        size = int.from_bytes(content[place : place + 4], "big")
        if name == b"IDAT":
            pieces.append(content[place + 8 : place + 12 + size])
        elif not name[:1].islower():  # critical, or the file is cut
            return None
        place += size + 12  # length, name and checksum
    return pieces or None


def _joined(pieces):
    """The data of IDAT chunks without their checksums."""
    return pieces[0][:-4] if len(pieces) == 1 else b"".join(piece[:-4] for piece in pieces)


def _inflate(pieces, size):
    """Pixels of an image with few filtered rows, inflated at once; None for any other.

    The image library inflates row by row, which can take it three times as long where an image is
    all but empty. The chunks' checksums stand in for that of the pixels, which are many more.
    """
    height, width = size
    for piece in pieces:
        if zlib.crc32(piece[:-4], zlib.crc32(b"IDAT")) != int.from_bytes(piece[-4:], "big"):
            return None
    data = _joined(pieces)
    if int.from_bytes(data[:2], "big") % 31 or data[0] % 16 != 8 or data[1] & 32:
        return None  # not zlib's header, or one that asks for a dictionary
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        lines = stream.decompress(data[2:], height * (width + 1) + 1)
    except zlib.error:
        return None
    if not stream.eof or len(lines) != height * (width + 1):
        return None
    lines = np.frombuffer(lines, np.uint8).reshape(height, width + 1)
    return _unfilter(lines[:, 0], lines[:, 1:])


def _unfilter(filters, pixels):
    """Undoes filters of rows, 1 (left) and 2 (up); None where that is no quick matter."""
    rows = np.flatnonzero(filters)
    if len(rows) == 0:
        return pixels
    rows = rows[(filters[rows] != 1) | pixels[rows].any(axis=1)]
    if len(rows) > FEW_ROWS or filters.max() > 2:
        return None
    pixels = pixels.copy()
    for row in rows:
        if filters[row] == 1:
            pixels[row] = np.cumsum(pixels[row], dtype=np.uint8)
        elif row > 0:
            pixels[row] += pixels[row - 1]
    return pixels
