"""Own footage: frames from folders, TIFF, GIF, arrays and video, with or without masks."""

import os
import re
from functools import partial
from pathlib import Path

from data.formats.arrays import (
    ARRAY_FILES,
    ARRAY_SUFFIXES,
    is_one_frame,
    open_arrays,
    read_array_size,
    read_one_mask,
)
from data.formats.pages import PAGE_SUFFIXES, Pages
from data.formats.video import VIDEO_SUFFIXES, VideoFrames
from data.frames import ImageFiles
from data.images import read_frame, read_mask
from data.pairing import (
    check_names,
    first_names,
    is_image,
    left_out,
    list_images,
    pair,
    printable,
    visible,
)
from data.remarks import Remarks
from data.sequences import TestSequence, TestSequences

FRAME_FOLDERS = ("images", "img", "frames", "imgs")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "gt")
CENTROID_FOLDERS = ("masks_centroid", "centroids")
FORMS = (
    "a folder of images or of .npy frames (H, W), a folder of such folders, a multi-page TIFF, a "
    "GIF, a .npy or .npz array (T, H, W), or a video"
)
DEPTH = 4  # folders below each other in which frames are looked for, for a message


def open_footage(spec, root, normalisation=None):
    """The `TestSequences` found at a path: one, or those of a folder of sequences, by name.

    Args:
        spec: the row of own footage.
        root: a folder of frames, or with frames in `images/` and optionally masks in `masks/` and
            `masks_centroid/`; a folder of such folders or of the following; a multi-page TIFF or
            GIF; a `.npy` or `.npz` array (T, H, W); a video. For other names of the folders see
            `FRAME_FOLDERS` and those after it.
        normalisation: (mean, std) of the grey levels; each sequence's own if None.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: there are no frames in it, it would have to be guessed which are the frames, or
            frames and masks do not pair.
    """
    path, finder = Path(root), Finder(normalisation)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; expected {FORMS}")
    sequences = finder.sequences(path)
    if not sequences:
        deeper = _deeper(path) if path.is_dir() else None
        hint = f"; there are images in {deeper}" if deeper else ""
        raise ValueError(f"{path}: no readable frame; expected {FORMS}{hint}")
    names = [sequence.name for sequence in sequences]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path}: two sequences are named {name}; expected different names")
    return TestSequences(sequences, finder.remarks)


class Finder:
    """Finds sequences; what is left out on the way is said.

    Args:
        normalisation: (mean, std) of the grey levels; each sequence's own if None.

    Attributes:
        remarks: `data.remarks.Remarks` about all that is found.
    """

    def __init__(self, normalisation):
        self.normalisation = normalisation
        self.remarks = Remarks()

    def sequences(self, path):
        """The sequence at a path, or those of a folder of sequences; an empty list: none."""
        one = self.sequence(path)
        if one is not None or not path.is_dir():
            return [] if one is None else [one]
        children = visible(path)
        found = [(child, self.sequence(child)) for child in children]
        sequences = [sequence for _, sequence in found if sequence is not None]
        labels = [child for child, sequence in found if sequence and _is_for_labels(child)]
        if labels:
            raise ValueError(
                f"{path}: {labels[0].name} but no frames beside it in a folder; expected images/"
            )
        names = [sequence.name for sequence in sequences]
        labels = [name for name in names if _names_labels(name, names)]
        if labels:
            raise ValueError(
                f"{path}: {labels[0]} is named as the masks of another sequence; expected folders "
                "images/ and masks/ for each, or a .npz of frames and masks"
            )
        rest = left_out(child for child, sequence in found if sequence is None)
        if sequences and rest:
            self.remarks.make("ignored", f"{path}: {first_names(rest)} ignored, without frames")
        return sequences

    def sequence(self, path):
        """The one sequence at a path; None where there is none, or several."""
        if path.is_dir():
            return self._folder(path)
        for suffixes, open_file in _OPENERS:
            if path.suffix.lower() in suffixes:
                frames, *labels = open_file(path, self.remarks)
                return self._make(printable(path.stem), frames, labels)
        return None

    def _folder(self, path):
        children = visible(path)
        named_so = _only(path, children, FRAME_FOLDERS)
        if named_so is not None and (
            any(map(is_image, visible(named_so))) or single_arrays(visible(named_so))
        ):
            labels = [child for child in children if child.is_dir() and _is_for_labels(child)]
            rest = left_out(child for child in children if child not in (named_so, *labels))
            if rest:
                self.remarks.make(
                    "ignored", f"{path}: {first_names(rest)} beside {named_so.name}/ ignored"
                )
            return self._images(named_so, path, _name_of(path))
        images = [child for child in children if is_image(child)]
        if len(single_arrays(children)) > 1:
            return self._images(path, _holder(path), _name_of(path))
        if images and _has_pages(images[0]):
            _expect_stacks(path, images)
            return None
        if not images:
            return None
        others = [child for child in children if _is_sequence(child)]
        if others:
            raise ValueError(
                f"{path}: {first_names(images)} beside {first_names(others)}; expected the frames "
                "of one sequence, or sequences, in a folder"
            )
        return self._images(path, _holder(path), _name_of(path))

    def _images(self, folder, beside, name):
        """The sequence of frames in a folder, images or arrays, with masks in folders `beside`."""
        frames = self._arrays(folder) or list_images(folder, self.remarks)
        read = ARRAY_FILES
        if is_image(frames[0]):
            read = (partial(read_frame, remarks=self.remarks),)
        labels = []
        for names, what in ((MASK_FOLDERS, "masks"), (CENTROID_FOLDERS, "centroid masks")):
            place = _only(beside, visible(beside), names)
            files = ()
            if place is not None:
                files = self._arrays(place) or list_images(place, self.remarks)
            if place is not None and not files:
                self.remarks.make("ignored", f"{place}: no image in it; {name} has no {what}")
            paired = pair(name, frames, files, what, self.remarks) if files else None
            read_labels = (partial(read_mask, remarks=self.remarks),)
            if files and not is_image(files[0]):
                read_labels = partial(read_one_mask, remarks=self.remarks), read_array_size
            labels.append(None if paired is None else ImageFiles(paired, *read_labels))
        return self._make(name, ImageFiles(frames, *read), labels)

    def _arrays(self, folder):
        """The `.npy` files of a folder that has one frame or mask in each, else none."""
        children = visible(folder)
        arrays = single_arrays(children)
        rest = left_out(child for child in children if child not in arrays and not child.is_dir())
        if arrays and rest:
            self.remarks.make("ignored", f"{folder}: {first_names(rest)} ignored beside arrays")
        if arrays:
            check_names(folder, arrays, self.remarks)
        return arrays

    def _make(self, name, frames, labels):
        return TestSequence(
            name, frames, labels, self.normalisation, first_number=None, remarks=self.remarks
        )


_OPENERS = (
    (PAGE_SUFFIXES, lambda path, remarks: (Pages(path, remarks), None, None)),
    (ARRAY_SUFFIXES, open_arrays),
    (VIDEO_SUFFIXES, lambda path, remarks: (VideoFrames(path, remarks), None, None)),
)


def single_arrays(paths):
    """The `.npy` files among paths, if there are more than images, each of one frame; else none."""
    arrays = tuple(path for path in paths if path.suffix.lower() == ".npy")
    most = len(arrays) > sum(map(is_image, paths))
    return arrays if most and all(map(is_one_frame, arrays)) else ()


def _holder(folder):
    """The folder that masks are looked for in: itself, or that which holds `images`."""
    named_so = folder.name.casefold() in FRAME_FOLDERS
    return Path(os.path.abspath(folder)).parent if named_so else folder


def _name_of(folder):
    """A folder's name as it was given: a link keeps its own. That of `images` is its parent's."""
    folder = Path(os.path.abspath(folder))
    named_so = folder.name.casefold() in FRAME_FOLDERS
    return printable((folder.parent if named_so else folder).name)


def _only(folder, children, names):
    """The one child that is a folder of one of these names; None if there is none."""
    found = [child for child in children if child.name.casefold() in names and child.is_dir()]
    if len(found) > 1:
        raise ValueError(f"{folder}: {first_names(found)}; expected one of them")
    return found[0] if found else None


def _is_for_labels(path):
    name = path.name if path.is_dir() else path.stem
    return name.casefold() in MASK_FOLDERS + CENTROID_FOLDERS


def _names_labels(name, names):
    """Whether a sequence has the name of another one of these with a word for labels behind it."""
    words = "|".join(MASK_FOLDERS + CENTROID_FOLDERS)
    found = re.fullmatch(rf"(.+?)[ _.-]*(?:{words})", name.casefold())
    return found is not None and found[1] in (other.casefold() for other in names)


def _is_sequence(path):
    """Whether a path that lies beside images looks like a sequence of its own."""
    if path.is_dir():
        return not _is_for_labels(path) and _deeper(path, 2) is not None
    return path.suffix.lower() in ARRAY_SUFFIXES | VIDEO_SUFFIXES


def _has_pages(path):
    """Whether an image is a TIFF or GIF of several frames."""
    if path.suffix.lower() not in PAGE_SUFFIXES:
        return False
    try:
        return len(Pages(path, Remarks())) > 1
    except ValueError:
        return False  # reading it will tell


def _expect_stacks(path, images):
    """Refuses single frames among files of several frames."""
    single = next((image for image in images if not _has_pages(image)), None)
    if single is not None:
        raise ValueError(
            f"{path}: {single.name} beside {images[0].name}, which has several frames; "
            "expected one frame a file, or files of several frames"
        )


def _deeper(folder, depth=DEPTH):
    """The first folder with images, this one or one below it; None if there is none."""
    try:
        children = visible(folder)
    except OSError:
        return None
    if any(map(is_image, children)):
        return folder
    for child in children:
        if depth and child.is_dir() and (found := _deeper(child, depth - 1)) is not None:
            return found
    return None
