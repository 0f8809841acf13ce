"""What a checkpoint says of itself."""

import math
from dataclasses import dataclass
from pathlib import Path

from utils.several import as_list

WEIGHTS = "model_state_dict"
# What the best checkpoint is selected on.
SELECTIONS = {"test": "test list, as published", "heldout": "held-out training sequences"}


@dataclass(frozen=True)
class Description:
    """What a checkpoint says of itself; None for what it does not say.

    Attributes:
        weights: the state dict of its network.
        args: the options of its training, by their command-line names; empty if not recorded.
            Before there were recipes, all detectors were trained by DeepPro's.
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

    @property
    def trained_on(self):
        """The name of the data set; of several the first, which is the run's own."""
        return as_list(self.args.get("dataset"))[0]

    def is_own(self, dataset, datapath, recorded):
        """Whether a test is on the data that the run was trained on, with its levels.

        Of a kind of data set that anyone may have several of, the name does not tell: it is a
        folder of the same name that records the same levels.

        Args:
            dataset, datapath: what is tested on.
            recorded: [mean, std] that the folder records, or []. None: there is one such data set.
        """
        if recorded is None or self.trained_on != dataset:
            return self.trained_on == dataset
        mine, tested = resolved(self.args.get("datapath"))[0], resolved(datapath)[0]
        levels = as_list(self.args.get("folder_levels"))
        if levels != [None]:
            return mine.name == tested.name and levels == recorded
        # Older runs have the levels they used only, and may be asked from another folder.
        levels = [self.args.get(name) for name in ("mean", "std")]
        return mine == tested or (mine.name == tested.name and levels == recorded)

    def results(self, dataset, datapath, own):
        """For `RunDir.results`: the names of what is tested on and of what was trained on."""
        if not own and self.trained_on == dataset:
            dataset = f"{dataset}_{resolved(datapath)[0].name}"
        return dataset, self.trained_on

    def other_data(self, dataset, folder):
        """Says that a data set has the name of the run's own but is another; None if it has not.

        Args:
            dataset: its name.
            folder: where results go.
        """
        if self.trained_on != dataset:
            return None
        levels = "" if self.args.get("mean") is None else "its grey levels are not taken, "
        return f"trained on other data of this name: {levels}results in {folder}"

    def normalisation(self, path):
        """(mean, std) that the training was given in place of the data set's, or None.

        Args:
            path: of the checkpoint, for messages.

        Raises:
            ValueError: they are no such numbers.
        """
        mean, std = (self.args.get(name) for name in ("mean", "std"))
        if mean is None and std is None:
            return None
        numbers = all(isinstance(value, int | float) for value in (mean, std))
        if not (numbers and math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise ValueError(
                f"{path}: its `args` name mean {mean}, std {std}; expected finite numbers, std "
                "above 0"
            )
        return float(mean), float(std)


def describe(checkpoint):
    """The `Description` of a checkpoint from `utils.checkpoint.load`."""
    epoch = checkpoint.get("epoch")
    epochs = None if epoch is None else epoch + 1
    recorded = checkpoint.get("args") or {}
    args = {"recipe": "deeppro", **recorded} if recorded else {}
    return Description(checkpoint[WEIGHTS], args, epochs)


def resolved(places):
    """One path or several, as a list without links."""
    return [Path(str(place)).resolve() for place in as_list(places)]
