"""What a training needs to go on as if it had never stopped, and what its checkpoints hold.

The keys of a checkpoint are known here; what each may hold, to `utils.training.schema`.
"""

import math
import random
from pathlib import Path

import numpy as np
import torch

from utils.several import as_list
from utils.training.description import WEIGHTS, describe, resolved

# What the published checkpoints hold, with `class_avg_iou` in the best.
PUBLISHED_KEYS = ("epoch", WEIGHTS, "optimizer_state_dict")
SHARED_KEYS = ("epoch", "class_avg_iou", WEIGHTS, "args")  # what a test needs
# What a saved optimiser gives to another of its kind, unless an option says otherwise now.
OPTIMIZER_SETTINGS = ("lr", "betas", "eps", "weight_decay", "momentum")
SETTING_OF_OPTION = {"beta2": "betas", "decay_rate": "weight_decay"}
OPTIMIZER_VALUES = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.SGD: {"momentum_buffer"},
}
FIXED_OPTIONS = ("select", "optimizer", "recipe")  # of a run that is continued
# Of validations whose IoUs can be compared.
SELECTION_OPTIONS = ("dataset", "datapath", "select", "threshold_eval")
NORMALISATION_OPTIONS = ("mean", "std")  # likewise; None where they are the data set's
# Say which clips a step takes, and what the numbers are that an epoch adds up.
EPOCH_OPTIONS = (
    *("batch_size", "sample_rate", "seed", "seqlen", "patch_size"),
    *("augment", "crops", "hard_crops", "flips", "turns"),
    *("loss", "empty_clips", "exclude_padding", "threshold_eval", *NORMALISATION_OPTIONS),
)
# Options that older checkpoints do not record.
ONCE_WITHOUT = {"hard_crops": 1, "empty_clips": 0, "exclude_padding": False}


class TrainingState:
    """How far a training has come, and the parts whose values make it up.

    Args:
        model, optimizer: what is trained; their values are read when a checkpoint is made.
        average: `utils.training.trainer.MovingAverage`, or None.
        options: the command line's, as plain values.
        data: what is trained on: [name, number of frames, their height and width, bytes of all
            files] of every sequence; older checkpoints have the first two.

    Attributes:
        epoch: the last one that ended, 0-based; -1 before the first has.
        best_iou: the best IoU of the validations so far.
        history: a row of numbers for each epoch.
        position: where an epoch was interrupted, as `Trainer.train_epoch` gives it, or None.
        log_size: bytes of the log when the last epoch ended; None if not known.
    """

    def __init__(self, model, optimizer, average, options, data=()):
        self.model, self.optimizer, self.average = model, optimizer, average
        self.options, self.data, self.restored = options, list(data), False
        self.anew = None  # why the best IoU is not that of the checkpoint
        self.from_best = False  # whether the last checkpoint is gone
        self.epoch, self.best_iou = -1, -math.inf
        self.history, self.position, self.log_size = [], None, 0

    def describe_start(self, name, weights=None, levels=None):
        """Where the training of the run of this name starts, or that it does from weights.

        Args:
            name: of the run.
            weights: the checkpoint they are of, or None.
            levels: the (mean, std) of grey levels that this one records, or None.
        """
        if not self.restored:
            if weights is not None:
                own = "" if levels is None else ", of frames of mean {:.6g} and std {:.6g}"
                return f"Starting from the weights of {weights}{own.format(*levels or ())}"
            return "No existing model, starting training from scratch..."
        step = f", step {self.position['step']} of the next" if self.position else ""
        if self.from_best:
            step = " from its best checkpoint: there is no last_model.pth"
        best = f"best IoU {self.best_iou:f}"
        if self.anew:
            best = f"the best checkpoint is sought anew: {self.anew}"
        return f"Continuing {name} after epoch {self.epoch + 1}{step}, {best}"

    def doubts(self, checkpoint):
        """What of the data is not as it was when the run stopped, though it may go on: lines."""
        before = describe(checkpoint).args if checkpoint else {}
        yield from self._other_files(checkpoint)
        levels = [
            [options.get(name) for name in ("mean", "std")] for options in (before, self.options)
        ]
        places = [resolved(options.get("datapath")) for options in (before, self.options)]
        if None not in levels[0] and levels[0] == levels[1] and places[0] != places[1]:
            mean, std = levels[0]
            yield (
                f"Other data, but mean {mean:.6g} and std {std:.6g} as the run had; others by "
                "--mean and --std or --normalise-as"
            )

    def _other_files(self, checkpoint):
        """Says where an interrupted epoch goes on with files of other sizes."""
        if not self.position:
            return
        pairs = zip(checkpoint.get("data") or self.data, self.data, strict=True)
        others = [now[0] for was, now in pairs if len(was) > 4 and was[4] != now[4]]
        if others:
            yield (
                f"The run stopped within an epoch, whose other clips are of files of other sizes: "
                f"{len(others)} of {len(self.data)} sequences, {others[0]} for one. If they are "
                "not the same images, start a new run"
            )

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
            "data": self.data,
            "args": self.options,
            "random": random_states(),
        }

    def restore(self, checkpoint, path, best_is=None):
        """Goes on from a checkpoint, whose weights the model already has.

        Args:
            checkpoint: from `utils.checkpoint.load`.
            path: of the run, for messages.
            best_is: why its best checkpoint cannot be read, which is then sought anew; or None.

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
            recorded = describe(checkpoint).args
            changed = {
                setting
                for option, setting in SETTING_OF_OPTION.items()
                if recorded.get(option) not in (None, self.options.get(option))
            }
            restore_optimizer(self.optimizer, checkpoint["optimizer_state_dict"], changed)
            if self.average is not None:
                self.average.restore(checkpoint["average"])
        except ValueError as error:
            raise ValueError(
                f"{path}: its last checkpoint cannot be continued with these options ({error})"
            ) from error
        if checkpoint.get("random"):
            restore_random_states(checkpoint["random"])
        self.restored, self.from_best = True, "class_avg_iou" in checkpoint
        self.epoch, self.position = int(checkpoint["epoch"]), checkpoint.get("position")
        self.history = list(checkpoint.get("history", ()))
        self.log_size = checkpoint.get("log_size")
        best = checkpoint.get("best_iou", checkpoint.get("class_avg_iou", -math.inf))
        if best > -math.inf:
            self.anew = self._selection_changed(checkpoint) or best_is
        self.best_iou = -math.inf if self.anew else float(best)

    def _selection_changed(self, checkpoint):
        """How the IoUs so far were found otherwise than those to come, in words, or None."""
        recorded = describe(checkpoint).args
        for name in SELECTION_OPTIONS:
            before, now = recorded.get(name), self.options.get(name)
            if before is None:
                return f"the checkpoint does not record its --{name}"
            if name == "datapath":
                before, now = map(resolved, (before, now))
            if before != now:
                return f"--{name} was {_told(before)}"
        for name in NORMALISATION_OPTIONS:
            before, now = recorded.get(name), self.options.get(name)
            if before != now:
                return f"--{name} was {'not given' if before is None else _told(before)}"
        return None

    def _refuse_changes(self, checkpoint, path):
        recorded, now = describe(checkpoint).args, self.options
        for name in FIXED_OPTIONS + (("seed",) if now["select"] == "heldout" else ()):
            if recorded.get(name) not in (None, now[name]):
                raise ValueError(
                    f"{path}: was trained with --{name} {_told(recorded[name])} and cannot go on "
                    f"with {now[name]}; start a new run for it"
                )
        if not checkpoint.get("position"):
            return
        recorded, now = {**ONCE_WITHOUT, **recorded}, {**ONCE_WITHOUT, **now}
        changed = [name for name in EPOCH_OPTIONS if recorded.get(name) != now.get(name)]
        if changed:
            raise ValueError(
                f"{path}: it stopped within an epoch, which cannot go on with another "
                f"--{changed[0]} than {_told(recorded.get(changed[0]))}"
            )
        before = checkpoint.get("data") or self.data
        difference = _difference(before, self.data)
        if difference is not None:
            was, is_now = difference
            raise ValueError(
                f"{path}: it stopped within an epoch, which cannot go on with other data: "
                f"{was} then, {is_now} now"
            )


def _difference(before, now):
    """How other data differ, in words (then, now); None where only their files' bytes may."""
    if [list(row[:2]) for row in before] != [list(row[:2]) for row in now]:
        return [f"{len(d)} sequences, {sum(row[1] for row in d)} frames" for d in (before, now)]
    for pair in zip(before, now, strict=True):
        sizes = [f"frames of {row[2]}x{row[3]} in {row[0]}" for row in pair if len(row) > 2]
        if len(set(sizes)) > 1:
            return sizes
    return None


def _told(value):
    """An option's value, or values, on one line."""
    if value is None:
        return "none given"
    return " ".join(" ".join(map(str, as_list(value))).split())


def plain(options):
    """Options of the command line as values that a checkpoint may hold."""
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in options.items()
    }


def restore_optimizer(optimizer, state, changed=()):
    """Gives an optimiser the values of a saved state; how it computes stays its own.

    Args:
        changed: of `OPTIMIZER_SETTINGS`, those that stay its own, too.

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
        if name in group and saved.get(name) is not None and name not in changed
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
