"""What is in a folder, in which order, and which mask belongs to which frame.

One lister and one pairing for labelled data sets and own footage. Nothing is opened here.
"""

import os
import re
from decimal import Decimal

IMAGE_SUFFIXES = {
    *(".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".webp", ".jp2", ".j2k"),
    *(".pgm", ".ppm", ".pnm", ".pbm"),
}
# What systems leave in folders without being asked.
SYSTEM_NAMES = {
    *("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"),
    "system volume information",
}
TEXT_SUFFIXES = {".txt", ".json", ".csv", ".xml", ".yaml", ".yml", ".md", ".log", ".html"}
NAMED = 4  # names in a message


def visible(folder):
    """What is in a folder, in natural order, without hidden files and those of the system."""
    paths = (
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.casefold() not in SYSTEM_NAMES
    )
    return sorted(paths, key=natural_order)


def is_image(path):
    """Whether a path is named as an image and is no folder; a broken link is one, unreadable."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def list_images(folder, remarks):
    """The images of a folder in natural order; none: an empty tuple.

    Args:
        folder: of the frames or masks of one sequence.
        remarks: `data.remarks.Remarks`, which hear what is left out.

    Raises:
        ValueError: names tell that these are not the frames of one sequence.
    """
    paths = visible(folder)
    images = tuple(path for path in paths if is_image(path))
    rest = left_out(path for path in paths if not is_image(path))
    if images and rest:
        remarks.make("ignored", f"{folder}: {first_names(rest)} ignored, which are no images")
    check_names(folder, images, remarks)
    return images


def left_out(paths):
    """Of paths that are not read, those to speak of: texts can be no frames."""
    return [path for path in paths if path.suffix.lower() not in TEXT_SUFFIXES or path.is_dir()]


def check_names(folder, images, remarks):
    """Refuses images of one folder that are not the frames of one sequence; doubts are told.

    Raises:
        ValueError: two images differ in their suffix alone or in noughts before a number, or there
            are two kinds of names with the same numbers, as 001_image.png and 001_mask.png.
    """
    stems, kinds = {}, {}
    for path in images:
        other = stems.setdefault(path.stem.casefold(), path)
        if other is not path:
            raise ValueError(
                f"{folder}: {other.name} and {path.name} have one name; expected one file a frame"
            )
        kind = re.sub(r"\d+", "#", path.stem.casefold())
        numbers = tuple(map(int, re.findall(r"\d+", path.stem)))
        other = kinds.setdefault(kind, {}).setdefault(numbers, path)
        if other is not path:
            raise ValueError(
                f"{folder}: {other.name} and {path.name} have the same number; expected one file a "
                "frame"
            )
    first, *others = kinds.values() if kinds else ({},)
    for other in others:
        shared = first.keys() & other.keys() - {()}
        if shared:
            numbers = min(shared)
            raise ValueError(
                f"{folder}: {first[numbers].name} and {other[numbers].name} have the same number; "
                "expected the frames of one sequence, and masks in a folder of their own"
            )
        first = first | other
    _doubt_names(folder, images, list(kinds.values()), remarks)


def _doubt_names(folder, images, kinds, remarks):
    """Remarks on a few images that are named unlike most, and on numbers that begin again.

    Args:
        kinds: for each kind of names {numbers in the name: path}.
    """
    most = max(kinds, key=len, default={})
    odd = [path for kind in kinds if kind is not most for path in kind.values()]
    if odd and len(most) > 1 and (4 * len(odd) <= len(most) or len(kinds) <= 3):
        remarks.make(
            "odd names",
            f"{folder}: {first_names(odd)} not named as the {len(most)} others, such as "
            f"{next(iter(most.values())).name}; read as frames of the sequence",
        )
    numbers = last_numbers(images) if len(kinds) == 1 else []
    starts = [i for i in range(1, len(numbers)) if numbers[i] <= numbers[i - 1]]
    if starts and all(numbers[i] == numbers[0] for i in starts):
        again = starts[0]
        remarks.make(
            "numbers again",
            f"{folder}: {images[again].name} follows {images[again - 1].name}, so numbers begin "
            f"again; all {len(images)} images are read as one sequence",
        )
    steps = [b - a for a, b in zip(numbers, numbers[1:], strict=False)]
    usual = min(steps, default=0)
    counted = {len(found or ()) for found in changing_numbers(images)} == {1}
    often = usual == 1 or 2 * steps.count(usual) >= len(steps)  # else they are times
    if counted and 0 < 2 * usual <= max(steps) and often:
        gap = next(index for index, step in enumerate(steps) if step >= 2 * usual)
        remarks.make(
            "gap",
            f"{folder}: {images[gap + 1].name} follows {images[gap].name}; frames are taken as "
            "consecutive, though numbers are missing",
        )


def natural_order(path):
    """A sorting key by which text and numbers of a name compare in turn: frame2 before frame10.

    Nine digits and more before a point are seconds, of which the digits behind are fractions.
    """
    parts = re.split(r"(\d{9,}\.\d+|\d+)", path.name.casefold())
    return [Decimal(part) if index % 2 else part for index, part in enumerate(parts)], path.name


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


def changing_numbers(paths):
    """For each file the numbers in its name that are not the same in all names, as a tuple.

    None where names do not have equally many numbers, or none of them changes.
    """
    numbers = [tuple(map(int, re.findall(r"\d+", path.stem))) for path in paths]
    if len(set(map(len, numbers))) != 1:
        return [None] * len(paths)
    columns = zip(*numbers, strict=True)
    changing = [index for index, column in enumerate(columns) if len(set(column)) > 1]
    return [tuple(own[index] for index in changing) or None for own in numbers]


def stems(paths):
    """The names without their suffixes."""
    return [path.stem for path in paths]


# What a frame and its mask have in common, tried in this order.
KEYS = (stems, last_numbers, changing_numbers)


def pair(name, images, others, what, remarks):
    """The mask of every image, in the order of the images.

    A mask has its image's name, or its number: the last one in the name, or those that change from
    name to name. Or its name is that of the image with something before or after it. Frames counted
    from 0 and masks counted from 1, or the other way about, are paired in order, which is said.

    Args:
        name: of the sequence, for messages.
        images, others: paths; `others` are `what`, such as "masks".
        remarks: `data.remarks.Remarks`.

    Raises:
        ValueError: an image or a mask is left over; it is named.
    """
    for key in KEYS:
        found = _matched(key(images), key(others), others)
        if found is not None:
            return found
    found = _matched(stems(images), _without_affixes(images, others), others)
    if found is not None:
        return found
    if _counted_from_0_and_1(images, others):
        remarks.make(
            "counting",
            f"{name}: {images[0].name} is paired with {others[0].name} of {others[0].parent}, and "
            "so on: one is counted from 0, the other from 1",
        )
        return others
    raise ValueError(_left_over(name, images, others, what))


def _matched(keys, other_keys, others):
    """The others by the keys of the images; None unless each has its own."""
    by_key = dict(zip(other_keys, others, strict=True))
    if len(by_key) != len(others) or len(set(keys)) != len(keys) or by_key.keys() != set(keys):
        return None
    return None if None in by_key else tuple(by_key[key] for key in keys)


def _without_affixes(images, others):
    """The names of the others without what comes before and after an image's name in the first."""
    first = others[0].stem
    for stem in sorted((path.stem for path in images if path.stem in first), key=len, reverse=True):
        before, _, after = first.partition(stem)
        names = [path.stem for path in others]
        if all(own.startswith(before) and own.endswith(after) for own in names):
            return [own[len(before) : len(own) - len(after)] for own in names]
    return [None] * len(others)


def _counted_from_0_and_1(images, others):
    """Whether both have all numbers in turn, the one from 0 and the other from 1."""
    starts = []
    for numbers in (last_numbers(images), last_numbers(others)):
        if None in numbers or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            return False
        starts.append(numbers[0])
    return sorted(starts) == [0, 1] and len(images) == len(others)


def _left_over(name, images, others, what):
    """Why images and others do not pair: the first of each that is left over."""
    folder = others[0].parent
    left = []
    for key in KEYS:
        keys, other_keys = key(images), key(others)
        lonely = [p for p, own in zip(images, keys, strict=True) if own not in set(other_keys)]
        surplus = [p for p, own in zip(others, other_keys, strict=True) if own not in set(keys)]
        distinct = len(set(keys)) == len(keys) and len(set(other_keys)) == len(other_keys)
        if distinct and None not in (*keys, *other_keys):
            left.append((len(lonely) + len(surplus), lonely, surplus))
    message = f"{name}: {len(images)} frames but {len(others)} {what} in {folder}"
    if left:
        _, lonely, surplus = min(left, key=lambda entry: entry[0])
        if lonely:
            message += f"; {lonely[0].name} has none"
        if surplus:
            message += f"; {surplus[0].name} there has no frame"
    return f"{message}; expected one for each frame, with its name or number"


def first_names(paths):
    """The first names of some paths, in a message."""
    names = [printable(path.name) for path in paths[:NAMED]]
    more = len(paths) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def printable(name):
    """A name that can be written anywhere: bytes that are no UTF-8 and control characters escaped.

    Names as a zip from another country leaves them; the files keep theirs.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
