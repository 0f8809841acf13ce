"""TIFFs at their own depth: 8 to 64 bits, signed, floating-point, colour, tiles, big files.

Structure and pixels are read by tifffile, which comes with scikit-image: the image library cuts
16-bit colour to 8 bits, wraps signed bytes, takes thumbnails for frames and knows nothing of
stacks that have one directory for all frames. Pixels that are compressed in other ways than zip
(LZW, JPEG, fax) the library reads, as far as it keeps their depth.
"""

import logging
from functools import cached_property
from itertools import zip_longest

import numpy as np
import tifffile
from PIL import Image
from zlib_ng import zlib_ng

from data.formats.library import ORIENTATION, picture_of, turned

MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE = 0, 1, 2, 3
UNPACKED, DEFLATED = 1, (8, 32946)  # compressions
LOSSY = (6, 7, 33003, 33005, 34712, 34892, 50001)  # JPEG, JPEG 2000 and WebP, as they may be
REDUCED, MASK = 1, 4  # bits of the tag that says what a page is for
STACK_AXES = {"T": "frames", "Z": "slices", "C": "channels"}  # of stacks, as ImageJ calls them, too
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong is raised here, in words


def is_tiff(content):
    """Whether a file that begins so is a TIFF."""
    return content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_lossy(path):
    """Whether the first page of a TIFF is compressed in a way that changes levels."""
    with tifffile.TiffFile(path) as file:
        return int(file.pages[0].compression) in LOSSY


class TiffPages:
    """The frames of a TIFF file; pages of reduced size and masks of transparency are none.

    Attributes:
        count: of the frames.
        no_data: the level that marks pixels without data, as the file itself says; or None.

    Args:
        path: of the file.
        other: `TiffPages` of the same file, whose list of frames is taken; None: finds them.

    Raises:
        ValueError: fewer frames are there than its description promises, or it would have to be
            guessed what is a frame.
    """

    def __init__(self, path, other=None):
        self.path = path
        self.file = tifffile.TiffFile(path)
        try:
            if other is None:
                self._find_frames()
            else:
                self.pages, self.joined = other.pages, other.joined
                self.count, self.no_data = other.count, other.no_data
        except BaseException:
            self.close()
            raise

    def _find_frames(self):
        pages = self.file.pages
        self.pages = [
            index for index in range(len(pages)) if not pages[index].subfiletype & (REDUCED | MASK)
        ]
        if not self.pages:
            raise ValueError("no page of full size")
        first = pages[self.pages[0]]
        if len(self.pages) == 1 and first.planarconfig == 2 and first.samplesperpixel > 1:
            raise ValueError(
                f"one page of {first.samplesperpixel} planes, which may be that many frames or one "
                "colour picture; save a page for each frame, or the colours of a pixel together"
            )
        self._check_axes()
        self.no_data = _no_data(first)
        self.joined = None  # (N, H, W), mapped, where one directory stands for all frames
        self.count = len(self.pages)
        promised = self._promised(first)
        if promised > self.count:
            if self.count > 1 or not first.is_contiguous or first.samplesperpixel > 1:
                raise ValueError(f"{self.count} frames, but its description promises {promised}")
            self.joined = self._join(first, promised)
            self.count = promised

    @cached_property
    def _series(self):
        """(names of its axes, shape) of all frames, as the file's own description has them."""
        with tifffile.TiffFile(self.path) as file:  # series turn its pages into something else
            return file.series[0].axes, file.series[0].shape

    def _check_axes(self):
        """Refuses frames, slices and channels beside each other; one of them alone are frames."""
        if self.file.is_imagej:
            found = self.file.imagej_metadata or {}
            sizes = {axis: int(found.get(name, 1)) for axis, name in STACK_AXES.items()}
        elif self.file.is_ome:
            sizes = dict(zip(*self._series, strict=True))
        else:
            return
        axes = [axis for axis in "TZC" if sizes.get(axis, 1) > 1]
        if len(axes) > 1:
            told = ", ".join(f"{sizes[axis]} {STACK_AXES[axis]}" for axis in axes)
            raise ValueError(f"{told}; save the frames of one slice and channel")

    def _promised(self, first):
        """How many frames the file's own description speaks of; 0: it has none."""
        if self.file.is_imagej:
            return int((self.file.imagej_metadata or {}).get("images", 0))
        if not (self.file.is_shaped or self.file.is_ome):
            return 0
        return int(np.prod(self._series[1])) // max(int(np.prod(first.shape)), 1)

    def _join(self, page, count):
        """The frames that follow the first without directories of their own."""
        height, width = page.shape
        dtype = np.dtype(self.file.byteorder + page.dtype.char)
        needed = count * height * width * dtype.itemsize
        offset = page.dataoffsets[0]
        if offset + needed > self.file.filehandle.size:
            raise ValueError(f"1 frame, but its description promises {count}")
        return np.memmap(self.path, dtype, "r", offset, (count, height, width))

    def picture(self, index):
        """Frame `index`: (H, W), or (H, W, C) with C = 2 (grey, alpha), 3 (colour), 4 (and alpha).

        Raises:
            ValueError: its pixels have no grey levels or no data, or the page is damaged.
        """
        page = self.file.pages[self.pages[0 if self.joined is not None else index]]
        if page.photometric == MIN_IS_WHITE and page.dtype is not None and page.dtype.kind != "u":
            raise ValueError(f"white is the least of pixels of type {page.dtype}")
        if self.joined is not None:
            pixels = _levels(page, np.array(self.joined[index]))
        else:
            _check_page(page, self.file.filehandle)
            pixels = self._decode(page, index)
        if self.no_data is not None and (pixels == self.no_data).any():
            count = int((pixels == self.no_data).sum())
            raise ValueError(
                f"{count} pixels of {self.no_data:g}, which the file names as no data; fill them"
            )
        return pixels

    def _decode(self, page, index):
        """The pixels of a page: by tifffile, or the library where it is stricter or can more."""
        own = page.photometric in (MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE)
        if own and (page.compression in (UNPACKED, *DEFLATED) or not _library_keeps(page)):
            try:
                return turned(_tag(page, ORIENTATION, 1), _levels(page, page.asarray()))
            except (NotImplementedError, ValueError) as error:
                if "imagecodecs" not in str(error):
                    raise
                raise ValueError(f"{error}; `pip install imagecodecs` reads it") from error
        if not _library_keeps(page):
            raise ValueError(f"colours of the kind {int(page.photometric)} in {page.dtype}")
        with Image.open(self.path) as image:
            image.seek(self.pages[index])
            pixels = picture_of(image)  # turned by the library
        inverted = page.photometric == MIN_IS_WHITE and pixels.dtype == np.uint16
        return 65535 - pixels if inverted else pixels

    def close(self):
        self.file.close()


def _levels(page, pixels):
    """Pixels with the darkest at the least level, and colours instead of a palette's indices."""
    if page.photometric == PALETTE:
        colours = page.colormap.T  # (2^bits, 3) uint16
        if (colours % 257 == 0).all() or (colours % 256 == 0).all():
            colours = (colours >> 8).astype(np.uint8)
        return colours[pixels]
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        pixels = np.moveaxis(pixels, 0, -1)
    if page.photometric == MIN_IS_WHITE:
        if pixels.dtype == bool:
            return ~pixels
        pixels = ((1 << page.bitspersample) - 1 - pixels.astype(np.int64)).astype(pixels.dtype)
    return pixels


def _check_page(page, file):
    """Refuses pages whose data are not exactly there, and pictures too large for the memory."""
    most = Image.MAX_IMAGE_PIXELS
    known = page.planarconfig in (1, 2) and page.fillorder in (1, 2)
    known = known and (page.rowsperstrip > 0 or page.is_tiled)
    if page.dtype is None or page.imagedepth > 1 or not known:
        raise ValueError("pixels of an unknown type or order")
    if page.imagelength * page.imagewidth * page.samplesperpixel <= 0:
        raise ValueError("a page without pixels")
    if most and page.imagelength * page.imagewidth > 2 * most:
        raise ValueError(f"{page.imagelength}x{page.imagewidth} pixels")
    for segment in zip_longest(page.dataoffsets, page.databytecounts, _segment_sizes(page)):
        offset, count, size = segment
        if None in segment or offset <= 0 or count <= 0 or offset + count > file.size:
            raise ValueError("pixels that are missing in the file")
        if page.compression in DEFLATED:
            file.seek(offset)
            stream = zlib_ng.decompressobj()
            found = len(stream.decompress(file.read(count), size + 1))
        else:
            found = size if page.compression != UNPACKED else min(count, size)
        if found != size:
            raise ValueError(f"{found} bytes of pixels where {size} are expected")


def _segment_sizes(page):
    """Bytes of the strips or tiles of a page, unpacked, in their order, one by one."""
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    bits = page.bitspersample * page.samplesperpixel // planes
    for _ in range(planes):
        if page.is_tiled:
            across, down = (
                -(-whole // part)
                for whole, part in (
                    (page.imagewidth, page.tilewidth),
                    (page.imagelength, page.tilelength),
                )
            )
            for _ in range(across * down):
                yield page.tilelength * -(-page.tilewidth * bits // 8)
        else:
            for start in range(0, page.imagelength, page.rowsperstrip):
                rows = min(page.rowsperstrip, page.imagelength - start)
                yield rows * -(-page.imagewidth * bits // 8)


def _library_keeps(page):
    """Whether the image library gives these pixels at their full depth."""
    bits, kind = page.bitspersample, page.sampleformat
    deep = bits == 16 and page.samplesperpixel == 1
    return kind == 1 and page.planarconfig == 1 and (bits in (1, 8) or deep)


def _no_data(page):
    text = str(_tag(page, 42113, "")).strip("\0 ")  # as GDAL writes it
    try:
        return float(text)
    except ValueError:
        return None


def _tag(page, code, default):
    tag = page.tags.get(code)
    return default if tag is None else tag.value
