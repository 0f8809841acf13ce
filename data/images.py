"""One image file to an array: grey levels of a frame, or a mask.

What a file holds decides the type of the array, never what its grey levels happen to be: uint8,
uint16, or float32 for all other kinds.
"""

import os
from contextlib import contextmanager

import numpy as np
from PIL import Image

from data.formats import grey_png

READ_BYTES = 1 << 18  # asked of a file at first: more than most images have
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L")  # of the image library; files may be of 16 or 32 bits


def read_frame(path, size=None):
    """Grey levels of an image, the first channel of a colour one.

    Args:
        path: an image file.
        size: (height, width) to resize to (bicubic), or None.

    Returns:
        (H, W) array: uint8, uint16 for 16-bit images, float32 for signed and floating-point ones.

    Raises:
        ValueError: the file cannot be read as an image.
    """
    pixels = _decode(path, "an image", palette_to="RGB")
    return pixels if size is None else resize(pixels, size)


def read_mask(path, size=None):
    """A mask (H, W), uint8 in {0, 1}: 1 where the first channel (or palette index) is above 0.

    Args:
        path: an image file.
        size: (height, width) to resize to (bicubic, then > 0), or None.

    Raises:
        ValueError: the file cannot be read as an image.
    """
    return resize_mask(read_labels(path), size)


def read_labels(path):
    """What a mask file holds (H, W): above 0 where there is a target; see `read_mask`."""
    return _decode(path, "a mask")


def read_size(path):
    """(height, width) of an image file.

    Raises:
        ValueError: the file cannot be read as an image.
    """
    with _reading(path, "an image"):
        size = grey_png.size_of(_read_file(path, grey_png.HEADER))
        if size is None:
            with Image.open(path) as image:
                image.load()  # only then is a TIFF turned as its orientation says
                size = image.size[::-1]
    return size


def check_size(size, path, expected, expected_path):
    """Refuses a (height, width) that is not the expected one."""
    if tuple(size) != tuple(expected):
        (height, width), (rows, columns) = size, expected
        raise ValueError(
            f"{path}: {height}x{width} pixels, but {expected_path} has {rows}x{columns}; "
            "expected one size in a sequence, for frames and masks"
        )


def resize(pixels, size):
    """Resizes (H, W) bicubically to `size` = (height, width), as the image library does by default.

    8-bit images keep their type and are rounded and clipped; others pass through float32.
    """
    height, width = size
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    image = Image.fromarray(pixels.astype(np.float32))
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    if np.issubdtype(pixels.dtype, np.integer):
        limits = np.iinfo(pixels.dtype)
        resized = np.clip(np.rint(resized), limits.min, limits.max)
    return resized.astype(pixels.dtype)


def resize_mask(pixels, size=None):
    """A mask in {0, 1} of the pixels above 0, resized to `size` first (bicubic) if not None."""
    if size is not None:
        # Labels 0 and 1 would be rounded away at a target's edge: they are resized as 0 and 255.
        binary = pixels.dtype == np.uint8 and pixels.max(initial=0) <= 1
        pixels = resize(pixels * np.uint8(255) if binary else pixels, size)
    return (pixels > 0).view(np.uint8)


def grey_levels(pixels):
    """Pixels of any real type as uint8, uint16 (native byte order) or float32."""
    if pixels.dtype == bool:
        return pixels.view(np.uint8)
    if pixels.dtype == np.uint8:
        return pixels
    kind = np.uint16 if pixels.dtype.newbyteorder("=") == np.uint16 else np.float32
    return pixels.astype(kind)


def image_levels(image, palette_to="RGB"):
    """Grey levels (H, W) of an open image of the image library, the first channel of a colour one.

    Args:
        image: the image, at the page that is wanted.
        palette_to: mode that palette images are converted to; None reads their indices.
    """
    if _deep_colour(image):
        raise ValueError("16-bit colour, of which 8 bits would be lost: save it as grey")
    if image.mode in ("P", "PA") and palette_to is not None:
        image = image.convert(palette_to)
    pixels = np.asarray(image)
    pixels = pixels if pixels.ndim == 2 else pixels[..., 0]
    if image.mode in DEEP_MODES and pixels.min() >= 0 and pixels.max() <= 65535:
        return pixels.astype(np.uint16)
    return grey_levels(pixels)


def _decode(path, what, palette_to=None):
    """Pixels (H, W) of an image file, the first channel of a colour one.

    Args:
        path: the file.
        what: for the message if it cannot be read.
        palette_to: mode that palette images are converted to; None reads their indices.
    """
    with _reading(path, what):
        pixels = grey_png.decode(_read_file(path))
        if pixels is not None:
            return pixels
        with Image.open(path) as image:
            return image_levels(image, palette_to)


def _read_file(path, size=None):
    """The file's bytes, or the first `size`; in few calls, as threads hand over between calls."""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        content = os.read(file, READ_BYTES if size is None else size)
        if size is None and len(content) == READ_BYTES:
            content += os.read(file, os.fstat(file).st_size)
    finally:
        os.close(file)
    return content


@contextmanager
def _reading(path, what):
    """Names the file that could not be read."""
    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path}: cannot be read as {what} ({error}); expected a whole image file"
        ) from error


def _deep_colour(image):
    """Whether a PNG holds 16-bit colour, which the image library would cut to 8 bits."""
    if image.format != "PNG" or image.mode in ("I;16", "I", "L", "1", "P"):
        return False
    return any(str(arguments).find(";16") >= 0 for *_, arguments in image.tile)
