"""Own footage: frames from folders, TIFF, GIF, arrays and video, with or without masks.

With data/frames.py the only code that opens data files.
"""

import re
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from data.frames import IMAGE_SUFFIXES, plain_dtype, read_frame, read_mask, stack
from data.sequences import LabelledSequence, LabelledSequences

PAGE_SUFFIXES = {".tif", ".tiff", ".gif"}
ARRAY_SUFFIXES = {".npy", ".npz"}
VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"}
FORMS = (
    "a folder of images, a folder of such folders, a multi-page TIFF, a GIF, a .npy or .npz array "
    "(T, H, W), or a video"
)
DECODER = "pip install av"


@dataclass(frozen=True)
class Source:
    """One sequence that can be read.

    Attributes:
        name: of the sequence.
        read: gives (frames (N, H, W), masks, centroids); the latter (N, H, W) uint8 in {0, 1} or
            None.
    """

    name: str
    read: object


class Footage(LabelledSequences):
    """Own footage, sequence by sequence, as `LabelledSequences` gives a data set.

    Args:
        sources: list of `Source`.
        seqlen: T, frames of a window.
        normalisation: (mean, std) of the grey levels; each sequence's own if None.
    """

    def __init__(self, sources, seqlen, normalisation=None):
        super().__init__(sources, *(normalisation or (None, None)), seqlen)

    def read(self, source):
        """Reads one sequence; masks are None where there are none.

        Raises:
            ValueError: it cannot be read, or frames and masks do not fit each other.
        """
        frames, masks, centroids = source.read()
        if not np.isfinite(frames.sum(dtype=np.float64)):
            raise ValueError(f"{source.name}: a grey level is NaN or infinite; expected numbers")
        for other, what in ((masks, "masks"), (centroids, "centroid masks")):
            if other is not None and other.shape != frames.shape:
                raise ValueError(
                    f"{source.name}: frames of shape {frames.shape}, but {what} of {other.shape}; "
                    "expected one mask for each frame, of its size"
                )
        masks = centroids if masks is None else masks
        centroids = masks if centroids is None else centroids
        return LabelledSequence(source.name, frames, masks, centroids)

    def normalisation(self, sequence):
        """(mean, std) as given; else those of the sequence's own grey levels (for std 0, 1)."""
        if self.mean is not None:
            return self.mean, self.std
        return _mean_std(sequence.frames)


def open_footage(spec, root, seqlen, normalisation=None):
    """The sequences found at a path; see `Footage` and `find_footage`."""
    return Footage(find_footage(root), seqlen, normalisation)


def find_footage(path):
    """The sequences at a path: one, or those of a folder of sequences, by name.

    Args:
        path: a folder of frames, or with `images/` and optionally `masks/` and `masks_centroid/`;
            a folder of such folders or of the following; a multi-page TIFF or GIF; a `.npy` or
            `.npz` array (T, H, W); a video.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: there are no frames in it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; expected {FORMS}")
    source = _source(path)
    if source is not None:
        return [source]
    children = sorted(path.iterdir(), key=_natural) if path.is_dir() else []
    sources = [source for source in map(_source, children) if source is not None]
    if not sources:
        raise ValueError(f"{path}: no readable frame; expected {FORMS}")
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: two sequences are named {double}; expected different names")
    return sources


def _source(path):
    """The sequence at a path, or None if there is none."""
    if path.is_dir():
        images = path / "images" if _images(path / "images") else path
        if not _images(images):
            return None
        masks, centroids = path / "masks", path / "masks_centroid"
        folder = path.resolve()
        name = folder.parent.name if folder.name == "images" else folder.name
        return Source(name, partial(read_folder, images, masks, centroids))
    for suffixes, reader in _READERS:
        if path.suffix.lower() in suffixes:
            return Source(path.stem, partial(reader, path))
    return None


def read_folder(images, masks, centroids):
    """Frames of a folder, one an image, in the order of their numbers; masks where there are any.

    Raises:
        ValueError: an image cannot be read, or holds several frames; sizes or numbers differ.
    """
    paths = _images(images)
    for path in paths:
        _refuse_pages(path)
    frames = stack([read_frame(path) for path in paths], paths)
    labels = []
    for folder in (masks, centroids):
        files = _images(folder)
        if files and len(files) != len(paths):
            raise ValueError(
                f"{folder}: {len(files)} masks, but {len(paths)} frames in {images}; "
                "expected one for each frame"
            )
        labels.append(stack([read_mask(path) for path in files], files) if files else None)
    return frames, *labels


def read_pages(path):
    """Frames of a multi-page TIFF or a GIF, the first channel of colour ones; no masks.

    Raises:
        ValueError: the file cannot be read to its end, or its pages differ in size.
    """
    frames = []
    try:
        with Image.open(path) as image:
            for page in ImageSequence.Iterator(image):
                page = page.convert("RGB") if page.mode in ("P", "PA") else page
                pixels = np.asarray(page)
                frames.append(plain_dtype(pixels if pixels.ndim == 2 else pixels[..., 0]))
    except (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError) as error:
        raise ValueError(
            f"{path}: cannot be read after {len(frames)} frames ({error}); "
            "expected a whole TIFF or GIF file"
        ) from error
    return stack(frames, _page_names(path, frames)), None, None


def read_array(path):
    """Frames of a `.npy` array, or of `frames` (or the only array) in a `.npz`.

    (T, H, W), (H, W) for a single frame, or (T, H, W, 1 to 4) of which the first channel is taken.
    A `.npz` may also hold `masks` and `centroids`.

    Raises:
        ValueError: it is no such array.
    """
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = dict(loaded) if path.suffix.lower() == ".npz" else {"frames": loaded}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read as an array ({error})") from error
    if "frames" not in arrays and len(arrays) == 1:
        arrays = {"frames": next(iter(arrays.values()))}
    if "frames" not in arrays:
        found = ", ".join(arrays) or "none"
        raise ValueError(f"{path}: arrays named {found}; expected one named frames")
    frames = arrays["frames"]
    if frames.ndim == 4 and frames.shape[-1] <= 4:
        frames = frames[..., 0]
    elif frames.ndim == 2:
        frames = frames[None]
    real = np.issubdtype(frames.dtype, np.number) or frames.dtype == bool
    if frames.ndim != 3 or frames.size == 0 or not real or np.iscomplexobj(frames):
        raise ValueError(
            f"{path}: an array of shape {arrays['frames'].shape} and type {frames.dtype}; "
            "expected numbers of shape (frames, height, width)"
        )
    labels = [arrays.get(name) for name in ("masks", "centroids")]
    labels = [None if label is None else (label > 0).astype(np.uint8) for label in labels]
    return plain_dtype(frames), *labels


def read_video(path):
    """Frames of a video as grey levels: 8-bit, or 16-bit where it has more; no masks.

    Raises:
        ValueError: there is no decoder, or it cannot read the file.
    """
    try:
        import av  # not required: only videos need it
    except ImportError as error:
        raise ValueError(
            f"{path}: no decoder for videos is installed; install one with `{DECODER}`, or give "
            "the frames as images"
        ) from error
    frames = []
    try:
        with av.open(str(path)) as video:
            for frame in video.decode(video=0):
                deep = re.match(r"gray(9|1\d)", frame.format.name)
                frames.append(frame.to_ndarray(format="gray16le" if deep else "gray"))
    except (OSError, ValueError, IndexError, av.FFmpegError) as error:
        raise ValueError(f"{path}: cannot be read as a video ({error})") from error
    if not frames:
        raise ValueError(f"{path}: a video without frames")
    return stack(frames, _page_names(path, frames)), None, None


_READERS = (
    (PAGE_SUFFIXES, read_pages),
    (ARRAY_SUFFIXES, read_array),
    (VIDEO_SUFFIXES, read_video),
)


def _images(folder):
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(paths, key=_natural)


def _natural(path):
    """Sorts frame2 before frame10: text and numbers in turn."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _page_names(path, frames):
    return [f"{path}, frame {number}" for number in range(1, len(frames) + 1)]


def _refuse_pages(path):
    if path.suffix.lower() not in PAGE_SUFFIXES:
        return
    try:
        with Image.open(path) as image:
            pages = getattr(image, "n_frames", 1)
    except (OSError, SyntaxError, ValueError, EOFError):
        return  # reading it will tell
    if pages > 1:
        raise ValueError(
            f"{path}: {pages} frames in one file among the frames of a folder; expected one frame "
            "a file, or the path of this file alone"
        )


def _mean_std(frames):
    """Mean and standard deviation of all grey levels, a frame at a time: no copy of them all."""
    mean = float(frames.mean(dtype=np.float64))
    squares = sum(float(np.square(frame - mean).sum()) for frame in frames)
    return mean, (squares / frames.size) ** 0.5 or 1.0
