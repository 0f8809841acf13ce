"""Labels in the forms that annotation tools write: MOTChallenge, YOLO, COCO, tables of points.

A form's own way of counting frames and pixels is turned into that of `Box` here, at the edge; see
`data.convert.forms`.
"""

from dataclasses import replace
from pathlib import Path

from data.convert.boxes import accept
from data.convert.forms import LABEL_FORMS
from data.convert.lookup import BY_NAME
from data.pairing import is_image


def read_boxes(path, kind, shape, options):
    """The boxes of a sequence, by frame.

    Args:
        path: a file, or a folder that holds what belongs to the sequence; see `LABEL_FORMS`.
        kind: a key of `LABEL_FORMS`.
        shape: `data.convert.boxes.SequenceShape` of the sequence.
        options: `LabelOptions`.

    Returns:
        List of `Box`, cut at the frame's border.

    Raises:
        FileNotFoundError: there are no labels for the sequence.
        ValueError: a label makes no sense, unless such are left out.
    """
    labels, first = LABEL_FORMS[kind](Path(path), shape, options)
    labels = list(labels)
    first = _first_frame(labels, first, shape, path, kind, options)
    numbers = shape.numbers if first is None else range(first, first + shape.count)
    places = {number: index for index, number in enumerate(numbers)}
    boxes, seen = [], set()
    for label in labels:
        if label.frame not in places:
            options.problems.report(label.where, _wrong_frame(label.frame, numbers, shape))
            continue
        box = replace(label.box, frame=places[label.frame])
        box = accept(box, label.where, shape, options.problems)
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
    own = set(shape.numbers)
    fits = [
        first
        for first in (None, 1, 0, 2)
        if numbers and numbers <= (own if first is None else set(range(first, first + shape.count)))
    ]
    if usual is None and (asked is None or None in fits):
        return None
    counted = [first for first in fits if first is not None]
    chosen = usual if asked is None or not counted else counted[0]
    if kind in ("yolo", "coco") and chosen == 1 and 0 in fits:  # no name says where they begin
        options.problems.doubt(
            f"{path}: of {shape.name} frames {min(numbers)} to {max(numbers)} have labels, counted "
            "from 1; if the first frame is 0, give --first_frame 0"
        )
    return chosen


def _wrong_frame(number, numbers, shape):
    if number is None:
        return f"it is of a frame that {shape.name} does not have"
    low, high = numbers[0], numbers[-1]
    message = f"frame {number}, but {shape.name} has {shape.count} frames, {low} to {high}"
    for edge, first in ((low - 1, low - 1), (high + 1, low + 1)):
        if number == edge:
            message += f": do the labels count from {first}? Then give --first_frame {first}"
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
    for folder in (path / shape.name, path):
        files = list(folder.glob("*"))
        if any(map(is_image, files)) and not any(file.suffix == ".txt" for file in files):
            return "masks"
    for suffix in (".json", ".csv"):
        if len(list(path.glob(f"*{suffix}"))) == 1:
            return kinds[suffix]
    return "yolo"
