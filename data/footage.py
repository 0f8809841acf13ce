"""Own footage: frames from folders, TIFF, GIF, arrays and video, with or without masks."""

import os
from pathlib import Path

from PIL import Image

from data.formats.arrays import ARRAY_SUFFIXES, open_arrays
from data.formats.pages import PAGE_SUFFIXES, Pages
from data.formats.video import VIDEO_SUFFIXES, VideoFrames
from data.frames import ImageFiles
from data.images import read_mask
from data.lists import list_images, natural_order, pair
from data.sequences import TestSequence, TestSequences

FORMS = (
    "a folder of images, a folder of such folders, a multi-page TIFF, a GIF, a .npy or .npz array "
    "(T, H, W), or a video"
)


def open_footage(spec, root, normalisation=None):
    """The `TestSequences` found at a path: one, or those of a folder of sequences, by name.

    Args:
        spec: the row of own footage.
        root: a folder of frames, or with `images/` and optionally `masks/` and `masks_centroid/`;
            a folder of such folders or of the following; a multi-page TIFF or GIF; a `.npy` or
            `.npz` array (T, H, W); a video.
        normalisation: (mean, std) of the grey levels; each sequence's own if None.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: there are no frames in it, or frames and masks do not pair.
    """
    path = Path(root)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; expected {FORMS}")
    sequence = _sequence(path, normalisation)
    if sequence is not None:
        return TestSequences([sequence])
    children = sorted(path.iterdir(), key=natural_order) if path.is_dir() else []
    sequences = [_sequence(child, normalisation) for child in children]
    sequences = TestSequences(sequence for sequence in sequences if sequence is not None)
    if not len(sequences):
        raise ValueError(f"{path}: no readable frame; expected {FORMS}")
    for name in sequences.names:
        if sequences.names.count(name) > 1:
            raise ValueError(f"{path}: two sequences are named {name}; expected different names")
    return sequences


def _sequence(path, normalisation):
    """The sequence at a path, or None if there is none."""
    if path.is_dir():
        return _folder(path, normalisation)
    for suffixes, open_file in _OPENERS:
        if path.suffix.lower() in suffixes:
            return TestSequence(path.stem, *open_file(path), normalisation, first_number=None)
    return None


def _folder(path, normalisation):
    images = next((each for each in (path / "images", path) if _images(each)), None)
    if images is None:
        return None
    folder = Path(os.path.abspath(path))  # a linked folder keeps the name of the link
    name = folder.parent.name if folder.name == "images" else folder.name
    frames = _images(images)
    for file in frames:
        _refuse_pages(file)
    labels = []
    for folder, what in ((path / "masks", "masks"), (path / "masks_centroid", "centroid masks")):
        files = _images(folder)
        paired = pair(name, frames, files, what) if files else None
        labels.append(None if paired is None else ImageFiles(paired, read_mask))
    return TestSequence(name, ImageFiles(frames), *labels, normalisation, first_number=None)


_OPENERS = (
    (PAGE_SUFFIXES, lambda path: (Pages(path), None, None)),
    (ARRAY_SUFFIXES, open_arrays),
    (VIDEO_SUFFIXES, lambda path: (VideoFrames(path), None, None)),
)


def _images(folder):
    return list_images(folder) if folder.is_dir() else ()


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
