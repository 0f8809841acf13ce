"""Boxes in the forms that other tools read; see `data.convert.forms` for the forms themselves.

    boxes    boxes.csv: sequence, frame, top, left, height, width, id, score
    points   points.csv: sequence, frame, row, column, id, score
    mot      <sequence>/gt/gt.txt, and seqinfo.ini where the size is known
    yolo     <sequence>/<frame>.txt of every frame, and classes.txt
    coco     annotations.json

The tables count pixels from 0 and frames by the numbers that they have; the others as their form
has it. The box of a target that was labelled as a point has the point in its centre, also where it
reaches over the border of the frame.
"""

import csv
import json
from collections import defaultdict

from data.convert.boxes import link

CATEGORY = "target"
LEAST_SCORE = 1e-6  # in MOTChallenge, where 0 says that a line is not to be considered


def write_exports(kind, folder, found):
    """Writes boxes to a folder.

    Args:
        kind: a key of `EXPORTERS`.
        folder: an existing folder.
        found: list of (`SequenceShape`, list of `Box`), one for each sequence.

    Returns:
        What was written, for people.

    Raises:
        ValueError: the form needs the frames' size, which is not known.
    """
    for shape, _ in found:
        if kind in NEED_SIZE and shape.size is None:
            raise ValueError(
                f"{kind} of {shape.name}: the size of its frames is not known; give --frames PATH"
            )
    return EXPORTERS[kind](folder, found)


def write_mot(path, boxes):
    """Writes the boxes of one sequence as MOTChallenge ground truth, frames and pixels from 1."""
    lines = [
        f"{box.frame + 1},{box.track},{box.left + 1:.3f},{box.top + 1:.3f},"
        f"{box.width:.3f},{box.height:.3f},{box.score or LEAST_SCORE:g},1,1\n"
        for box in sorted(link(boxes), key=lambda box: (box.frame, box.track))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def _boxes(folder, found):
    rows = (
        (shape.name, shape.numbers[box.frame], *_rounded(box.top, box.left, box.height, box.width))
        + (box.track, f"{box.score:g}")
        for shape, boxes in found
        for box in link(boxes)
    )
    names = "sequence", "frame", "top", "left", "height", "width", "id", "score"
    return _table(folder / "boxes.csv", names, rows)


def _points(folder, found):
    rows = (
        (shape.name, shape.numbers[box.frame], *_rounded(*box.centre), box.track, f"{box.score:g}")
        for shape, boxes in found
        for box in link(boxes)
    )
    names = "sequence", "frame", "row", "column", "id", "score"
    return _table(folder / "points.csv", names, rows)


def _rounded(*values):
    return [round(float(value), 4) for value in values]


def _table(path, names, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)
    return path.name


def _mot(folder, found):
    for shape, boxes in found:
        write_mot(folder / shape.name / "gt" / "gt.txt", boxes)
        if shape.size is not None:
            height, width = shape.size
            lines = "[Sequence]", f"name={shape.name}", f"seqLength={shape.count}"
            lines += (f"imWidth={width}", f"imHeight={height}")
            (folder / shape.name / "seqinfo.ini").write_text("\n".join(lines) + "\n", "utf-8")
    return f"{len(found)} folders with gt/gt.txt"


def _yolo(folder, found):
    for shape, boxes in found:
        frames = defaultdict(list)
        for box in boxes:
            frames[box.frame].append(box)
        (folder / shape.name).mkdir(exist_ok=True)
        height, width = shape.size
        for index in range(shape.count):
            lines = [
                f"0 {(box.left + box.width / 2) / width:.6f} "
                f"{(box.top + box.height / 2) / height:.6f} "
                f"{box.width / width:.6f} {box.height / height:.6f}\n"
                for box in frames[index]
            ]
            path = folder / shape.name / f"{shape.stem(index)}.txt"
            path.write_text("".join(lines), encoding="utf-8")
    (folder / "classes.txt").write_text(f"{CATEGORY}\n", encoding="utf-8")
    return f"{len(found)} folders, and classes.txt"


def _coco(folder, found):
    images, annotations = [], []
    for shape, boxes in found:
        first = len(images) + 1
        height, width = shape.size
        for index in range(shape.count):
            name = f"{shape.stem(index)}.png"
            if shape.file_names is not None:
                name = shape.file_names[index]
            size = {"height": height, "width": width}
            images.append({"id": first + index, "file_name": f"{shape.name}/{name}", **size})
        for box in link(boxes):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": first + box.frame,
                    "category_id": 1,
                    "bbox": _rounded(box.left, box.top, box.width, box.height),
                    "area": round(float(box.width * box.height), 4),
                    "iscrowd": 0,
                    "score": box.score,
                    "attributes": {"track_id": box.track},
                }
            )
    categories = [{"id": 1, "name": CATEGORY}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "annotations.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path.name


EXPORTERS = {"boxes": _boxes, "points": _points, "mot": _mot, "yolo": _yolo, "coco": _coco}
NEED_SIZE = ("yolo", "coco")
