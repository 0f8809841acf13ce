"""PGM and PPM, at the depth that they have: the image library stretches levels to 8 or 16 bits."""

import re

import numpy as np

_TOKEN = re.compile(rb"(?:\s|#[^\n]*\n)*([^\s#]+)")


def is_netpbm(content):
    """Whether it is a grey or colour map, in binary or in text."""
    return re.match(rb"P[2356][\s#]", content) is not None


def decode(content):
    """Pixels (H, W) or (H, W, 3), uint8 or uint16, as written in a file for which `is_netpbm`.

    Raises:
        ValueError: it is damaged.
    """
    words, place = [], 0
    for _ in range(4):
        match = _TOKEN.match(content, place)
        if match is None:
            raise ValueError("a header that ends too early")
        words.append(match[1])
        place = match.end()
    kind, width, height, largest = words[0], *(_whole_number(word) for word in words[1:])
    if not (0 < largest < 65536 and 0 < width * height < 1 << 28):
        raise ValueError(f"{width}x{height} pixels up to {largest}")
    shape = (height, width) if kind in (b"P2", b"P5") else (height, width, 3)
    count = int(np.prod(shape))
    if kind in (b"P5", b"P6"):
        dtype = np.dtype(np.uint8 if largest < 256 else ">u2")
        place += 1  # one white space
        if len(content) < place + count * dtype.itemsize:
            raise ValueError("fewer pixels than its header promises")
        pixels = np.frombuffer(content, dtype, count, place)
    else:
        words = re.sub(rb"#[^\n]*", b"", content[place:]).split()
        if len(words) < count:
            raise ValueError("fewer pixels than its header promises")
        pixels = np.array([_whole_number(word) for word in words[:count]])
    if pixels.max() > largest:
        raise ValueError(f"a grey level of {pixels.max()}, though its header says up to {largest}")
    return pixels.reshape(shape).astype(np.uint8 if largest < 256 else np.uint16)


def _whole_number(word):
    if not word.isdigit() or len(word) > 9:
        raise ValueError(f"{word[:20]!r} where a number should be")
    return int(word)
