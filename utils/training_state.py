"""What a training needs to go on as if it had never stopped, and what its checkpoints hold.

This is the only place that knows the keys of a checkpoint, save that of the weights, which
`utils.checkpoint` finds.
"""

import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

WEIGHTS = "model_state_dict"
# What the published checkpoints hold, with `class_avg_iou` in the best.
PUBLISHED_KEYS = ("epoch", WEIGHTS, "optimizer_state_dict")
SHARED_KEYS = ("epoch", "class_avg_iou", WEIGHTS, "args")  # what a test needs
# What a saved optimiser gives to another of its kind.
OPTIMIZER_SETTINGS = ("lr", "betas", "eps", "weight_decay", "momentum")
OPTIMIZER_VALUES = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.SGD: {"momentum_buffer"},
}
FIXED_OPTIONS = ("select", "optimizer")  # of a run that is continued
# What the best checkpoint is selected on.
SELECTIONS = {"test": "test list, as published", "heldout": "held-out training sequences"}
HISTORY_KEYS = ("epoch", "learning_rate", "train_loss", "train_iou", "val_loss", "val_iou")
LONGEST_SHOWN = 60  # characters of a wrong value in a message
LARGEST = 2**53  # number that is believed
EPOCH_OPTIONS = ("batch_size", "sample_rate", "seed", "seqlen")  # say which clips a step takes


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


@dataclass(frozen=True)
class Description:
    """What a checkpoint says of itself; None for what it does not say.

    Attributes:
        weights: the state dict of its network.
        args: the options of its training, by their command-line names; empty if not recorded.
        epochs: number of epochs trained.
    """

    weights: dict
    args: dict
    epochs: int | None

    @property
    def selected(self):
        """Which epoch it is of and what it was selected on, in words."""
        select = self.args.get("select")
        if select is None:
            return None
        epoch = "" if self.epochs is None else f"epoch {self.epochs}, "
        return f"{epoch}selected on the {SELECTIONS.get(select, select)}"


def describe(checkpoint):
    """The `Description` of a checkpoint from `utils.checkpoint.load`."""
    epoch = checkpoint.get("epoch")
    epochs = None if epoch is None else epoch + 1
    return Description(checkpoint[WEIGHTS], checkpoint.get("args") or {}, epochs)


class TrainingState:
    """How far a training has come, and the parts whose values make it up.

    Args:
        model, optimizer: what is trained; their values are read when a checkpoint is made.
        average: `utils.training.trainer.MovingAverage`, or None.
        options: the command line's, as plain values.

    Attributes:
        epoch: the last one that ended, 0-based; -1 before the first has.
        best_iou: the best IoU of the validations so far.
        history: a row of numbers for each epoch.
        position: where an epoch was interrupted, as `Trainer.train_epoch` gives it, or None.
        log_size: bytes of the log when the last epoch ended; None if not known.
    """

    def __init__(self, model, optimizer, average, options):
        self.model, self.optimizer, self.average = model, optimizer, average
        self.options, self.restored = options, False
        self.epoch, self.best_iou = -1, -math.inf
        self.history, self.position, self.log_size = [], None, None

    def describe_start(self, name):
        """Where the training of the run of this name starts, in words."""
        if not self.restored:
            return "No existing model, starting training from scratch..."
        step = f", step {self.position['step']} of the next" if self.position else ""
        return f"Continuing {name} after epoch {self.epoch + 1}{step}, best IoU {self.best_iou:f}"

    def published(self, iou=None):
        """A numbered checkpoint; with the `iou` of its validation, the best one."""
        weights = self.model.state_dict() if self.average is None else self.average.weights
        values = self.epoch, weights, self.optimizer.state_dict()
        best = {} if iou is None else {"class_avg_iou": iou}
        return {**dict(zip(PUBLISHED_KEYS, values, strict=True)), "args": self.options, **best}

    def last(self):
        """What the training continues from."""
        averaged = {} if self.average is None else {"average": self.average.state()}
        return {
            "epoch": self.epoch,
            WEIGHTS: self.model.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            **averaged,
            "position": self.position,
            "best_iou": self.best_iou,
            "history": self.history,
            "log_size": self.log_size,
            "args": self.options,
            "random": random_states(),
        }

    def restore(self, checkpoint, path):
        """Goes on from a checkpoint, whose weights the model already has.

        Args:
            checkpoint: from `utils.checkpoint.load`.
            path: of the run, for messages.

        Raises:
            ValueError: it has nothing to continue with, or was trained with options that cannot
                change.
        """
        needed = ["epoch", "optimizer_state_dict"] + (["average"] if self.average else [])
        missing = [key for key in needed if checkpoint.get(key) is None]
        if missing:
            raise ValueError(
                f"{path}: its last checkpoint cannot be continued with these options: it has no "
                f"`{missing[0]}`; expected the optimiser's state, and --ema as before"
            )
        self._refuse_changes(checkpoint, path)
        try:
            restore_optimizer(self.optimizer, checkpoint["optimizer_state_dict"])
            if self.average is not None:
                self.average.restore(checkpoint["average"])
        except ValueError as error:
            raise ValueError(
                f"{path}: its last checkpoint cannot be continued with these options ({error})"
            ) from error
        if checkpoint.get("random"):
            restore_random_states(checkpoint["random"])
        self.restored = True
        self.epoch, self.position = int(checkpoint["epoch"]), checkpoint.get("position")
        self.history = list(checkpoint.get("history", ()))
        self.log_size = checkpoint.get("log_size")
        best = checkpoint.get("best_iou", checkpoint.get("class_avg_iou", -math.inf))
        self.best_iou = float(best)

    def _refuse_changes(self, checkpoint, path):
        recorded, now = describe(checkpoint).args, self.options
        for name in FIXED_OPTIONS + (("seed",) if now["select"] == "heldout" else ()):
            if recorded.get(name) not in (None, now[name]):
                raise ValueError(
                    f"{path}: was trained with --{name} {recorded[name]} and cannot go on with "
                    f"{now[name]}; start a new run for it"
                )
        changed = [name for name in EPOCH_OPTIONS if recorded.get(name) != now[name]]
        if checkpoint.get("position") and changed:
            raise ValueError(
                f"{path}: it stopped within an epoch, which cannot go on with another "
                f"--{changed[0]} than {recorded.get(changed[0])}"
            )


def plain(options):
    """Options of the command line as values that a checkpoint may hold."""
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in options.items()
    }


def restore_optimizer(optimizer, state):
    """Gives an optimiser the values of a saved state; how it computes stays its own.

    Raises:
        ValueError: it is of another optimiser, or of other parameters.
    """
    own = optimizer.state_dict()
    (group,), (saved,) = own["param_groups"], state["param_groups"]
    parameters = optimizer.param_groups[0]["params"]
    kept = OPTIMIZER_VALUES[type(optimizer)]
    known = range(len(parameters))
    if saved["params"] != list(known) or not state["state"].keys() <= set(known):
        raise ValueError("the optimiser's state is of other parameters")
    for index, values in state["state"].items():
        if values.keys() != kept:
            raise ValueError("the optimiser's state is of another optimiser")
        for name, value in values.items():
            if name != "step" and value.shape != parameters[index].shape:
                raise ValueError("the optimiser's state is of other parameters")
    settings = {
        name: saved[name]
        for name in OPTIMIZER_SETTINGS
        if name in group and saved.get(name) is not None
    }
    optimizer.load_state_dict(
        {
            "state": state["state"],
            "param_groups": [{**group, **settings, "params": saved["params"]}],
        }
    )


def random_states():
    """The states of all global random generators, as plain values and tensors."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    states = {
        "python": [version, list(words), gauss],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states):
    """Sets the generators to what `random_states` gave."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


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
    kinds = str | bool | int | float | None
    if value is None:
        return True
    return isinstance(value, dict) and all(
        isinstance(k, str) and isinstance(v, kinds) for k, v in value.items()
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
    "random": (is_random_states, "the states of the random generators"),
}
