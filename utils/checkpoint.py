"""Checkpoint files: written whole or not at all, read without running code from them.

python -m utils.checkpoint FILE ... removes optimiser state and the like from checkpoints, to share
them: the files are rewritten, and a training cannot go on from them.
"""

import pickle
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from utils.command_line import CommandParser, run_command
from utils.files import write_whole
from utils.training.description import WEIGHTS
from utils.training.schema import check, is_state_dict, shown
from utils.training_state import SHARED_KEYS

# Where other tools keep the weights; else the file is the state dict itself.
WEIGHTS_KEYS = (WEIGHTS, "state_dict", "model", "net")
RECORD_BLOCK = 1 << 20  # bytes that are read at a time to compare a checksum
VARIANCE = "running_var"  # how the keys of BatchNorm's variances end
WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
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
        state: dict of tensors and plain Python values, as `utils.training_state` makes it.

    Raises:
        OSError: it could not be written; what was at `path` is unharmed.
    """
    write_whole(path, lambda file: torch.save(state, file))


def load(path):
    """Reads a checkpoint onto the CPU: a dict as written by `save`.

    A bare state dict, or one under a key of `WEIGHTS_KEYS`, is taken too, and what wrappers put
    before its keys is left out. Only tensors and plain values are read (`weights_only`); a pickle
    that asks for anything else is refused and nothing in it is run. The file's own checksums are
    compared, and what it holds is checked by `utils.training.schema.check`. Other weights in it,
    such as another tool's average, are not taken, which is said.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint, is damaged, holds more than weights and plain values, or
            different weights under several of `WEIGHTS_KEYS`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; train first, or check the name")
    _check_records(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_NUMPY_SCALARS):
            warnings.simplefilter("ignore")  # of formats that are refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
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
    checkpoint = _as_checkpoint(content, path)
    check(checkpoint, path)
    return checkpoint


def load_averaged(path):
    """As `load`, but of a training that averages (--ema) the averaged weights, which is said.

    So it is the same network whether the best checkpoint is asked for or the last.
    """
    return _averaged(load(path), path)


def _averaged(checkpoint, path):
    average = checkpoint.get("average")
    if average is None:
        return checkpoint
    warnings.warn(
        f"{path}: holds the weights of the last step and their average (--ema); the average is "
        "taken, as the best checkpoint has it",
        stacklevel=3,
    )
    return {**checkpoint, WEIGHTS: without_wrappers(average["weights"])}


def load_last(run):
    """What a run continues from: its last checkpoint, or its best where it has no last.

    None where the training ended before its first.

    Args:
        run: `utils.run_dir.RunDir`.
    """
    if run.is_bare():
        return None
    path = run.checkpoint("last")
    return load(path if path.is_file() else run.checkpoint("best"))


def why_unreadable(path):
    """Why a checkpoint cannot be tested, in words; None if it can."""
    try:
        load(path)
    except FileNotFoundError:
        return f"{path.name} is gone"
    except (OSError, ValueError):
        return f"{path.name} cannot be read"
    return None


def _check_records(path):
    """Refuses a file whose records are not what was written; torch itself does not look.

    Since 2020 torch writes a zip archive, its records not compressed, mostly with checksums.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                if record.compress_type != zipfile.ZIP_STORED:  # unpacked it may be of any size
                    raise ValueError(
                        f"{path}: refused, its record {record.filename} is compressed; expected a "
                        "file as torch.save writes it"
                    )
                if record.CRC:
                    with archive.open(record) as content:
                        while content.read(RECORD_BLOCK):
                            pass
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"{path}: damaged, cannot be read as a checkpoint ({_first_line(error)}); expected the "
            "file as it was written: copy or download it again"
        ) from error


def _as_checkpoint(content, path):
    """What a file held, with its weights under `WEIGHTS` and by the network's own keys."""
    found = content if isinstance(content, dict) else {}
    key = next((key for key in WEIGHTS_KEYS if is_state_dict(found.get(key))), None)
    if key is not None:
        weights, others = found[key], {k: v for k, v in found.items() if k != key}
        _check_other_weights(path, key, weights, others)
    elif is_state_dict(content):
        weights, others = content, {}
    else:
        raise ValueError(
            f"{path}: not a checkpoint; expected a state dict, a dict of tensors, or a dict that "
            f"holds one as {' or '.join(WEIGHTS_KEYS)}"
        )
    return {**others, WEIGHTS: without_wrappers(weights)}


def _check_other_weights(path, key, weights, others):
    """Refuses a second place of the weights that holds others; tells of such under other keys."""
    weights = without_wrappers(weights)
    for other, value in others.items():
        if not is_state_dict(value):
            continue
        own = without_wrappers(value)
        if _are_equal(weights, own):
            continue
        if other in WEIGHTS_KEYS and weights.keys() & own.keys():
            raise ValueError(
                f"{path}: different weights under `{key}` and `{other}`; expected one state dict: "
                "save the one that is meant to a file of its own"
            )
        if other in WEIGHTS_KEYS or weights.keys() & own.keys():
            warnings.warn(
                f"{path}: the weights under `{key}` are taken; those under {shown(other)} are "
                "others: to use them save them to a file of their own",
                stacklevel=4,
            )


def _are_equal(weights, others):
    if weights.keys() != others.keys():
        return False
    try:
        return all(torch.equal(value, others[key]) for key, value in weights.items())
    except RuntimeError:  # of types that cannot be compared
        return False


def without_wrappers(weights):
    """A state dict whose keys do not begin with what a wrapper of the network put there."""
    for wrapper in WRAPPERS * 2:
        if weights and all(key.startswith(wrapper) for key in weights):
            weights = {key.removeprefix(wrapper): value for key, value in weights.items()}
    return weights


def strip(path):
    """Rewrites a checkpoint without what only a continued training needs.

    What is left tests as before and is a third of the size: weights, epoch, IoU, arguments. Of a
    training that averages the averaged weights are left, see `load_averaged`.

    Returns:
        A line that says what was done. Where there is nothing to remove the file stays as it is.
    """
    checkpoint = load(path)
    removed = [key for key in checkpoint if key not in SHARED_KEYS]
    if not removed:
        return f"{path}: unchanged, there is nothing to remove"
    size, checkpoint = Path(path).stat().st_size, _averaged(checkpoint, path)
    kept = {key: checkpoint[key] for key in SHARED_KEYS if key in checkpoint}
    save(path, kept)
    names = ", ".join(key if isinstance(key, str) else shown(key) for key in removed)
    line = f"{path}: {_kib(size)} before, {_kib(Path(path).stat().st_size)} now; kept "
    line += f"{', '.join(kept)}; removed {names}"
    if "optimizer_state_dict" in removed:
        line += "; it can be tested and started from, but its training cannot go on"
    return line


def _kib(size):
    return f"{size / 1024:,.0f} KiB"


def load_weights(model, checkpoint, name, path):
    """Loads a checkpoint's weights strictly.

    Args:
        model: the `models.detector.Detector` to load into.
        checkpoint: from `load`.
        name: the model's name, for messages.
        path: where the checkpoint came from, for messages.

    Raises:
        ValueError: the weights are of another network or another clip length, no numbers, or such
            as no training makes.
    """
    weights, expected = checkpoint[WEIGHTS], model.state_dict()
    if weights.keys() != expected.keys():
        odd = sorted(weights.keys() ^ expected.keys())[0]
        raise ValueError(
            f"{path}: weights of another network: {len(weights)} tensors where {name} has "
            f"{len(expected)}, first difference {odd!r}; expected a checkpoint of {name}"
        )
    seqlen = type(model).clip_length(weights)
    if seqlen not in (None, model.seqlen):
        raise ValueError(
            f"{path}: made for clips of {seqlen} frames, but clips of {model.seqlen} were asked "
            f"for; use --seqlen {seqlen}"
        )
    for key, tensor in expected.items():
        if weights[key].shape != tensor.shape:
            raise ValueError(
                f"{path}: {key} is {tuple(weights[key].shape)} where {name} has "
                f"{tuple(tensor.shape)}; expected a checkpoint of {name} for clips of "
                f"{model.seqlen} frames"
            )
        if weights[key].is_floating_point() != tensor.is_floating_point():
            raise ValueError(
                f"{path}: {key} is of type {weights[key].dtype} where {name} has {tensor.dtype}; "
                f"expected a checkpoint of {name}"
            )
        value = weights[key].to(tensor.dtype)
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: {key} holds NaN or infinite numbers; expected weights")
        if key.endswith(VARIANCE) and (value < 0).any():
            raise ValueError(f"{path}: {key} holds numbers below 0; expected variances")
    model.load_state_dict(weights)


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(". ")


def main(argv=None):
    parser = CommandParser(
        prog="-m utils.checkpoint",
        description="Removes from checkpoints what only a continued training needs.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a checkpoint, which is rewritten")
    for path in parser.parse_args(argv).files:
        print(strip(path))


if __name__ == "__main__":
    run_command(main)
