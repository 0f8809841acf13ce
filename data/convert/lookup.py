"""Where labels of a sequence lie, and which frame a name means."""

import math
import re

BY_NAME = "named"  # in place of the first frame's number: frames were found by their files' names


def own_file(path, shape, suffix, inner, several, alone=False):
    """The file of a sequence: the path itself, or what a folder has under the sequence's name.

    Args:
        path: as the user gave it.
        shape: `data.convert.boxes.SequenceShape`.
        suffix: of the file.
        inner: places in a folder of the sequence's name.
        several: whether there are other sequences, which cannot have the path itself, too.
        alone: whether the file tells its sequences apart, so that the path itself, or the only
            such file of a folder, will do for all.

    Raises:
        FileNotFoundError: there is none.
        ValueError: one file for several sequences that does not tell them apart.
    """
    if path.is_file():
        if several and not alone:
            raise ValueError(
                f"{path}: one file of labels for several sequences, {shape.name} for one; expected "
                f"a folder with {shape.name}{suffix} and one for each of the others"
            )
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


def read_lines(path):
    """The lines of a text file that are not empty."""
    try:
        return [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file of labels") from error


def as_numbers(words):
    """The words as finite numbers; None if they are none."""
    try:
        values = [float(word) for word in words]
    except (TypeError, ValueError):
        return None
    return values if all(map(math.isfinite, values)) else None


def text_files(folder):
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    return [file for file in files if file.name not in ("classes.txt", "train.txt", "test.txt")]


def class_names(folder):
    """Names of the classes, from a classes.txt or obj.names beside the labels or above."""
    for place in (folder, folder.parent, folder.parent.parent):
        for name in ("classes.txt", "obj.names"):
            if (place / name).is_file():
                return [line.strip() for line in read_lines(place / name)]
    return None


def frames_of(stems, shape, where):
    """(frame of each stem, number of the first frame): by name, else by the last number in it.

    Found by name they are indices, and the number is BY_NAME.

    Raises:
        ValueError: a stem is no frame's, or two are of one frame.
    """
    own = {shape.stem(index): index for index in range(shape.count)}
    if shape.file_names is not None and any(stem in own for stem in stems):
        return _once([own.get(stem) for stem in stems], stems, shape, where), BY_NAME
    digits = [re.findall(r"\d+", stem) for stem in stems]
    if not all(digits):
        odd = next(stem for stem, found in zip(stems, digits, strict=True) if not found)
        raise ValueError(f"{where}: {odd} is the name of no frame of {shape.name}")
    numbers = _once([int(found[-1]) for found in digits], stems, shape, where)
    return numbers, 0 if 0 in numbers else 1


def _once(frames, stems, shape, where):
    """The frames, each of which only one name may mean."""
    seen = {}
    for frame, stem in zip(frames, stems, strict=True):
        if frame is not None and frame in seen:
            raise ValueError(
                f"{where}: {seen[frame]} and {stem} are both frame {frame} of {shape.name}; "
                f"expected the labels of one sequence, or those of {shape.name} in a folder of "
                "that name"
            )
        seen[frame] = stem
    return frames
