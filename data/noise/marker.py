"""noise.json: what a noisy version was made of and with, and how far it is.

It begins with what the version is told by: the data set, the noise, the numbers of frames. Finished
it has, too,

    measured   the law that the variance follows
    digests    for each sequence, of the grey levels and labels that were read

The digests tell whether a finished version was made of the frames that are there now. Names and
times of files could not: a copy of the clean set is the same, and another one may lie in its place.
"""

import hashlib
import json

import numpy as np

from data.noise.model import VarianceLaw
from data.saving import aside_of

MARKER = "noise.json"


def write_marker(folder, content):
    """Writes it, whole or not at all."""
    with aside_of(folder / MARKER) as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_marker(folder):
    """Its content; an empty dict where there is none that can be read."""
    try:
        content = json.loads((folder / MARKER).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def recorded_law(folder):
    """The `VarianceLaw` of a finished version, or None."""
    measured = read_marker(folder)["measured"]
    return None if measured is None else VarianceLaw(**measured)


def claim(folder, identity):
    """Marks an unfinished folder as that of this version.

    Raises:
        FileExistsError: it is another's.
    """
    marker = read_marker(folder)
    if not marker and not any(folder.iterdir()):
        write_marker(folder, identity)
    elif not _is_of(marker, identity):
        raise FileExistsError(
            f"{folder} is the unfinished work of other frames or another noise: remove it or "
            "choose another --output"
        )


def is_finished(output, identity, files):
    """Whether a folder is complete, and of this version; False if it is free to write.

    Args:
        output: the folder.
        identity: what the version is told by.
        files: paths below the folder that must be there.

    Raises:
        FileExistsError: it holds something else.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    marker = read_marker(output)
    same = "measured" in marker and _is_of(marker, identity)
    if same and all((output / file).is_file() for file in files):
        return True
    raise FileExistsError(
        f"{output} exists and is not a finished version of these frames with this noise: remove it "
        "or choose another --output"
    )


def _is_of(marker, identity):
    return {key: marker.get(key) for key in identity} == identity


def check_digests(output, found):
    """Makes sure that a finished version was made of the frames that are there now.

    Args:
        output: its folder.
        found: {folder of a sequence: digest}, of now.

    Raises:
        FileExistsError: it was made of others.
    """
    recorded = read_marker(output)["digests"]
    for folder, digest in found.items():
        if recorded.get(folder) != digest:
            raise FileExistsError(
                f"{output}: was made of other images than {folder} has now: remove it or choose "
                "another --output"
            )


def digest_of(frame, labels):
    """A digest, bytes, of a frame's grey levels and those of its labels, {folder: (H, W)}."""
    digest = hashlib.sha256()
    for levels in (frame, *labels.values()):
        digest.update(f"{levels.dtype.str} {levels.shape}".encode())
        digest.update(np.ascontiguousarray(levels))
    return digest.digest()
