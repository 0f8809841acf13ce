"""Labels in the forms that annotation tools write: MOTChallenge, YOLO, COCO, tables of points.

A form's own way of counting frames and pixels is turned into that of `Box` here, at the edge; see
`data.convert.forms` and `data.convert.tables`.
"""

from dataclasses import replace
from pathlib import Path

from data.convert.boxes import accept
from data.convert.forms import read_coco, read_mot, read_yolo
from data.convert.lookup import BY_NAME, text_files
from data.convert.tables import read_points
from data.pairing import is_image

LABEL_FORMS = {"mot": read_mot, "yolo": read_yolo, "coco": read_coco, "points": read_points}
FEW_LABELS = 3  # of which fewer say nothing about their unit


def read_boxes(path, kind, shape, options):
    """The boxes of a sequence, by frame.

    Args:
        path: a file, or a folder that holds what belongs to the sequence; see `LABEL_FORMS`.
        kind: a key of `LABEL_FORMS`.
        shape: `data.convert.boxes.SequenceShape` of the sequence.
        options: `LabelOptions`.

    Returns:
        List of `Box`, cut at the frame's border; those of points stay as they are.

    Raises:
        FileNotFoundError: there are no labels for the sequence.
        ValueError: a label makes no sense, unless such are left out.
    """
    labels, first = LABEL_FORMS[kind](Path(path), shape, options)
    labels = list(labels)
    _check_units(labels, shape, path, options.problems)
    first = _first_frame(labels, first, shape, path, kind, options)
    numbers = shape.numbers if first is None else range(first, first + shape.count)
    places = {number: index for index, number in enumerate(numbers)}
    boxes, seen = [], set()
    everywhere = [label.frame for label in labels if label.frame is not None]
    for label in labels:
        if label.frame not in places:
            message = _wrong_frame(label.frame, numbers, shape, everywhere)
            options.problems.report(label.where, message)
            continue
        box = replace(label.box, frame=places[label.frame])
        cut = options.cut and not label.of_point
        box = accept(box, label.where, shape, options.problems, cut)
        if box is not None:
            _tell_repeat(label, box, seen, options.problems)
            boxes.append(box)
    return sorted(boxes, key=lambda box: box.frame)


def _tell_repeat(label, box, seen, problems):
    """A doubt about a box, or another of its track, that its frame has already."""
    kinds = {"box": (box.top, box.left, box.height, box.width), "track": box.track}
    keys = [(box.frame, kind, what) for kind, what in kinds.items() if what is not None]
    repeated = [kind for _, kind, _ in filter(seen.__contains__, keys)]
    if repeated:
        problems.doubt(f"{label.where}: its frame has this {repeated[0]} already; both are taken")
    seen.update(keys)


def _first_frame(labels, usual, shape, path, kind, options):
    """The number of the first frame: as asked for, as it fits, or as the form has it."""
    asked = options.first_frame
    if usual == BY_NAME:
        if asked not in (None, "auto"):
            raise ValueError(
                f"{path}: its labels are named as the frames of {shape.name}; expected no "
                "--first_frame"
            )
        return 0
    if asked not in (None, "auto"):
        return asked
    numbers = {label.frame for label in labels if label.frame is not None}
    fits = [
        first
        for first in (None, 1, 0, 2)
        if numbers and numbers <= set(_numbers_from(first, shape))
    ]
    if None in fits and (usual is None or _are_own(numbers, usual, fits, shape, path, options)):
        return None
    counted = [first for first in fits if first is not None]
    if usual is None and asked is None:
        return None
    chosen = usual if asked is None or not counted else counted[0]
    if kind in ("yolo", "coco") and chosen == 1 and 0 in fits:  # no name says where they begin
        options.problems.doubt(
            f"{path}: of {shape.name} frames {min(numbers)} to {max(numbers)} have labels, counted "
            "from 1; if the first frame is 0, give --first_frame 0"
        )
    return chosen


def _numbers_from(first, shape):
    """The numbers of all frames if the first one is `first`; None: their own."""
    return shape.numbers if first is None else range(first, first + shape.count)


def _are_own(numbers, usual, fits, shape, path, options):
    """Whether labels that fit the frames' own numbers mean these, rather than count from `usual`.

    Where both are possible they do if the first or last of them has a label, which is told.
    """
    own = shape.numbers
    if usual not in fits or tuple(_numbers_from(usual, shape)) == tuple(own):
        return usual not in fits
    chosen = own[0] == min(numbers) or own[-1] == max(numbers)
    numbered = f"as the files are, {own[0]} to {own[-1]}"
    taken, other = (numbered, f"from {usual}") if chosen else (f"from {usual}", numbered)
    options.problems.doubt(
        f"{path}: labels of frames {min(numbers)} to {max(numbers)} of {shape.name} are taken as "
        f"numbered {taken}; if they are numbered {other}, give --first_frame "
        f"{usual if chosen else own[0]}"
    )
    return chosen


def _check_units(labels, shape, path, problems):
    """Looks at positions that all labels of a sequence have alike.

    Raises:
        ValueError: they are shares of the frame.
    """
    boxes = [label.box for label in labels]
    places = [value for box in boxes for value in box.centre]
    fractions = any(value % 0.5 for value in places)
    if fractions and all(-0.5 <= value <= 1 for value in places):
        raise ValueError(
            f"{path}: all targets of {shape.name} lie within its first pixels, as shares of the "
            "frame would; expected pixels (or YOLO files, which have shares)"
        )
    if len(boxes) >= FEW_LABELS and all(
        box.width > box.left > 0 and box.height > box.top > 0 for box in boxes
    ):
        problems.doubt(
            f"{path}: every box of {shape.name} is larger than its upper left corner is far from "
            "the frame's; are widths and heights positions of the other corner?"
        )


def _wrong_frame(number, numbers, shape, all_numbers):
    if number is None:
        return f"it is of a frame that {shape.name} does not have"
    low, high = numbers[0], numbers[-1]
    message = f"frame {number}, but {shape.name} has {shape.count} frames, {low} to {high}"
    first, last = min(all_numbers), max(all_numbers)
    for shifted in (low - 1, low + 1):
        if shifted <= first and last < shifted + shape.count:
            return (
                f"{message}: do the labels count from {shifted}? Then give --first_frame {shifted}"
            )
    return message


def guess_form(path, shape):
    """The key of `LABEL_FORMS` that a path looks like, or "masks" for a folder of images."""
    path = Path(path)
    kinds = {".json": "coco", ".csv": "points", ".txt": "mot"}
    if path.is_file():
        if path.suffix.lower() in kinds:
            return kinds[path.suffix.lower()]
        raise ValueError(f"{path}: not a file of labels; expected .txt, .csv or .json")
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder of labels")
    for suffix, kind in kinds.items():
        if (path / f"{shape.name}{suffix}").is_file():
            return kind
    if (path / shape.name / "gt").is_dir() or (path / shape.name / "gt.txt").is_file():
        return "mot"
    for place in mask_places(path, shape):
        files = list(place.glob("*"))
        texts = [file for file in files if file.suffix == ".txt"]
        if place.name == "masks" and place != path:  # beside them may be labels of YOLO
            texts += text_files(place.parent) + text_files(place.parent / "labels")
        if any(map(is_image, files)) and not texts:
            return "masks"
    for suffix in (".json", ".csv"):
        if len(list(path.glob(f"*{suffix}"))) == 1:
            return kinds[suffix]
    return "yolo"


def mask_places(folder, shape, several=False):
    """The folders in which the masks of a sequence may lie, the likeliest first."""
    places = [folder / shape.name / "masks", folder / shape.name]
    return places if several else [*places, folder / "masks", folder]
