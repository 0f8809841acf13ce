"""Checkpoints: written whole or not at all, read without running code from them.

python -m utils.checkpoint FILE ... removes optimiser state and the like from checkpoints, to share
them.
"""

import pickle
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from utils.files import write_whole

# The released checkpoints hold a numpy float64; these types build one without running code.
_NUMPY_SCALARS = [
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    np._core.multiarray.scalar,
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
]


def save(path, state):
    """Writes a checkpoint to a temporary file beside `path`, then renames it.

    Args:
        path: the checkpoint's place.
        state: dict of tensors and plain Python values: `epoch` (0-based), `model_state_dict`,
            `optimizer_state_dict`, `args`, and `class_avg_iou` for the best.

    Raises:
        OSError: it could not be written; what was at `path` is unharmed.
    """
    write_whole(path, lambda file: torch.save(state, file))


def load(path):
    """Reads a checkpoint onto the CPU; a plain dict as written by `save`.

    Only tensors and plain values are read (`weights_only`); a pickle that asks for anything else
    is refused and nothing in it is run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint, or holds more than weights and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; train first, or check --log_dir")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_NUMPY_SCALARS):
            warnings.simplefilter("ignore")  # of formats that are refused below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Not torch's own message, which advises to load the file without this protection.
        asked = re.search(r"(?:GLOBAL|global|class) ([\w.]+\.[\w.]+)", str(error))
        reason = f"it asks for {asked[1]}" if asked else "it is no checkpoint"
        raise ValueError(
            f"{path}: refused, {reason}; expected weights and plain values only, as train.py "
            "writes them"
        ) from error
    except Exception as error:  # damaged files fail in torch in many ways
        raise ValueError(
            f"{path}: cannot be read as a checkpoint ({_first_line(error)}); "
            "expected a file written by train.py"
        ) from error
    if not _is_checkpoint(state):
        raise ValueError(
            f"{path}: not a checkpoint; expected a dict with `model_state_dict`, a dict of tensors"
        )
    return state


def _is_checkpoint(state):
    weights = state.get("model_state_dict") if isinstance(state, dict) else None
    if not isinstance(weights, dict) or not isinstance(state.get("args", {}), dict | None):
        return False
    return all(isinstance(k, str) and torch.is_tensor(v) for k, v in weights.items())


def strip(path):
    """Rewrites a checkpoint without what only a continued training needs.

    What is left tests as before and is a third of the size: weights, epoch, IoU, arguments.
    """
    kept = ("epoch", "class_avg_iou", "model_state_dict", "args")
    state = load(path)
    save(path, {key: state[key] for key in kept if key in state})


def load_weights(model, state, name, path):
    """Loads a checkpoint's weights strictly.

    Args:
        model: the network to load into, with an attribute `seqlen`.
        state: from `load`.
        name: the model's name, for messages.
        path: where the checkpoint came from, for messages.

    Raises:
        ValueError: the weights are of another network or another clip length.
    """
    weights = state["model_state_dict"]
    expected = model.state_dict()
    seqlen = clip_length(weights)
    if weights.keys() != expected.keys():
        odd = sorted(weights.keys() ^ expected.keys())[0]
        raise ValueError(
            f"{path}: weights of another network: {len(weights)} tensors where {name} has "
            f"{len(expected)}, first difference {odd!r}; expected a checkpoint of {name}"
        )
    if seqlen != model.seqlen:
        raise ValueError(
            f"{path}: made for clips of {seqlen} frames, but clips of {model.seqlen} were asked "
            f"for; use --seqlen {seqlen}"
        )
    for key, tensor in expected.items():
        if weights[key].shape != tensor.shape:
            raise ValueError(
                f"{path}: {key} is {tuple(weights[key].shape)} where {name} has "
                f"{tuple(tensor.shape)}; expected a checkpoint of {name}"
            )
    model.load_state_dict(weights)


def clip_length(weights):
    """T of the network with these weights, from a probe's T x T matrix; None without a probe."""
    for key, tensor in weights.items():
        if "QK_heads" in key and key.endswith("weight") and tensor.dim() == 2:
            return tensor.shape[0]
    return None


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(". ")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        strip(argument)
