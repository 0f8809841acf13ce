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
FIXED_OPTIONS = ("select", "optimizer")  # of a run that is continued
# What the best checkpoint is selected on.
SELECTIONS = {"test": "test list, as published", "heldout": "held-out training sequences"}
EPOCH_OPTIONS = ("batch_size", "sample_rate", "seed", "seqlen")  # say which clips a step takes


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
        if not isinstance(select, str) or select not in SELECTIONS:
            return None
        return f"epoch {self.epochs}, selected on the {SELECTIONS[select]}"


def describe(checkpoint):
    """The `Description` of a checkpoint from `utils.checkpoint.load`."""
    epoch = checkpoint.get("epoch")
    epochs = epoch + 1 if isinstance(epoch, int) else None  # other tools keep other things there
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
            ValueError: it has no optimiser or number of epochs to continue with, or was trained
                with options that cannot change.
        """
        self._refuse_changes(checkpoint, path)
        try:
            self.optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
            if self.average is not None:
                self.average.restore(checkpoint["average"])
            if checkpoint.get("random"):
                restore_random_states(checkpoint["random"])
            self.epoch, self.position = describe(checkpoint).epochs - 1, checkpoint.get("position")
            self.history = list(checkpoint.get("history", ()))
            self.log_size = checkpoint.get("log_size")
            self.best_iou = float(
                checkpoint.get("best_iou", checkpoint.get("class_avg_iou", -math.inf))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: its last checkpoint cannot be continued with these options "
                f"({error}); expected the optimiser's state, and --ema as before"
            ) from error
        self.restored = True

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
