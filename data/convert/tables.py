"""Labels in a table: points or boxes, a line each, with names of columns in the first line."""

import csv
import math
from typing import NamedTuple

from data.convert.boxes import Box
from data.convert.forms import Label, is_wanted
from data.convert.lookup import as_numbers, own_file

# What the columns of a table may be called.
PLACE_NAMES = {
    "row": ("row", "y"),
    "column": ("column", "x"),
    "top": ("top", "ymin", "y1"),
    "left": ("left", "xmin", "x1"),
    "height": ("height", "h"),
    "width": ("width", "w"),
    "bottom": ("bottom", "ymax", "y2"),
    "right": ("right", "xmax", "x2"),
}
KIND_NAMES = ("class", "category", "label")
SCORE_NAMES = ("peak_score", "score")
NOTHING = ("nan", "none", "null", "n/a", "na", "-")  # words in a cell
OTHER_NAMES = ("sequence", "frame", "id", "pixels", *SCORE_NAMES)  # that are read
# Those of detections.csv that are not needed: nothing is lost without them.
UNREAD_NAMES = ("mean_score", "file")


def read_points(path, shape, options):
    """A table of points: columns `frame`, `row` and `column` (or `y` and `x`), from 0.

    Of several sequences, a column `sequence` tells which, or each has a file. Columns `id`,
    `height` and `width` (or `h` and `w`), `class` and `score` are read where they are there. So are
    `pixels` and `peak_score`, the square of a target's side and its score: detections.csv is such a
    table. In place of a row and a column, which are of a centre, there may be `top` and `left` of a
    box, and in place of a size `bottom` and `right`, where the next pixel begins. Other columns are
    named in a doubt. For all names see `PLACE_NAMES`.
    """
    path = own_file(path, shape, ".csv", (), options.several, alone=True)
    columns, rows = read_table(path)
    place = _place_columns(path, columns, options) if rows else None
    if options.several and "sequence" not in columns and path.stem != shape.name:
        raise ValueError(
            f"{path}: no column sequence, and {shape.name} is not the only one; expected it, or a "
            "file for each"
        )
    kind, score_name = (
        next((columns[name] for name in names if name in columns), None)
        for names in (KIND_NAMES, SCORE_NAMES)
    )
    if options.classes and rows and kind is None:
        raise ValueError(f"{path}: --classes, but it has no column class")

    tracks = _number_tracks(_text_of(row, columns.get("id")) for row in rows)

    def labels():
        for number, row in enumerate(rows, 2):
            where = f"{path}, line {number}"
            if "sequence" in columns and row[columns["sequence"]] != shape.name:
                continue
            if kind is not None and not is_wanted(options, str(row[kind]).strip()):
                continue
            names = columns.get("pixels"), score_name
            optional = [_number_or_none(row, name) for name in names]
            if "no number" in optional:
                name = names[optional.index("no number")]
                options.problems.report(
                    where, f"{name} {str(row[name])!r}: expected a number, or nothing"
                )
                continue
            area, score = optional
            side = options.point_size if area is None else math.sqrt(max(area, 1))
            sizes = [side if name is None else row[name] for name in place.sizes]
            values = as_numbers([row[columns["frame"]], *(row[n] for n in place.names), *sizes])
            if values is None or values[0] != int(values[0]):
                options.problems.report(where, "expected numbers, a whole one for the frame")
                continue
            frame, y, x, height, width = values
            if None in place.sizes and not _is_inside(y, x, shape):
                options.problems.report(
                    where, f"row {y:g}, column {x:g} lies outside the frame; expected a point of it"
                )
                continue
            if place.has_ends:
                height, width = height - y, width - x
            track = tracks.get(_text_of(row, columns.get("id")))
            score = 1.0 if score is None else score
            if not place.is_corner:
                y, x = y + 0.5 - height / 2, x + 0.5 - width / 2
            box = Box(0, y, x, height, width, track, score)
            yield Label(where, int(frame), box, None in place.sizes and not place.is_corner)

    return labels(), None


def _text_of(row, name):
    """What a row has in a column, or "": there is no such column, nothing in it, or a word so."""
    text = "" if name is None else str(row[name] or "").strip()
    return "" if text.casefold() in NOTHING else text


def _number_or_none(row, name):
    """A number of a row; None where there is nothing; or "no number"."""
    text = _text_of(row, name)
    numbers = as_numbers([text]) if text else [None]
    return "no number" if numbers is None else numbers[0]


def _number_tracks(names):
    """{name: number of the track}: the numbers that the names are, or, if not all are, by order."""
    names = [name for name in dict.fromkeys(names) if name]
    numbers = as_numbers(names)
    if numbers is None or any(number != int(number) for number in numbers):
        return {name: number for number, name in enumerate(names, 1)}
    return dict(zip(names, map(int, numbers), strict=True))


def _is_inside(row, column, shape):
    """Whether a point, where (0, 0) is the centre of the first pixel, lies in the frame."""
    height, width = shape.size or (math.inf, math.inf)
    return -0.5 <= row <= height - 0.5 and -0.5 <= column <= width - 0.5


class PlaceColumns(NamedTuple):
    """Where a table says where targets are.

    Attributes:
        names: of the columns of row and column.
        is_corner: whether these are a box's upper left corner; else they are its centre.
        sizes: names of the columns of height and width; None: it has none.
        has_ends: whether the latter are of the lower and the right edge.
    """

    names: tuple
    is_corner: bool
    sizes: tuple
    has_ends: bool


def _place_columns(path, columns, options):
    """The `PlaceColumns` of a table; what mixes corners and centres is refused."""
    first = {
        key: next((columns[name] for name in names if name in columns), None)
        for key, names in PLACE_NAMES.items()
    }
    centre, corner = (first["row"], first["column"]), (first["top"], first["left"])
    sizes, ends = (first["height"], first["width"]), (first["bottom"], first["right"])
    has_ends = None not in ends and None in sizes
    header = ",".join(columns.values())
    names = corner if None in centre or (has_ends and None not in corner) else centre
    if "frame" not in columns or None in names:
        raise ValueError(
            f"{path}: its first line is {header!r}; expected names of columns with commas between "
            "them: frame, row, column (of a centre) or frame, top, left (of a box)"
        )
    sizes = ends if has_ends else sizes
    if (sizes[0] is None) != (sizes[1] is None):
        raise ValueError(f"{path}: its first line is {header!r}; expected height and width or none")
    is_corner = names is corner or has_ends
    if not is_corner and None not in sizes and not {"row", "column"} & set(columns):
        options.problems.doubt(
            f"{path}: {', '.join(centre)} are taken as the centres of boxes; if they are corners, "
            "name them top and left"
        )
    known = {*names, *sizes}
    known |= {columns.get(name) for name in (*OTHER_NAMES, *KIND_NAMES, *UNREAD_NAMES)}
    others = [name for name in columns.values() if name not in known]
    if others:
        read = ", ".join(name for name in (*names, *sizes) if name)
        options.problems.doubt(
            f"{path}: columns {', '.join(others)} are not read; places are of {read}"
        )
    return PlaceColumns(names, is_corner, sizes, has_ends)


def read_table(path):
    """({name of a column in lower case: as it stands}, rows as dicts) of a file of labels.

    Raises:
        ValueError: it is no table, or a line has more cells than the first one has names.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        try:
            rows, names = list(reader), reader.fieldnames or ()
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: cannot be read as a table ({error})") from error
    for number, row in enumerate(rows, 2):
        surplus = row.pop(None, [])
        if any(cell.strip() for cell in surplus):
            raise ValueError(
                f"{path}, line {number}: {len(names) + len(surplus)} cells, but the first line "
                f"names {len(names)}; expected as many, and decimals with a point"
            )
    return {name.strip().lower(): name for name in names if name}, rows
