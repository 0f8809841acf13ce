"""The forms of labels, each read line by line: MOTChallenge, YOLO, COCO.

A reader takes (path, shape, options) as `data.convert.labels.read_boxes` does and gives
(iterator of `Label`, the number of the first frame in this form; None: the frames' own numbers;
`data.convert.lookup.BY_NAME`: the labels' frames are indices).
"""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath

from data.convert.boxes import Box, Problems
from data.convert.lookup import (
    as_numbers,
    class_names,
    frames_of,
    own_file,
    read_lines,
    text_files,
)

# What may stand in a COCO file: types, in words.
COCO_TYPES = {
    **dict.fromkeys(("id", "image_id", "category_id"), ((int, str), "a number or a name")),
    **dict.fromkeys(("height", "width"), (int, "a whole number of pixels")),
    "file_name": (str, "a name"),
    "bbox": (list, "[left, top, width, height]"),
}


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
        cut: boxes are cut at the frame's border, unless they are of points.
        problems: `Problems`.
    """

    first_frame: int | str | None = None
    first_pixel: int = 1
    classes: tuple[str, ...] = ()
    point_size: float = 3.0
    several: bool = False
    cut: bool = True
    problems: Problems = field(default_factory=Problems)


@dataclass(frozen=True)
class Label:
    """One line of a file, before its frame is looked up.

    Attributes:
        where: its place, for messages.
        frame: the number it gives; None: of no frame of the sequence.
        box: with frame 0 until then.
        of_point: whether only the centre of the box was given.
    """

    where: str
    frame: int | None
    box: Box
    of_point: bool = False


def read_mot(path, shape, options):
    """MOTChallenge: `frame,id,left,top,width,height[,confidence[,class[,...]]]`, all from 1.

    Lines with confidence 0 are not to be considered, as the form has it; another is the score, or
    -1: not known.
    """
    path = own_file(path, shape, ".txt", ("gt/gt.txt", "gt.txt"), options.several)

    def labels():
        for number, line in enumerate(read_lines(path), 1):
            where, line = f"{path}, line {number}", line.strip(" ,\t")
            words = line.split(",") if "," in line else line.split()
            if len(words) > 1 and not words[1].strip():
                words[1] = "-1"  # no id
            values = as_numbers(words)
            if values is None or not 6 <= len(values) <= 10 or values[0] != int(values[0]):
                expected = "numbers: frame,id,left,top,width,height"
                options.problems.report(where, f"{line[:60]!r}; expected {expected}")
                continue
            if len(values) == 10 and -1 not in values[7:]:
                options.problems.doubt(
                    f"{path}: ten numbers a line; if their decimals have commas, give points"
                )
            frame, track, left, top, width, height, confidence, category = (
                *values[:8],
                *(1.0, -1.0)[len(values[:8]) - 6 :],
            )
            if confidence == 0 or not is_wanted(options, f"{category:g}"):
                continue
            track = int(track) if track >= 0 else None
            top, left = top - options.first_pixel, left - options.first_pixel
            score = 1.0 if confidence == -1 else confidence
            yield Label(where, int(frame), Box(0, top, left, height, width, track, score))

    return labels(), 1


def read_yolo(path, shape, options):
    """YOLO: a file for each frame, `class centre_x centre_y width height`, shares of the frame.

    A frame without a file has no target. Files are named as the frames; for frames without files
    of their own the last number in a name counts, from 0 if there is a 0. After the box there may
    be a confidence, and a whole number, the track; neither is read.
    """
    folders = [path / shape.name / "labels", path / shape.name]
    if not options.several:
        folders += [path / "labels", path]
    files = next((found for folder in folders if (found := text_files(folder))), None)
    if files is None:
        place = path / shape.name if options.several else path
        raise FileNotFoundError(f"{place}: no label files (.txt) for {shape.name}")
    names = class_names(files[0].parent)
    keys, first = frames_of([file.stem for file in files], shape, files[0].parent)

    def labels():
        height, width = shape.size
        for file, key in zip(files, keys, strict=True):
            for number, line in enumerate(read_lines(file), 1):
                where, values = f"{file}, line {number}", as_numbers(line.split())
                if not _is_yolo_box(values):
                    expected = "class centre_x centre_y width height (polygons are not read)"
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
                if is_wanted(options, f"{category:g}", name):
                    box = Box(0, (y - h / 2) * height, (x - w / 2) * width, h * height, w * width)
                    yield Label(where, key, box)

    return labels(), first


def _is_yolo_box(values):
    """Whether numbers are a box, and not the corners of a polygon or a box with key points."""
    if values is None or len(values) not in (5, 6, 7) or values[0] != int(values[0]):
        return False
    return len(values) < 7 or values[6] == int(values[6])


def read_coco(path, shape, options):
    """COCO: one JSON file, `bbox` as [left, top, width, height] from 0.

    Images are found by name, and, where there are several sequences, by a folder of the sequence's
    name.
    """
    path = own_file(path, shape, ".json", (), options.several, alone=True)
    content = _load_json(path)
    categories = {each["id"]: each.get("name") for each in content["categories"]}
    known = {str(each) for pair in categories.items() for each in pair}
    unknown = [name for name in options.classes if name not in known]
    if unknown:
        names = ", ".join(str(name) for name in categories.values())
        raise ValueError(f"{path}: no category {unknown[0]!r}; it has {names}")
    everything = {image["id"]: image for image in content["images"]}
    if len(everything) < len(content["images"]):
        raise ValueError(f"{path}: two images have the same id; expected one for each")
    inside = {key: image for key, image in everything.items() if _is_inside(image, shape.name)}
    mine = inside if inside or options.several else everything
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
    numbers, first = frames_of(stems, shape, path)
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
            elif len(bbox := as_numbers(each.get("bbox") or ()) or ()) != 4:
                options.problems.report(where, "expected a bbox [left, top, width, height]")
            elif is_wanted(options, str(each["category_id"]), categories[each["category_id"]]):
                left, top, width, height = bbox
                (score,) = as_numbers([each.get("score")]) or (1.0,)
                box = Box(0, top, left, height, width, _coco_track(each), score)
                yield Label(where, frames[each["image_id"]], box)

    return labels(), first


def is_wanted(options, *names):
    """Whether a target whose category has these names is one of the `classes` asked for."""
    return not options.classes or any(name in options.classes for name in names)


def _is_inside(image, name):
    """Whether an image of a COCO file lies in a folder of this name."""
    parts = PurePosixPath(str(image["file_name"]).replace("\\", "/")).parts
    return name in parts[:-1]


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
    except (ValueError, RecursionError) as error:
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
            for name in COCO_TYPES.keys() & each.keys():
                types, expected = COCO_TYPES[name]
                if not isinstance(each[name], types) or isinstance(each[name], bool):
                    raise ValueError(
                        f"{path}: number {number} of {key} has the {name} "
                        f"{json.dumps(each[name])[:60]}; expected {expected}"
                    )
    return content
