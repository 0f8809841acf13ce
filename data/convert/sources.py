"""Footage with its labels, and what there is to be exported of masks and detections."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from data.convert.boxes import SequenceShape, boxes_of_masks
from data.convert.exports import write_exports
from data.convert.forms import LabelOptions
from data.convert.labels import guess_form, mask_places, read_boxes
from data.convert.tables import read_table
from data.footage import open_footage
from data.frames import ImageFiles
from data.images import read_mask
from data.pairing import list_images, pair
from data.remarks import DataWarning, Remarks
from data.saving import new_folder
from data.sequences import FrameBlock

BOX_FOLDER = "boxes"  # of a data set that was made of boxes
_BLOCK = 16  # frames that are read at a time


@dataclass(frozen=True)
class LabelledFootage:
    """One sequence with its labels.

    Attributes:
        sequence: `data.sequences.TestSequence`, or `MaskedFootage`.
        shape: its `SequenceShape`.
        boxes: list of `Box`; None: it has masks.
    """

    sequence: object
    shape: SequenceShape
    boxes: list | None


class MaskedFootage:
    """A sequence with masks from another folder.

    Args:
        sequence: `data.sequences.TestSequence`.
        masks: `data.frames.ImageFiles` of as many masks.
        centroids: the same of the masks of centroids; None: the masks are these, too.
    """

    labelled = True

    def __init__(self, sequence, masks, centroids=None):
        self.sequence, self.masks, self.centroids = sequence, masks, centroids

    def blocks(self, size):
        """As those of `data.sequences.TestSequence`."""
        for block in self.sequence.blocks(size):
            masks = centroids = self._read(self.masks, block)
            if self.centroids is not None:
                centroids = self._read(self.centroids, block)
            yield FrameBlock(block.start, block.frames, masks, centroids)

    @staticmethod
    def _read(files, block):
        masks = files.read(block.start, block.start + len(block.frames))
        if masks.shape != block.frames.shape:
            raise ValueError(
                f"{files.place(block.start)}: masks of {masks.shape[1:]} pixels, but "
                f"frames of {block.frames.shape[1:]}; expected one size"
            )
        return masks


def open_labelled(source, labels, form, options):
    """The footage at a path with its labels.

    Args:
        source: as for `data.footage.open_footage`.
        labels: path of the labels; None: the masks that are beside the footage.
        form: a key of `data.convert.labels.LABEL_FORMS`, "masks", or None: as the files look.
        options: `LabelOptions`.

    Returns:
        List of `LabelledFootage`.

    Raises:
        FileNotFoundError: there is no footage, or a sequence has no labels.
        ValueError: labels make no sense, or no requested category has any.
    """
    sequences = _open(source)
    options = replace(options, several=len(sequences) > 1)
    found, kinds = [], set()
    for sequence in sequences:
        shape = SequenceShape.of(sequence)
        if labels is None:
            if not sequence.labelled:
                raise ValueError(f"{sequence.name}: no masks beside its frames; give --labels PATH")
            found.append(LabelledFootage(sequence, shape, None))
            continue
        kind = form or guess_form(labels, shape)
        kinds.add(kind)
        if kind == "masks":
            if options.classes:
                raise ValueError(f"{labels}: --classes, but masks have none")
            masks = _find_masks(Path(labels), shape, options.several)
            sequence = MaskedFootage(sequence, *masks)
            found.append(LabelledFootage(sequence, shape, None))
        else:
            boxes = read_boxes(labels, kind, shape, options)
            found.append(LabelledFootage(sequence, shape, boxes))
    if "points" in kinds:
        _check_names(Path(labels), [each.shape for each in found], options.problems)
    if labels is not None and all(each.boxes == [] for each in found):
        wanted = f" of {', '.join(options.classes)}" if options.classes else ""
        raise ValueError(f"{labels}: no target{wanted} in any frame; expected some")
    return found


def _check_names(labels, shapes, problems):
    """Looks at the sequences that a table of points names and that are not there.

    Raises:
        ValueError: one is not there while another one that is has no points.
    """
    if labels.is_dir():
        files = sorted(labels.glob("*.csv"))
        labels = files[0] if len(files) == 1 else labels
    if labels.suffix.lower() != ".csv":
        return
    columns, rows = read_table(labels)
    if "sequence" not in columns:
        return
    named = dict.fromkeys(row[columns["sequence"]] for row in rows)
    known = [shape.name for shape in shapes]
    others = [name for name in named if name not in known]
    if not others:
        return
    without = [name for name in known if name not in named]
    if without:
        raise ValueError(
            f"{labels}: no point of {without[0]}, but of {others[0]}, which is no sequence there; "
            f"expected {', '.join(known[:5])}"
        )
    problems.doubt(f"{labels}: points of {others[0]}, which is not there, are left out")


def _find_masks(folder, shape, several):
    """(masks, those of centroids or None) of a sequence, as `data.frames.ImageFiles`."""
    places, remarks = mask_places(folder, shape, several), Remarks()
    names = shape.file_names or [f"{number}.png" for number in shape.numbers]
    frames = [Path(name) for name in names]

    def files(place, what):
        paths = list_images(place, remarks) if place.is_dir() else ()
        if not paths:
            return None
        return ImageFiles(pair(shape.name, frames, paths, what, remarks), read_mask)

    for place in places:
        masks = files(place, "masks")
        if masks is not None and place.name == "masks":
            return masks, files(place.with_name("masks_centroid"), "centroid masks")
        if masks is not None:
            return masks, None
    raise FileNotFoundError(f"{shape.name}: no masks in {' or '.join(map(str, places))}")


def _open(path):
    """The sequences at a path; that labels beside them are no frames goes without saying."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".* ignored", DataWarning)
        return list(open_footage(None, path))


def export_labels(source, frames, kind, output, problems):
    """Writes the targets of footage with masks, or detections, as labels of another form.

    Args:
        source: footage with masks, a data set in NUDT-MIRSDT's layout, or a detections.csv.
        frames: the footage that a detections.csv is of; None: not at hand.
        kind: a key of `data.convert.exports.EXPORTERS`.
        output: a folder that does not exist yet, or is empty.
        problems: `data.convert.boxes.Problems`.

    Returns:
        Lines of text that say what was written.
    """
    options = LabelOptions(problems=problems)
    source = Path(source)
    if source.suffix.lower() == ".csv":
        found = _read_detections(source, frames, kind, options)
    else:
        found = [_read_targets(source, sequence, options) for sequence in _open(source)]
    with new_folder(Path(output).resolve()) as folder:  # behind a link
        written = write_exports(kind, folder, found)
    boxes = sum(len(boxes) for _, boxes in found)
    return [f"{output}: {written}; {boxes} targets in {len(found)} sequences"]


def _read_targets(source, sequence, options):
    """(`SequenceShape`, list of `Box`) of a sequence: those its masks were made of, or theirs."""
    shape = SequenceShape.of(sequence)
    path = source / BOX_FOLDER / f"{sequence.name}.txt"
    if path.is_file():
        return shape, read_boxes(path, "mot", shape, replace(options, cut=False))
    if not sequence.labelled:
        raise ValueError(f"{sequence.name}: no masks beside its frames; expected some to convert")
    blocks = sequence.blocks(_BLOCK)
    return shape, [box for block in blocks for box in boxes_of_masks(block.masks, block.start)]


def _read_detections(path, frames, kind, options):
    """(`SequenceShape`, list of `Box`) of each sequence of a detections.csv."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    columns, rows = read_table(path)
    if rows and "frame" not in columns:
        raise ValueError(f"{path}: no table of detections, it has no column frame")
    several = "sequence" in columns
    names = [row[columns["sequence"]] if several else path.stem for row in rows]
    if frames is None:
        shapes = _shapes_of_table(path, names, [row[columns["frame"]] for row in rows], kind)
    else:
        shapes = [SequenceShape.of(sequence) for sequence in _open(frames)]
        lost = set(names) - {shape.name for shape in shapes} if several else ()
        if lost:
            name = min(lost)
            raise ValueError(
                f"{path}: {names.count(name)} detections of {name}, which {frames} does not have; "
                f"it has {', '.join(shape.name for shape in shapes[:5])}"
            )
    options = replace(options, several=len(shapes) > 1)
    return [(shape, read_boxes(path, "points", shape, options)) for shape in shapes]


def _shapes_of_table(path, names, frames, kind):
    """What a table tells of its sequences: names, and frames up to the last with a detection.

    Frames keep the numbers that they have.
    """
    last, first = {}, 1
    for name, word in zip(names, frames, strict=True):
        try:
            number = int(float(word))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: no table of detections ({error!r})") from error
        last[name], first = max(last.get(name, 0), number), min(first, number)
    if kind == "mot" and first < 1:
        raise ValueError(
            f"{path}: a frame {first}, but {kind} counts from 1; give --frames PATH, the footage"
        )
    numbers = {name: tuple(range(first, end + 1)) for name, end in last.items()}
    return [SequenceShape(name, len(each), None, each) for name, each in numbers.items()]
