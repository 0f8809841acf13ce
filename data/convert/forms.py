"""The forms of labels, each read line by line: MOTChallenge, YOLO, COCO, tables of points.

A reader takes (path, shape, options) as `data.convert.labels.read_boxes` does and gives
(iterator of `Label`, the number of the first frame in this form; None: the frames' own numbers).
"""

import csv
import json
import math
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath

from data.convert.boxes import Box, Problems


@dataclass(frozen=True)
class LabelOptions:
    """How labels are read.

    Attributes:
        first_frame: the number that labels give to the first frame; None: as their form has it;
            "auto": 0, 1 or 2, so that all labels of a sequence fit into it.
        first_pixel: the position of the first pixel, 0 or 1, in a MOTChallenge file.
        classes: names or numbers of the categories that are targets; none: all.
        point_size: side in pixels of a target of which only a point is known.
        several: the labels may be of several sequences.
        problems: `Problems`.
    """

    first_frame: int | str | None = None
    first_pixel: int = 1
    classes: tuple[str, ...] = ()
    point_size: float = 3.0
    several: bool = False
    problems: Problems = field(default_factory=Problems)


@dataclass(frozen=True)
class Label:
    """One line of a file, before its frame is looked up.

    Attributes:
        where: its place, for messages.
        frame: the number it gives; None: of no frame of the sequence.
        box: with frame 0 until then.
    """

    where: str
    frame: int | None
    box: Box


def _mot(path, shape, options):
    """MOTChallenge: `frame,id,left,top,width,height[,confidence[,class[,...]]]`, all from 1.

    Lines with confidence 0 are not to be considered, as the form has it.
    """
    path = _own_file(path, shape, ".txt", ("gt/gt.txt", "gt.txt"))

    def labels():
        for number, line in enumerate(_lines(path), 1):
            where, words = f"{path}, line {number}", re.split(r"[,\s]+", line.strip(" ,\t"))
            values = _numbers(words)
            if values is None or len(values) < 6:
                expected = "frame,id,left,top,width,height"
                options.problems.report(where, f"{line[:60]!r}; expected {expected}")
                continue
            frame, track, left, top, width, height, confidence, category = (
                *values[:8],
                *(1.0, -1.0)[len(values[:8]) - 6 :],
            )
            if confidence == 0 or not _wanted(options, f"{category:g}"):
                continue
            track = int(track) if track >= 0 else None
            top, left = top - options.first_pixel, left - options.first_pixel
            yield Label(where, int(frame), Box(0, top, left, height, width, track))

    return labels(), 1


def _yolo(path, shape, options):
    """YOLO: a file for each frame, `class centre_x centre_y width height`, shares of the frame.

    A frame without a file has no target. Files are named as the frames; for frames without files
    of their own the last number in a name counts, from 0 if there is a 0.
    """
    folders = (path / shape.name / "labels", path / shape.name, path / "labels", path)
    files = next((found for folder in folders if (found := _text_files(folder))), None)
    if files is None:
        raise FileNotFoundError(f"{path}: no label files (.txt) for {shape.name}")
    names = _class_names(files[0].parent)
    keys, first = _frames_of([file.stem for file in files], shape, files[0].parent)

    def labels():
        height, width = shape.size
        for file, key in zip(files, keys, strict=True):
            for number, line in enumerate(_lines(file), 1):
                where, values = f"{file}, line {number}", _numbers(line.split())
                if values is None or len(values) < 5 or values[0] != int(values[0]):
                    expected = "class centre_x centre_y width height"
                    options.problems.report(where, f"{line[:60]!r}; expected {expected}")
                    continue
                category, x, y, w, h = values[:5]
                if names and not 0 <= category < len(names):
                    options.problems.report(where, f"class {category:g} of {len(names)}")
                    continue
                if max(map(abs, (x, y, w, h))) > 1.5:
                    options.problems.report(where, "expected shares of the frame, from 0 to 1")
                    continue
                name = names[int(category)] if names else None
                if _wanted(options, f"{category:g}", name):
                    box = Box(0, (y - h / 2) * height, (x - w / 2) * width, h * height, w * width)
                    yield Label(where, key, box)

    return labels(), first


def _coco(path, shape, options):
    """COCO: one JSON file, `bbox` as [left, top, width, height] from 0.

    Images are found by name, and, of several sequences, by a folder of the sequence's name.
    """
    path = _own_file(path, shape, ".json", (), alone=True)
    content = _load_json(path)
    categories = {each["id"]: each.get("name") for each in content["categories"]}
    known = {str(each) for pair in categories.items() for each in pair}
    unknown = [name for name in options.classes if name not in known]
    if unknown:
        names = ", ".join(str(name) for name in categories.values())
        raise ValueError(f"{path}: no category {unknown[0]!r}; it has {names}")
    everything = {image["id"]: image for image in content["images"]}
    mine = {key: image for key, image in everything.items() if _belongs(image, shape, options)}
    if not mine:
        raise FileNotFoundError(
            f"{path}: none of its images is a frame of {shape.name}; of several sequences, a "
            f"file_name is expected to be {shape.name}/... or so"
        )
    for image in mine.values():
        size = image.get("height", shape.size[0]), image.get("width", shape.size[1])
        if tuple(size) != tuple(shape.size):
            raise ValueError(
                f"{path}: {image['file_name']} of {size[1]}x{size[0]} pixels, but {shape.name} has "
                f"{shape.size[1]}x{shape.size[0]}"
            )
    stems = [PurePosixPath(image["file_name"]).stem for image in mine.values()]
    numbers, first = _frames_of(stems, shape, path)
    frames = dict(zip(mine, numbers, strict=True))

    def labels():
        for number, each in enumerate(content["annotations"], 1):
            where = f"{path}, annotation {each.get('id', number)}"
            if each.get("image_id") not in everything:
                options.problems.report(where, f"image_id {each.get('image_id')} is of no image")
            elif each["image_id"] not in mine or each.get("iscrowd"):
                continue
            elif each.get("category_id") not in categories:
                options.problems.report(where, f"category {each.get('category_id')} is unknown")
            elif len(bbox := _numbers(each.get("bbox") or ()) or ()) != 4:
                options.problems.report(where, "expected a bbox [left, top, width, height]")
            elif _wanted(options, str(each["category_id"]), categories[each["category_id"]]):
                left, top, width, height = bbox
                box = Box(0, top, left, height, width, _coco_track(each))
                yield Label(where, frames[each["image_id"]], box)

    return labels(), first


def _points(path, shape, options):
    """A table of points: columns `frame`, `row` and `column` (or `y` and `x`), from 0.

    Of several sequences, a column `sequence` tells which, or each has a file. Columns `id`,
    `height` and `width` are read where they are there. So are `pixels` and `peak_score`, the square
    of a target's side and its score: detections.csv is such a table.
    """
    path = _own_file(path, shape, ".csv", (), alone=True)
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    columns = {name.strip().lower(): name for name in (rows[0] if rows else ()) if name}
    row_name, column_name = (
        next((columns[name] for name in names if name in columns), None)
        for names in (("row", "y"), ("column", "x"))
    )
    if rows and ("frame" not in columns or row_name is None or column_name is None):
        raise ValueError(f"{path}: columns {', '.join(columns)}; expected frame, row, column")

    def labels():
        for number, row in enumerate(rows, 2):
            where = f"{path}, line {number}"
            if "sequence" in columns and row[columns["sequence"]] != shape.name:
                continue
            side, score = options.point_size, 1.0
            if "pixels" in columns:
                side = math.sqrt(max((_numbers([row[columns["pixels"]]]) or [0])[0], 1))
            if "peak_score" in columns:
                score = (_numbers([row[columns["peak_score"]]]) or [1.0])[0]
            sizes = [row[columns[n]] if n in columns else side for n in ("height", "width")]
            values = _numbers([row[columns["frame"]], row[row_name], row[column_name], *sizes])
            if values is None:
                options.problems.report(where, "expected numbers")
                continue
            frame, y, x, height, width = values
            track = _numbers([row[columns["id"]]]) if "id" in columns else None
            track = None if track is None else int(track[0])
            top, left = y + 0.5 - height / 2, x + 0.5 - width / 2
            yield Label(where, int(frame), Box(0, top, left, height, width, track, score))

    return labels(), None


def _own_file(path, shape, suffix, inner, alone=False):
    """The file of a sequence: the path itself, or what a folder has under the sequence's name.

    `inner` are places in a folder of that name; with `alone` the only such file will do.
    """
    if path.is_file():
        return path
    looked = [path / f"{shape.name}{suffix}", *(path / shape.name / place for place in inner)]
    found = next((file for file in looked if file.is_file()), None)
    if found is None and alone and path.is_dir():
        files = sorted(path.glob(f"*{suffix}"))
        found = files[0] if len(files) == 1 else None
    if found is None:
        names = " or ".join(str(each) for each in looked)
        raise FileNotFoundError(f"{shape.name}: no labels; expected {names}")
    return found


def _lines(path):
    """The lines of a text file that are not empty."""
    try:
        return [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file of labels") from error


def _numbers(words):
    """The words as finite numbers; None if they are none."""
    try:
        values = [float(word) for word in words]
    except (TypeError, ValueError):
        return None
    return values if all(map(math.isfinite, values)) else None


def _wanted(options, *names):
    return not options.classes or any(name in options.classes for name in names)


def _text_files(folder):
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    return [file for file in files if file.name not in ("classes.txt", "train.txt", "test.txt")]


def _class_names(folder):
    """Names of the classes, from a classes.txt or obj.names beside the labels or above."""
    for place in (folder, folder.parent, folder.parent.parent):
        for name in ("classes.txt", "obj.names"):
            if (place / name).is_file():
                return [line.strip() for line in _lines(place / name)]
    return None


def _frames_of(stems, shape, where):
    """(frame of each stem, number of the first frame): by name, else by the last number in it."""
    own = {shape.stem(index): index for index in range(shape.count)}
    if shape.file_names is not None and any(stem in own for stem in stems):
        return [own.get(stem) for stem in stems], 0
    digits = [re.findall(r"\d+", stem) for stem in stems]
    if not all(digits):
        odd = next(stem for stem, found in zip(stems, digits, strict=True) if not found)
        raise ValueError(f"{where}: {odd} is the name of no frame of {shape.name}")
    numbers = [int(found[-1]) for found in digits]
    return numbers, 0 if 0 in numbers else 1


def _belongs(image, shape, options):
    """Whether an image of a COCO file is a frame of the sequence, as far as folders tell."""
    parts = PurePosixPath(str(image["file_name"]).replace("\\", "/")).parts
    return shape.name in parts[:-1] or not options.several


def _coco_track(annotation):
    places = annotation.get("attributes") or {}, annotation
    for place in places:
        for name in ("track_id", "instance_id"):
            if isinstance(place, dict) and isinstance(place.get(name), int):
                return place[name]
    return None


@lru_cache(maxsize=4)
def _load_json(path):
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error})") from error
    missing = [
        key
        for key in ("images", "annotations", "categories")
        if not isinstance(content, dict) or not isinstance(content.get(key), list)
    ]
    if missing:
        raise ValueError(f"{path}: no list of {missing[0]}; expected a COCO file")
    needed = {"images": ("id", "file_name"), "annotations": (), "categories": ("id",)}
    for key, names in needed.items():
        for number, each in enumerate(content[key], 1):
            lacking = [n for n in names if n not in each] if isinstance(each, dict) else ["names"]
            if lacking:
                raise ValueError(f"{path}: number {number} of {key} has no {lacking[0]}")
    return content


LABEL_FORMS = {"mot": _mot, "yolo": _yolo, "coco": _coco, "points": _points}
