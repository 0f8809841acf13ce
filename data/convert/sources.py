"""Footage with its labels, and what there is to be exported of masks and detections."""

import csv
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from data.convert.boxes import SequenceShape, boxes_of_masks
from data.convert.exports import write_exports
from data.convert.forms import LabelOptions
from data.convert.labels import guess_form, read_boxes
from data.footage import open_footage
from data.frames import ImageFiles
from data.images import read_mask
from data.pairing import list_images, pair
from data.remarks import DataWarning, Remarks
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
    """

    labelled = True

    def __init__(self, sequence, masks):
        self.sequence, self.masks = sequence, masks

    def blocks(self, size):
        """As those of `data.sequences.TestSequence`; masks are centroids, too."""
        for block in self.sequence.blocks(size):
            masks = self.masks.read(block.start, block.start + len(block.frames))
            if masks.shape != block.frames.shape:
                raise ValueError(
                    f"{self.masks.place(block.start)}: masks of {masks.shape[1:]} pixels, but "
                    f"frames of {block.frames.shape[1:]}; expected one size"
                )
            yield FrameBlock(block.start, block.frames, masks, masks)


def open_labelled(source, labels, form, options):
    """The footage at a path with its labels.

    Args:
        source: as for `data.footage.open_footage`.
        labels: path of the labels; None: the masks that are beside the footage.
        form: a key of `data.convert.forms.LABEL_FORMS`, "masks", or None: as the files look.
        options: `LabelOptions`.

    Returns:
        List of `LabelledFootage`.

    Raises:
        FileNotFoundError: there is no footage, or a sequence has no labels.
        ValueError: labels make no sense, or no requested category has any.
    """
    sequences = _open(source)
    options = replace(options, several=len(sequences) > 1)
    found = []
    for sequence in sequences:
        shape = SequenceShape.of(sequence)
        if labels is None:
            if not sequence.labelled:
                raise ValueError(f"{sequence.name}: no masks beside its frames; give --labels PATH")
            found.append(LabelledFootage(sequence, shape, None))
            continue
        kind = form or guess_form(labels, shape)
        if kind == "masks":
            sequence = MaskedFootage(sequence, _find_masks(Path(labels), shape))
            found.append(LabelledFootage(sequence, shape, None))
        else:
            boxes = read_boxes(labels, kind, shape, options)
            found.append(LabelledFootage(sequence, shape, boxes))
    if labels is not None and all(each.boxes == [] for each in found):
        wanted = f" of {', '.join(options.classes)}" if options.classes else ""
        raise ValueError(f"{labels}: no target{wanted} in any frame; expected some")
    return found


def _find_masks(folder, shape):
    places, remarks = (folder / shape.name / "masks", folder / shape.name, folder), Remarks()
    paths = next(
        (p for place in places if place.is_dir() and (p := list_images(place, remarks))), None
    )
    if paths is None:
        raise FileNotFoundError(f"{shape.name}: no masks in {places[1]} or {folder}")
    names = shape.file_names or [f"{number}.png" for number in shape.numbers]
    frames = [Path(name) for name in names]
    return ImageFiles(pair(shape.name, frames, paths, "masks", remarks), read_mask)


def _open(path):
    """The sequences at a path; that labels beside them are no frames goes without saying."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
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
        found = _read_table(source, frames, options)
    else:
        found = [_read_targets(source, sequence, options) for sequence in _open(source)]
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    written = write_exports(kind, output, found)
    boxes = sum(len(boxes) for _, boxes in found)
    return [f"{output}: {written}; {boxes} targets in {len(found)} sequences"]


def _read_targets(source, sequence, options):
    """(`SequenceShape`, list of `Box`) of a sequence: those its masks were made of, or theirs."""
    shape = SequenceShape.of(sequence)
    path = source / BOX_FOLDER / f"{sequence.name}.txt"
    if path.is_file():
        return shape, read_boxes(path, "mot", shape, options)
    if not sequence.labelled:
        raise ValueError(f"{sequence.name}: no masks beside its frames; expected some to convert")
    blocks = sequence.blocks(_BLOCK)
    return shape, [box for block in blocks for box in boxes_of_masks(block.masks, block.start)]


def _read_table(path, frames, options):
    """(`SequenceShape`, list of `Box`) of each sequence of a detections.csv."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if frames is not None:
        shapes = [SequenceShape.of(sequence) for sequence in _open(frames)]
    else:
        shapes = _shapes_of_table(path)
    return [(shape, read_boxes(path, "points", shape, options)) for shape in shapes]


def _shapes_of_table(path):
    """What a table tells of its sequences: names, and frames up to the last with a detection."""
    last, first = {}, 1
    with path.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            try:
                name, number = row.get("sequence", path.stem), int(float(row["frame"]))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}: no table of detections ({error!r})") from error
            last[name], first = max(last.get(name, 0), number), min(first, number)
    numbers = {name: tuple(range(first, end + 1)) for name, end in last.items()}
    return [SequenceShape(name, len(each), None, each) for name, each in numbers.items()]
