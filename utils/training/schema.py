"""What each key of a checkpoint may hold: checked once, when a file was read."""

import math
import random

import numpy as np
import torch

from utils.several import as_list
from utils.training_state import OPTIMIZER_SETTINGS

# Of which there may be several values.
LISTED = ("dataset", "datapath", "sample_rate", "folder_levels")
HISTORY_KEYS = ("epoch", "learning_rate", "train_loss", "train_iou", "val_loss", "val_iou")
LONGEST_SHOWN = 60  # characters of a wrong value in a message
LARGEST = 2**53  # number that is believed


def check(checkpoint, path):
    """Refuses a checkpoint with a value that is not what its key says; unknown keys may be there.

    Raises:
        ValueError: names the key, what it holds and what was expected.
    """
    for key, (is_right, expected) in SCHEMA.items():
        if key in checkpoint and not is_right(checkpoint[key]):
            raise ValueError(
                f"{path}: its `{key}` is {shown(checkpoint[key])}; expected {expected}"
            )


def shown(value):
    """A value in a message, if it is short; else its type."""
    if isinstance(value, bool | float | None) or is_whole(value, -LARGEST):
        return repr(value)
    if isinstance(value, str) and len(value) <= LONGEST_SHOWN:
        return repr(value)
    return f"a {type(value).__name__}"


def is_whole(value, least=0):
    kind = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return kind and least <= value <= LARGEST


def is_number(value):
    """Whether it is a number, infinite ones included."""
    return is_whole(value, -LARGEST) or (
        isinstance(value, float | np.floating) and not math.isnan(value)
    )


def is_finite(value):
    return is_number(value) and math.isfinite(value)


def is_plain_tensor(value):
    """Whether it is a tensor of real numbers in memory: not sparse, nested, without data."""
    return (
        torch.is_tensor(value)
        and not (value.is_quantized or value.is_nested or value.is_complex())
        and (value.layout, value.device.type) == (torch.strided, "cpu")
    )


def is_state_dict(value):
    """Whether it is a dict of tensors by name, with at least one."""
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(k, str) and is_plain_tensor(v) for k, v in value.items())


def is_options(value):
    """Whether it is None, or a dict of single values; lists of them where options take several."""
    kinds = str | bool | int | float | None
    if value is None:
        return True
    return isinstance(value, dict) and all(
        isinstance(key, str)
        and all(isinstance(part, kinds) for part in (as_list(found) if key in LISTED else [found]))
        for key, found in value.items()
    )


def is_optimizer_state(value):
    if not isinstance(value, dict) or not isinstance(value.get("state"), dict):
        return False
    groups = value.get("param_groups")
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
        return False
    parameters = groups[0].get("params")
    if not isinstance(parameters, list) or not all(map(is_whole, parameters)):
        return False
    return all(map(is_setting, OPTIMIZER_SETTINGS, map(groups[0].get, OPTIMIZER_SETTINGS))) and all(
        isinstance(values, dict) and all(map(is_statistic, values.keys(), values.values()))
        for values in value["state"].values()
    )


def is_statistic(name, value):
    """Whether an optimiser can keep it for a parameter."""
    if name == "step":
        value = value.item() if is_plain_tensor(value) and value.shape == () else value
        return is_finite(value) and value >= 0
    return is_plain_tensor(value) and value.is_floating_point()


def is_setting(name, value):
    """Whether a value of `OPTIMIZER_SETTINGS` is one, or missing."""
    if name == "betas" and value is not None:
        pair = isinstance(value, list | tuple) and len(value) == 2
        return pair and all(is_finite(beta) and 0 <= beta < 1 for beta in value)
    return value is None or (is_finite(value) and value >= 0)


def is_average(value):
    if value is None:
        return True
    return (
        isinstance(value, dict)
        and is_whole(value.get("steps"))
        and is_state_dict(value.get("weights"))
    )


def is_history(value):
    return isinstance(value, list | tuple) and all(
        isinstance(row, dict)
        and all(isinstance(key, str) and is_finite(v) for key, v in row.items())
        and all(map(row.__contains__, HISTORY_KEYS))
        for row in value
    )


def is_data(value):
    return (
        value is None
        or (
            isinstance(value, list)
            and all(
                isinstance(row, list | tuple)
                and len(row) in (2, 5)  # of older checkpoints 2
                and isinstance(row[0], str)
                and all(map(is_whole, row[1:]))
                for row in value
            )
        )
    )


def is_position(value):
    if value is None:
        return True
    if not isinstance(value, dict) or not is_random_states(value.get("random")):
        return False
    counts = value.get("iou_counts")
    return (
        is_whole(value.get("step"), 1)
        and is_finite(value.get("loss_sum"))
        and isinstance(counts, list)
        and len(counts) == 2
        and all(map(is_whole, counts))
    )


def is_random_states(value):
    """Whether generators take these states; tried on generators of no use."""
    if value is None:
        return True
    try:
        version, words, gauss = value["python"]
        random.Random().setstate((version, tuple(words), gauss))
        kind, keys, position, has_gauss, cached = value["numpy"]
        keys = keys.numpy().astype(np.uint32) if keys.shape == (624,) else None
        np.random.RandomState().set_state((kind, keys, position, has_gauss, cached))
        torch.Generator().set_state(value["torch"])
        return "cuda" not in value or value["cuda"].dtype == torch.uint8
    except Exception:  # they refuse in many ways
        return False


# What the keys of a checkpoint hold: (test, in words).
SCHEMA = {
    "epoch": (lambda value: is_whole(value, -1), "a whole number, 0 for the first epoch"),
    "class_avg_iou": (is_number, "a number"),
    "best_iou": (is_number, "a number"),
    "args": (is_options, "the options of a training, plain values by name"),
    "optimizer_state_dict": (is_optimizer_state, "the state dict of an optimiser"),
    "average": (is_average, "averaged weights, as --ema keeps them"),
    "history": (is_history, f"rows of numbers with {', '.join(HISTORY_KEYS)}"),
    "position": (is_position, "the place where an epoch was interrupted, or None"),
    "log_size": (lambda value: value is None or is_whole(value), "a number of bytes"),
    "data": (is_data, "names of sequences with numbers of frames, sizes and bytes"),
    "random": (is_random_states, "the states of the random generators"),
}
