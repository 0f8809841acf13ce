"""The record in the folder of a converted data set: its own mean and standard deviation.

A noisy version has the clean set's, as those of all other data sets do.
"""

import json
import math
from pathlib import Path

RECORD_FILE = "dataset.json"


def write_record(root, mean, std, details):
    """Writes the record of a data set.

    Args:
        root: its folder.
        mean, std: of the grey levels of its training sequences.
        details: a dict of what else there is to know, for people.
    """
    text = json.dumps({"mean": mean, "std": std, **details}, indent=1)
    (Path(root) / RECORD_FILE).write_text(text + "\n", encoding="utf-8")


def read_normalisation(spec, root):
    """(mean, std) of a data set: those of its row, or those recorded in its folder.

    Args:
        spec: its row; without mean and std where they are recorded.
        root: its folder.

    Raises:
        FileNotFoundError: there is no record.
        ValueError: it is damaged.
    """
    if spec.mean is not None:
        return spec.mean, spec.std
    path = Path(root) / RECORD_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such record; expected the mean and std of {spec.name}, which comes from "
            f"{spec.source}"
        )
    try:
        record = json.loads(path.read_text("utf-8"))
        mean, std = float(record["mean"]), float(record["std"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no record of a mean and a std ({error!r})") from error
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ValueError(f"{path}: mean {mean}, std {std}; expected finite numbers, std above 0")
    return mean, std


def recorded_levels(spec, root):
    """What `read_normalisation` reads in a data set's folder, as a list; [] if nothing is there.

    None if the data set's row has them: then there is one data set of this name.
    """
    if spec.mean is not None:
        return None
    try:
        return list(read_normalisation(spec, root))
    except (OSError, ValueError):
        return []


def read_rates(root):
    """{sequence: (frames a second or None, every how manyth frame of the footage it has)}.

    Args:
        root: the folder of a data set; of one without a record, or whose record does not tell, {}.
    """
    try:
        sequences = json.loads((Path(root) / RECORD_FILE).read_text("utf-8"))["sequences"]
        return {
            name: (each.get("frame_rate"), max(1, int(each.get("stride", 1))))
            for name, each in sequences.items()
        }
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return {}
