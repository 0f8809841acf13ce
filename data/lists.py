"""Which frames a data set has: split lists, folders, and the mask that belongs to each frame.

One lister and one pairing for labelled data sets and own footage.
"""

import csv
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

IMAGE_SUFFIXES = {".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".pgm"}
LOW_SNR_LIMIT = 3.0


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
    """Files of all sequences of a split, masks paired with frames; opens no image.

    Raises:
        FileNotFoundError: a list, or a folder of a listed sequence, is missing.
        ValueError: an empty list or folder, or frames and masks that do not pair.
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
    images = _expect_images(folder, name)
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
    masks = pair(name, images, _expect_images(mask_folder, name), "masks")
    centroids = None
    if split.centroids is not None:
        folder = _first_folder(roots, split.centroids.format(name))
        if folder is not None:
            centroids = pair(name, images, _expect_images(folder, name), "centroid masks")
    return SequenceFiles(name, images, masks, centroids)


def hold_out(sequences, seed, share=0.1):
    """Splits off that share of the sequences, at least one, by seed: (the others, those)."""
    if len(sequences) < 2:
        raise ValueError("--select heldout: one training sequence; expected two or more")
    count = max(round(share * len(sequences)), 1)
    chosen = set(np.random.default_rng(seed).permutation(len(sequences))[:count].tolist())
    kept = [files for index, files in enumerate(sequences) if index not in chosen]
    return kept, [sequences[index] for index in sorted(chosen)]


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
            with path.open(newline="", encoding="utf-8-sig") as file:
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


def list_images(folder):
    """The images of a folder in their natural order: frame2 before frame10; none: an empty tuple.

    Hidden files, as a Mac leaves them beside images, are none.
    """
    paths = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    return tuple(sorted(paths, key=natural_order))


def natural_order(path):
    """A sorting key by which text and numbers of a name compare in turn."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name


def frame_numbers(paths):
    """The last number of each name where they are distinct and ascend; else 1, 2, ..."""
    numbers = last_numbers(paths)
    if None not in numbers and all(a < b for a, b in zip(numbers, numbers[1:], strict=False)):
        return tuple(numbers)
    return tuple(range(1, len(paths) + 1))


def last_numbers(paths):
    """The last number in each file's name, without its suffix; None where there is none."""
    digits = [re.findall(r"\d+", path.stem) for path in paths]
    return [int(found[-1]) if found else None for found in digits]


def pair(name, images, others, what):
    """The mask of every image, in the order of the images.

    Args:
        name: of the sequence, for messages.
        images, others: paths; `others` are `what`, such as "masks".

    Raises:
        ValueError: they differ in number, or names tell that they belong to other images.
    """
    folder = others[0].parent
    if len(images) != len(others):
        raise ValueError(
            f"{name}: {len(images)} frames but {len(others)} {what} in {folder}; "
            "expected one for each frame"
        )
    if not all(path.stem.isdecimal() for path in (*images, *others)):
        return others
    shifts = [int(b.stem) - int(a.stem) for a, b in zip(images, others, strict=True)]
    odd = next((i for i, shift in enumerate(shifts) if shift != shifts[0]), None)
    if odd is not None:
        raise ValueError(
            f"{name}: {images[odd].name} would be paired with {others[odd].name} of {folder}; "
            f"expected {what} numbered as the frames are"
        )
    return others


def _expect_images(folder, name):
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{name}: no folder {folder}; expected one for each sequence of the list"
        )
    paths = list_images(folder)
    if not paths:
        raise ValueError(f"{name}: no image in {folder}; expected its frames")
    return paths


def _first_folder(roots, relative):
    return next((root / relative for root in roots if (root / relative).is_dir()), None)
