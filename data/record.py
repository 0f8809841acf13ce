"""The record in the folder of a converted data set: its own mean and standard deviation."""

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
