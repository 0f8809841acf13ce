"""Which sequences a labelled data set has: split lists, and the files of each sequence."""

import csv
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.formats.mix import MIX_SUFFIX
from data.pairing import last_numbers, list_images, pair, stems, visible
from data.remarks import Remarks
from data.synthetic.plans import GENERATED, GENERATION

LOW_SNR_LIMIT = 3.0


@dataclass(frozen=True)
class SequenceFiles:
    """The files of one sequence, frame by frame.

    Attributes:
        name: of the sequence.
        images: N paths.
        masks: N paths.
        centroids: N paths, or None where targets are the components of the masks.
        earlier: path of the frames before the first one, for `data.formats.mix`, or None.
        remarks: what is said about the data set that the sequence belongs to.
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    centroids: tuple[Path, ...] | None
    earlier: Path | None = None
    remarks: Remarks = field(default_factory=Remarks, compare=False, repr=False)

    def __len__(self):
        return len(self.images)


def prepare(spec, root):
    """Makes sure that a data set's folder exists; writes it if the data set can be generated.

    Remarks on one that an earlier generator wrote.

    Raises:
        FileNotFoundError: the folder is missing and has to be obtained elsewhere.
    """
    root = Path(root)
    if root.is_dir() and (spec.generate is None or any(root.iterdir())):
        if spec.generate is not None:
            _check_generation(spec, root)
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


def _check_generation(spec, root):
    """Remarks on generated sequences, or the clean set of noisy ones, of an earlier generator."""
    for marker in (root / part / GENERATED for part in spec.mask_roots):
        if marker.is_file():
            try:
                found = json.loads(marker.read_text("utf-8"))["generation"]
            except (ValueError, KeyError, TypeError):
                found = "unknown"
            if found != GENERATION:
                Remarks().make(
                    "generation",
                    f"{marker}: generation {found} of the generated data; expected {GENERATION}, "
                    "for which figures are stated; to have it written anew, remove the folder"
                    f" {root}" + ("" if marker.parent == root else " and the marker's"),
                )


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
    names = list(_read_list(path))
    if not names:
        raise ValueError(f"{path}: the list is empty; expected one sequence a line")
    return names


def _read_list(path):
    """{name of a sequence: what follows it, of each line}, in the order of a list."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a UTF-8 text; save the list as UTF-8") from error
    root, entries = path.parent.absolute().as_posix(), {}
    for line in lines:
        words = line.strip().replace("\\", "/").removeprefix(root)
        parts = [part for part in words.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise ValueError(f"{path}: {line.strip()}; expected sequences below the list's folder")
        if parts:
            entries.setdefault(parts[0], set()).add("/".join(parts[1:]))
    return entries


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
    remarks = Remarks()
    sequences = [find_sequence(spec, split, root, name, remarks) for name in names]
    _check_list(Path(root) / split.list_file, sequences, remarks)
    if split == spec.test:
        _check_centroids(spec, sequences, remarks)
        _check_earlier(spec, root, sequences, remarks)
    if split is spec.train and spec.test is not None:
        both = set(names) & set(_names_if_any(spec, spec.test, root))
        if both and split != spec.test:
            remarks.make(
                "both lists",
                f"{Path(root) / split.list_file}: {len(both)} of its sequences are in the test "
                f"list, too, {min(both)} for one",
            )
    return sequences


def _check_list(path, sequences, remarks):
    """Remarks on a list that names some frames of a sequence: all of them are taken."""
    listed = _read_list(path) if path.is_file() else {}
    for files in sequences:
        entries = listed.get(files.name, {""})
        count = len(entries)
        if 1 < count < len(files) and "" not in entries:
            remarks.make(
                "frames of a list",
                f"{path}: names {count} of the {len(files)} frames of {files.name}; whole "
                "sequences are taken",
            )


def _check_centroids(spec, sequences, remarks):
    """Remarks on test sequences without centroid masks in a layout that has them."""
    without = [files for files in sequences if files.centroids is None]
    if spec.test.centroids is None or not without:
        return
    others = "" if len(without) == len(sequences) else ", the others' by centroid masks"
    remarks.make(
        "no centroid masks",
        f"{without[0].masks[0].parent}: no centroid masks beside it, as for {len(without)} of "
        f"{len(sequences)} test sequences: their targets are counted by the components of the "
        f"masks{others}; Pd and Fa depend on it",
    )


def _check_earlier(spec, root, sequences, remarks):
    """Remarks on test sequences with a folder of earlier frames of which no file is used."""
    if spec.test.earlier is None:
        return
    folders = {files.name: Path(root) / spec.test.earlier.format(files.name) for files in sequences}
    unused = [
        files for files in sequences if files.earlier is None and folders[files.name].is_dir()
    ]
    if unused:
        first = unused[0].images[0]
        remarks.make(
            "unused Mix",
            f"{folders[unused[0].name]}: not used, as for {len(unused)} of {len(sequences)} test "
            f"sequences: no {MIX_SUFFIX} file in it has the name or number of {first.name}, the "
            "first frame, which stands for those before it; expected "
            f"{first.with_suffix(MIX_SUFFIX).name}",
        )


def _names_if_any(spec, split, root):
    try:
        return list_sequences(spec, split, root)
    except (FileNotFoundError, ValueError):
        return []


def find_sequence(spec, split, root, name, remarks=None):
    """Files of one sequence; see `find_sequences`."""
    root, remarks = Path(root), remarks or Remarks()
    folder = root / split.images.format(name)
    if not folder.is_dir() and not (root / split.list_file).is_file():
        raise FileNotFoundError(
            f"{name}: no folder {folder}; without {root / split.list_file} the published split of "
            f"{spec.name} is expected: add the list, or the sequences"
        )
    images = _expect_images(folder, name, remarks)
    # A folder's neighbour is looked for beside its name first, then where a link leads.
    roots = [
        base
        for place in spec.mask_roots
        for base in (Path(os.path.normpath(root.absolute() / place)), root / place)
    ]
    mask_folder = _first_folder(roots, split.masks.format(name))
    if mask_folder is None:
        looked = dict.fromkeys(str(place / split.masks.format(name)) for place in roots)
        raise FileNotFoundError(f"{name}: no folder of masks; expected {' or '.join(looked)}")
    _check_own_masks(root / split.masks.format(name), mask_folder, remarks)
    masks = pair(name, images, _expect_images(mask_folder, name, remarks), "masks", remarks)
    centroids = None
    if split.centroids is not None:
        folder = _first_folder(roots, split.centroids.format(name))
        if folder is not None:
            others = _expect_images(folder, name, remarks)
            centroids = pair(name, images, others, "centroid masks", remarks)
    earlier = None
    if split.earlier is not None:
        earlier = _find_earlier(root / split.earlier.format(name), name, images, remarks)
    return SequenceFiles(name, images, masks, centroids, earlier, remarks)


def _find_earlier(folder, name, images, remarks):
    """The file of the frames before the first one, by its name or number; None: there is none.

    Of the other frames there may be files, or not.
    """
    files = visible(folder) if folder.is_dir() else ()
    files = tuple(path for path in files if path.suffix.lower() == MIX_SUFFIX)
    if len(files) == len(images):
        with suppress(ValueError):  # not one for each
            return pair(name, images, files, "Mix files", remarks)[0]
    for key in (stems, last_numbers):
        wanted = key(images)
        found = [path for path, own in zip(files, key(files), strict=True) if own == wanted[0]]
        if len(found) == 1 and None not in wanted and len(set(wanted)) == len(wanted):
            return found[0]
    return None


def _check_own_masks(own, used, remarks):
    """Remarks on masks that a data set has, where those of another are taken for them."""
    if own.is_dir() and not own.samefile(used):
        remarks.make(
            "own masks",
            f"{own}: not read; the masks in {used} are taken, as of every data set of this name, "
            "whose sequences are noisy versions of those. If these are others, move them away from "
            "each other, or rename the folder of the latter",
        )


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


def _expect_images(folder, name, remarks):
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{name}: no folder {folder}; expected one for each sequence of the list"
        )
    paths = list_images(folder, remarks)
    if not paths:
        raise ValueError(f"{name}: no image in {folder}; expected its frames")
    return paths


def _first_folder(roots, relative):
    return next((root / relative for root in roots if (root / relative).is_dir()), None)
