"""Lists, frames and masks on disk: with data/footage.py the only code that opens data files."""

import csv
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data import grey_png

IMAGE_SUFFIXES = {".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".pgm"}
LOW_SNR_LIMIT = 3.0
READ_BYTES = 1 << 18  # asked of a file at first: more than most images have


@dataclass(frozen=True)
class SequenceFiles:
    """The files of one sequence, frame by frame.

    Attributes:
        name: of the sequence.
        images: N paths.
        masks: N paths.
        centroids: N paths, or None where targets are the components of the masks.
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    centroids: tuple[Path, ...] | None

    def __len__(self):
        return len(self.images)


def prepare(spec, root):
    """Makes sure that a data set's folder exists; writes it if the data set can be generated.

    Raises:
        FileNotFoundError: the folder is missing and has to be obtained elsewhere.
    """
    root = Path(root)
    if root.is_dir() and (spec.generate is None or any(root.iterdir())):
        return
    if spec.generate is None:
        raise FileNotFoundError(
            f"{root}: no such folder; expected the data set {spec.name}, which comes from "
            f"{spec.source}; give its place with --datapath, or use --dataset Synthetic, "
            "which needs no download"
        )
    try:
        spec.generate(root)
    except RuntimeError as error:  # a process that writes was ended
        raise OSError(f"{root}: {spec.name} could not be generated ({error})") from error


def list_sequences(spec, split, root):
    """Names of the sequences of a split, in the order of its list.

    Args:
        spec: the data set's row.
        split: `spec.train` or `spec.test`.
        root: the data set's folder.

    Raises:
        FileNotFoundError: there is no list and the data set has no published split.
        ValueError: the list is empty.
    """
    path = Path(root) / split.list_file
    if not path.is_file():
        if split.sequences:
            return list(split.sequences)
        raise FileNotFoundError(
            f"{path}: no such list; expected a text file with one <sequence> or "
            f"<sequence>/<frame> a line, as it comes with {spec.name}"
        )
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a UTF-8 text; save the list as UTF-8") from error
    entries = [[part for part in re.split(r"[/\\]", line.strip()) if part != "."] for line in lines]
    names = list(dict.fromkeys(next(filter(None, entry), "") for entry in entries))
    names = [name for name in names if name]
    if not names:
        raise ValueError(f"{path}: the list is empty; expected one sequence a line")
    return names


def find_sequences(spec, split, root, names=None):
    """Files of all sequences of a split, counts checked; opens no image.

    Raises:
        FileNotFoundError: a list, or a folder of a listed sequence, is missing.
        ValueError: an empty list or folder, or frames and masks that differ in number.
    """
    if split is None:
        raise ValueError(
            f"{spec.name}: has no training and test lists; expected a data set that has them, "
            "see --dataset"
        )
    names = list_sequences(spec, split, root) if names is None else names
    return [find_sequence(spec, split, root, name) for name in names]


def find_sequence(spec, split, root, name):
    """Files of one sequence; see `find_sequences`."""
    root = Path(root)
    folder = root / split.images.format(name)
    if not folder.is_dir() and not (root / split.list_file).is_file():
        raise FileNotFoundError(
            f"{name}: no folder {folder}; without {root / split.list_file} the published split of "
            f"{spec.name} is expected: add the list, or the sequences"
        )
    images = _list_images(folder, name, spec.numeric_order)
    # A folder's neighbour is looked for beside its name first, then where a link leads.
    roots = [
        base
        for place in spec.mask_roots
        for base in (Path(os.path.normpath(root.absolute() / place)), root / place)
    ]
    mask_folder = _first_folder(roots, split.masks.format(name))
    if mask_folder is None:
        looked = ", ".join(str(place / split.masks.format(name)) for place in roots)
        raise FileNotFoundError(f"{name}: no folder of masks; expected one of {looked}")
    masks = _list_images(mask_folder, name, spec.numeric_order)
    _check_count(name, images, masks, "masks", mask_folder)
    centroids = None
    if split.centroids is not None:
        folder = _first_folder(roots, split.centroids.format(name))
        if folder is not None:
            centroids = _list_images(folder, name, spec.numeric_order)
            _check_count(name, images, centroids, "centroid masks", folder)
    return SequenceFiles(name, images, masks, centroids)


def read_snr(spec, root, names):
    """Splits sequences into the low- and high-SNR subsets.

    Returns:
        {"low_snr": names, "high_snr": names}, in the order of `names`, without a subset that none
        of these sequences belongs to; empty where the data set defines no subsets.
    """
    if spec.snr_file is not None:
        path = Path(root) / spec.snr_file
        if not path.is_file():
            return {}
        try:
            with path.open(newline="", encoding="utf-8") as file:
                snr = {row["sequence"]: float(row["snr"]) for row in csv.DictReader(file)}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: not a table with columns `sequence` and `snr` ({error!r})"
            ) from error
        low = {name for name, value in snr.items() if value <= LOW_SNR_LIMIT}
        known = set(snr)
    else:
        low = set(spec.low_snr)
        known = low | set(spec.test.sequences) if low else set()
    subsets = {
        "low_snr": [name for name in names if name in low],
        "high_snr": [name for name in names if name in known - low],
    }
    return {subset: members for subset, members in subsets.items() if members}


def read_frame(path, size=None):
    """Grey levels of an image, the first channel of a colour one.

    Args:
        path: an image file.
        size: (height, width) to resize to (bicubic), or None.

    Returns:
        (H, W) array: uint8, uint16 for 16-bit images, float32 for floating-point ones.

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
    return resize_mask(_decode(path, "a mask"), size)


def resize_mask(pixels, size=None):
    """A mask in {0, 1} of the pixels above 0, resized to `size` first (bicubic) if not None."""
    if size is not None:
        # Labels 0 and 1 would be rounded away at a target's edge: they are resized as 0 and 255.
        binary = pixels.dtype == np.uint8 and pixels.max(initial=0) <= 1
        pixels = resize(pixels * np.uint8(255) if binary else pixels, size)
    return (pixels > 0).view(np.uint8)


class FrameArrays:
    """Frames (N, H, W) and masks (N, H, W) uint8 in {0, 1} in memory, put there one by one."""

    def begin(self, shape, dtype):
        """Makes room for frames and masks of this shape."""
        self.frames, self.masks = np.empty(shape, dtype), np.zeros(shape, np.uint8)

    def put(self, index, frame, mask):
        """Keeps a frame and its mask; several threads may, each another one."""
        self.frames[index] = frame
        band = target_band(mask)  # the other rows are 0 already
        self.masks[index, band] = mask[band]


def read_window(files, start, stop, size=None):
    """Frames and masks [start, stop) of a sequence, each decoded once.

    Returns:
        frames (n, H, W) uint8, uint16 or float32, masks (n, H, W) uint8 in {0, 1}.

    Raises:
        ValueError: an unreadable file, a size that is not that of the sequence's first frame, or no
            frame in the window.
    """
    if not files.images[start:stop]:
        raise ValueError(f"{files.name}: no frames [{start}, {stop}) among its {len(files)}")
    arrays, dtype = FrameArrays(), None
    while True:
        for index, (frame, mask) in enumerate(decode_window(files, start, stop, size, dtype)):
            if index == 0:
                arrays.begin((len(files.images[start:stop]), *frame.shape), frame.dtype)
            elif frame.dtype != arrays.frames.dtype:
                dtype = np.result_type(frame, arrays.frames)
                break  # all anew: type and resizing are of one piece
            arrays.put(index, frame, mask)
        else:
            return arrays.frames, arrays.masks


def decode_window(files, start, stop, size=None, dtype=None):
    """Yields the pairs of `read_window`; each frame has its own type, or `dtype` if wider."""
    first, expected = files.images[0], _image_size(files.images[0])
    for image, path in zip(files.images[start:stop], files.masks[start:stop], strict=True):
        frame = _decode(image, "an image", palette_to="RGB")
        _check_size(frame.shape, image, expected, first)
        if dtype is not None:
            frame = frame.astype(np.result_type(frame, dtype), copy=False)
        mask = _decode(path, "a mask")
        _check_size(mask.shape, path, expected, first)
        yield frame if size is None else resize(frame, size), resize_mask(mask, size)


def target_band(mask):
    """Slice from the first to the last row of a mask (H, W) that has a pixel above 0."""
    rows = np.flatnonzero(any_in_row(mask))
    return slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)


def any_in_row(masks):
    """Whether a row has a pixel above 0: (..., H) of masks (..., H, W) uint8 in {0, 1}."""
    return masks.view(bool).any(axis=-1)


def stack(frames, paths):
    """Stacks the frames of one sequence: (N, H, W).

    Raises:
        ValueError: the frames differ in size.
    """
    for frame, path in zip(frames, paths, strict=True):
        _check_size(frame.shape, path, frames[0].shape, paths[0])
    return np.stack(frames)


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
            if _deep_colour(image):
                raise ValueError("16-bit colour, of which 8 bits would be lost: save it as grey")
            if image.mode == "P" and palette_to is not None:
                image = image.convert(palette_to)
            pixels = np.asarray(image)
    return plain_dtype(pixels if pixels.ndim == 2 else pixels[..., 0])


def _image_size(path):
    """(height, width) of an image file."""
    with _reading(path, "an image"):
        size = grey_png.size_of(_read_file(path, grey_png.HEADER))
        if size is None:
            with Image.open(path) as image:
                image.load()  # only then is a TIFF turned as its orientation says
                size = image.size[::-1]
    return size


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


def plain_dtype(pixels):
    """uint8, uint16 (native byte order) or float32, whatever the file's pixel type was."""
    if pixels.dtype == bool:
        return pixels.astype(np.uint8)
    if pixels.dtype == np.uint8:
        return pixels
    if np.issubdtype(pixels.dtype, np.integer) and pixels.min() >= 0 and pixels.max() <= 65535:
        return pixels.astype(np.uint16)
    return pixels.astype(np.float32)


def _list_images(folder, name, numeric):
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{name}: no folder {folder}; expected one for each sequence of the list"
        )
    paths = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if not paths:
        raise ValueError(f"{name}: no image in {folder}; expected its frames")
    return tuple(sorted(paths, key=_number if numeric else lambda path: path.name))


def _number(path):
    """Sorts 2.png before 10.png: the last number in the name, then the name."""
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else -1, path.name)


def _first_folder(roots, relative):
    return next((root / relative for root in roots if (root / relative).is_dir()), None)


def _check_count(name, images, others, what, folder):
    if len(images) != len(others):
        raise ValueError(
            f"{name}: {len(images)} frames but {len(others)} {what} in {folder}; "
            "expected one for each frame"
        )
    if not all(path.stem.isdecimal() for path in (*images, *others)):
        return
    shifts = [int(b.stem) - int(a.stem) for a, b in zip(images, others, strict=True)]
    odd = next((i for i, shift in enumerate(shifts) if shift != shifts[0]), None)
    if odd is not None:
        raise ValueError(
            f"{name}: {images[odd].name} would be paired with {others[odd].name} of {folder}; "
            f"expected {what} numbered as the frames are"
        )


def _check_size(size, path, expected, expected_path):
    if size != expected:
        (height, width), (rows, columns) = size, expected
        raise ValueError(
            f"{path}: {height}x{width} pixels, but {expected_path} has {rows}x{columns}; "
            "expected one size in a sequence, for frames and masks"
        )
