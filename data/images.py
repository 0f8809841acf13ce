"""One image file to an array: grey levels of a frame, or a mask.

Levels keep the depth of the file, whatever its format: see `data.formats.levels`. What would have
to be guessed is refused.
"""

import os
from contextlib import contextmanager

import numpy as np
from PIL import Image

from data.formats import netpbm, png, tiff
from data.formats.levels import check_colours, check_labels, check_numbers, grey_levels
from data.formats.library import LibraryPages, turned

READ_BYTES = 1 << 18  # asked of a file at first: more than most images have
LOSSY_LEAST = 160  # that a target's brightest pixel has where levels are inexact
LOSSY_TARGET = 128  # level of a mask's pixel that belongs to a target, where levels are inexact


def read_frame(path, size=None, remarks=None):
    """Grey levels of an image, the first channel of a colour one.

    Args:
        path: an image file.
        size: (height, width) to resize to (bicubic), or None.
        remarks: `data.remarks.Remarks` that hear of colours, or None.

    Returns:
        (H, W) array: uint8, uint16 for 16-bit images, float32 for signed and floating-point ones.

    Raises:
        ValueError: the file cannot be read as an image, or holds several.
    """
    with _reading(path, "an image"):
        picture = _picture(path)
        pixels = grey_levels(picture if picture.ndim == 2 else picture[..., 0])
    check_numbers(pixels, path, "the frame", remarks)
    if remarks is not None and picture.ndim == 3:
        check_colours(picture, path, remarks)
    return pixels if size is None else resize(pixels, size)


def read_mask(path, size=None, remarks=None):
    """A mask (H, W), uint8 in {0, 1}: 1 where a colour is above 0, and not transparent.

    Where all pixels have one colour, the opaque ones are the targets. A JPEG's levels are inexact:
    there 1 is where they reach 128.

    Args:
        path: an image file.
        size: (height, width) to resize to (bicubic, then > 0), or None.
        remarks: `data.remarks.Remarks` that hear of masks that look like something else, or None.

    Raises:
        ValueError: the file cannot be read as an image, or holds several.
    """
    return resize_mask(read_labels(path, remarks), size)


def read_labels(path, remarks=None):
    """What a mask file holds (H, W): above 0 where there is a target; see `read_mask`."""
    with _reading(path, "a mask"):
        content = _read_file(path)
        picture = _picture(path, content)
        labels = picture if picture.ndim == 2 else _labels_of(picture)
        if _is_lossy(content, path):
            labels = _exact_labels(labels)
            if remarks is not None:
                remarks.make(
                    "inexact masks",
                    f"{path}: a mask saved with loss; pixels of {LOSSY_TARGET} and above count as "
                    "target, PNG would be exact",
                )
        labels = labels.view(np.uint8) if labels.dtype == bool else labels
    if remarks is not None:
        check_labels(labels, path, remarks)
    return labels


def read_size(path):
    """(height, width) of an image file.

    Raises:
        ValueError: the file cannot be read as an image.
    """
    with _reading(path, "an image"):
        content = _read_file(path)
        size = png.size_of(content)
        if size is None or png.orientation(content) != 1:
            return _picture(path, content).shape[:2]
        return size


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


def _picture(path, content=None):
    """All channels of the one picture in a file: (H, W), or (H, W, C), see `LibraryPages`."""
    content = _read_file(path) if content is None else content
    if png.is_animated(content):
        raise ValueError("an animated PNG, where one frame is expected: save it as a GIF")
    orientation = png.orientation(content)
    pixels = png.decode_grey(content)
    if pixels is not None:
        return turned(orientation, pixels)
    if png.is_deep_colour(content):
        pixels = png.decode_deep_colour(content)
        if pixels is None:
            raise ValueError("16-bit colour, interlaced or damaged: save it as grey")
        return turned(orientation, pixels)
    if netpbm.is_netpbm(content):
        return netpbm.decode(content)
    pages = tiff.TiffPages(path) if tiff.is_tiff(content) else LibraryPages(path)
    try:
        if pages.count > 1:
            raise ValueError(f"{pages.count} frames in one file, where one is expected")
        return pages.picture(0)
    finally:
        pages.close()


def _labels_of(picture):
    """Colours and transparency (H, W, C) of a mask as one: above 0 where there is a target."""
    if picture.shape[2] not in (2, 4):
        return picture.max(axis=2)
    alpha, colours = picture[..., -1], picture[..., :-1].max(axis=2)
    if (alpha == alpha.flat[0]).all():
        return colours
    if (picture[..., :-1] == picture[0, 0, :-1]).all():
        return alpha
    return np.where(alpha > 0, colours, 0)


def _is_lossy(content, path):
    """Whether a file's levels are not exactly those that were saved: JPEG and what is like it."""
    if content.startswith(b"\xff\xd8\xff") or content[8:16] == b"WEBPVP8 ":
        return True
    if tiff.is_tiff(content):
        return tiff.is_lossy(path)
    coding = content.find(b"\xff\x52", content.find(b"\xff\x4f\xff\x51"))
    return path.suffix.lower() in (".jp2", ".j2k") and content[coding + 13] == 0  # 9-7 wavelet


def _exact_labels(labels):
    brightest = int(labels.max())
    if 0 < brightest < LOSSY_LEAST:
        raise ValueError(f"its levels are inexact, the highest is {brightest}: save masks as PNG")
    return np.where(labels >= LOSSY_TARGET, np.uint8(255), np.uint8(0))


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
    except Exception as error:  # a decoder may meet damage with any
        raise ValueError(
            f"{path}: cannot be read as {what} ({error or type(error).__name__}); "
            "expected a whole image file"
        ) from error
