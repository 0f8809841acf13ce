"""Run folders: their names, the paths inside, log files. The only code that builds run paths."""

import itertools
import logging
import os
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from utils.files import hold, sweep
from utils.tracks.options import wants_tracks

LOG_FORMAT = "%(asctime)s - Model - %(levelname)s - %(message)s"
# What the test at the end of a training writes, in this order.
RESULTS = ("eval.txt", "metrics.json", "report.html")
# Of a run's folder, see `run_name`; a second run of the same minute has a number behind it.
RUN_NAME = re.compile(
    r"(?P<dataset>.+?)__[-\d]+_[-\d]+__(?P<tag>[^_]+)_(?P<model>.+)_DataL(?P<seqlen>\d+)(_\d+)?"
)


class Included(NamedTuple):
    """A run that is part of this repository.

    Attributes:
        name: of its folder.
        trained_on: in words.
        stabilise: whether the frames it is used on are laid on each other first.
        min_score, min_area: of tracks, see `utils.tracks.options`.
        mark_reach: of detections, and of those of tracks.
    """

    name: str
    trained_on: str
    stabilise: bool = False
    min_score: float | None = None
    min_area: int | None = None
    mark_reach: tuple | None = None

    def complete(self, given):
        """Sets what was not given of a test's options: how it was meant to be used."""
        if given.stabilise is None:
            given.stabilise = self.stabilise and not given.attribution
        for name in ("min_score", "min_area"):
            if wants_tracks(given) and getattr(given, name) is None:
                setattr(given, name, getattr(self, name))
        if given.mark_reach is None:
            given.mark_reach = self.mark_reach

    def line(self, given):
        """Says that it is used, and how, by the options of the test."""
        words = f"{self.name}, which comes with this code, trained on {self.trained_on}"
        if given.log_dir is None:
            words = f"No --log_dir: {words}"
        if given.stabilise:
            words += "; frames are laid on each other first (--no-stabilise: they are not)"
        if given.min_score:
            words += f"; of a track the highest score is {given.min_score:g} or more (--min_score)"
        if (given.min_area or 1) > 1:
            words += f"; its detections have {given.min_area} pixels or more (--min_area)"
        if given.mark_reach:
            reach = f"{given.mark_reach[0]:g} px from their centroids"
            if wants_tracks(given):
                reach += f", of tracks {given.mark_reach[-1]:g} px"
            words += f"; marks of detections reach {reach} (--mark_reach)"
        return words


_FOR_FOOTAGE = Included(
    "Converted__2026-11-26_23-12__SoftLoUloss_DeepPro-Plus_DataL40",
    "93 infrared videos of drones, aircraft, helicopters and birds, of 256x320 pixels and 8 bits, "
    "and the generated data set",
    stabilise=True,
    min_score=0.9975,
    min_area=3,
    mark_reach=(3, 1.75),
)
# By data set.
INCLUDED = {
    "Synthetic": Included(
        "Synthetic__2026-11-22_20-49__SoftLoUloss_DeepPro-Plus_DataL40",
        "the generated data set",
    ),
    "Frames": _FOR_FOOTAGE,
    "Converted": _FOR_FOOTAGE,
}
# The tag of soft IoU is the released runs' spelling.
LOSS_TAGS = {"SoftIoU": "SoftLoUloss"}


@dataclass(frozen=True)
class RunDir:
    """Paths of one run: `<savepath>/sem_seg/<name>/`."""

    path: Path

    @property
    def name(self):
        return self.path.name

    @property
    def logpath(self):
        """Where `find_run` finds the run by its name."""
        return self.path.parent.parent

    def checkpoint(self, which):
        """`which`: "best", "last", or the number of an epoch."""
        stem = which if isinstance(which, str) else f"epoch_{which}"
        return self.path / "checkpoints" / f"{stem}_model.pth"

    def log_file(self, model):
        return self.path / "logs" / f"{model}.txt"

    @property
    def history(self):
        """One JSON line an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def curves(self):
        return self.path / "curves.png"

    @property
    def events(self):
        """Folder of TensorBoard's events."""
        return self.path / "events"

    def is_tested(self):
        """Whether the results are whole, and of the best checkpoint: all written after it.

        Raises:
            FileNotFoundError: there is no best checkpoint.
        """
        best = self.checkpoint("best")
        if not best.is_file():
            others = sorted(best.parent.glob("epoch_*.pth"), key=lambda path: path.stat().st_mtime)
            tested = f", or test.py with --weights {others[-1]}" if others else ""
            raise FileNotFoundError(
                f"{best}: is gone, and the training has ended; expected --epoch with more epochs, "
                f"of which the best is kept again{tested}"
            )
        files = [self.path / name for name in RESULTS]
        if not all(file.is_file() for file in files):
            return False
        return all(file.stat().st_mtime >= best.stat().st_mtime for file in files)

    def results(self, dataset, own=None):
        """Where the results of a test on a data set go: those on another than the run's aside.

        Args:
            dataset: its name.
            own: the name of that which the run was trained on; the folder's name tells it if None.
        """
        own = own or self.options().get("dataset")
        return self.path if own in (None, dataset) else self.path / dataset

    def is_bare(self):
        """Whether its training ended before there was a checkpoint."""
        folders = self.path / "checkpoints", self.path / "logs"
        return all(map(Path.is_dir, folders)) and not any(folders[0].glob("*.pth"))

    def options(self):
        """What the folder's name tells of the training's options, by their names."""
        found = RUN_NAME.fullmatch(self.name)
        if found is None:
            return {}
        losses = {tag: loss for loss, tag in LOSS_TAGS.items()}
        loss = losses.get(found["tag"], found["tag"].removesuffix("loss"))
        return {**found.groupdict(), "loss": loss}

    def sweep(self):
        """Removes what a killed training left half-written."""
        for path in (self.history, self.curves, *(self.path / "checkpoints").glob("*.pth")):
            sweep(path)
        for which in ("best", "last"):
            sweep(self.checkpoint(which))


def run_name(dataset, when, loss, model, seqlen):
    """Name of a run's folder: `<dataset>__<date>__<loss tag>_<model>_DataL<seqlen>`.

    Args:
        dataset, loss, model, seqlen: as given on the command line.
        when: `datetime` of the start.
    """
    tag = LOSS_TAGS.get(loss, f"{loss}loss")
    return f"{dataset}__{when:%Y-%m-%d_%H-%M}__{tag}_{model}_DataL{seqlen}"


def new_run(savepath, name):
    """Makes a run folder of its own: a second run of the same minute gets a suffix.

    Raises:
        OSError: it cannot be made; the message has its name.
    """
    base = make_folder(Path(savepath) / "sem_seg")
    for number in itertools.count(1):
        path = base / (name if number == 1 else f"{name}_{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise OSError(f"{path}: the folder cannot be made ({error.strerror})") from error
        for folder in ("checkpoints", "logs"):
            make_folder(path / folder)
        return RunDir(path)


def find_run(logpath, log_dir):
    """The run folder `<logpath>/sem_seg/<log_dir>`; `log_dir` may also be a path to a run.

    Raises:
        FileNotFoundError: there is none; the message names the runs that exist.
    """
    base = Path(logpath) / "sem_seg"
    for path in (base / log_dir, Path(log_dir)):
        if str(log_dir) and path.is_dir():  # an empty name would be the folder of all
            return RunDir(path.resolve() if path == Path(".") else path)
    runs = sorted(path.name for path in base.iterdir() if path.is_dir()) if base.is_dir() else []
    known = ", ".join(runs) if runs else "none"
    named = base / log_dir if str(log_dir) else "--log_dir ''"
    raise FileNotFoundError(f"{named}: no such run; runs in {base}: {known}")


def included_run(dataset):
    """The run that comes with this code for a data set.

    Raises:
        ValueError: there is none, so that the run has to be named.
    """
    if dataset not in INCLUDED:
        raise ValueError(
            f"--log_dir is missing: expected the run to test, or --weights FILE; a run comes "
            f"with this code for --dataset {' or '.join(INCLUDED)} only"
        )
    return find_run(Path(__file__).resolve().parent.parent / "log", INCLUDED[dataset].name)


def starting_weights(text):
    """The file of weights that a training names: a path, or "included": those for real footage."""
    if text != "included":
        return Path(text).absolute()  # so that no file is recorded by that word
    if Path(text).exists():
        warnings.warn("--weights included: those of this code; ./included: the file", stacklevel=2)
    return included_run("Converted").checkpoint("best")


def find_runs(logpath, names, dataset, output):
    """The runs that a test names; where it names none, that which comes with this code.

    Args:
        logpath, names: as `find_run` takes them; names may be None.
        dataset: that is tested on.
        output: where all write to, in a folder each, or None.

    Raises:
        FileNotFoundError: see `find_run`.
        ValueError: none is named, and none comes with this code; or two would write to one folder.
    """
    if names is None:
        return [included_run(dataset)]
    runs = [find_run(logpath, name) for name in names]
    if output is not None and len({run.name for run in runs}) < len(runs):
        raise ValueError(
            f"--output {output}: two runs would write to one folder of it; expected runs of "
            "different names"
        )
    return runs


def find_included(runs, dataset):
    """The `Included` that a list of runs is, named or not; None where it is another or several."""
    included = INCLUDED.get(dataset)
    if included is None or [run.name for run in runs] != [included.name]:
        return None
    return included if runs[0].path.resolve() == included_run(dataset).path.resolve() else None


def find_model_name(run, recorded, names):
    """Which model a run is of: from its checkpoint, else its log file, else the folder's name.

    Args:
        run: `RunDir`.
        recorded: the options that the checkpoint was trained with, or None.
        names: the known models.

    Raises:
        ValueError: none of these tells.
    """
    model = recorded.get("model") if recorded else None
    if isinstance(model, str) and model in names:
        return model
    logged = [path.stem for path in (run.path / "logs").glob("*.txt") if path.stem in names]
    if len(logged) == 1:
        return logged[0]
    longest_first = sorted(names, key=len, reverse=True)
    named = [name for name in longest_first if f"_{name}_DataL" in run.name]
    if named:
        return named[0]
    raise ValueError(
        f"{run.path}: neither the checkpoint, nor logs/, nor the folder's name tells the model; "
        f"expected one of {', '.join(names)}"
    )


def make_folder(path):
    """Makes a folder that can be written to, with its parents.

    Raises:
        OSError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{path}: the folder cannot be made ({error.strerror})") from error
    if not os.access(path, os.W_OK):
        raise PermissionError(f"{path}: the folder cannot be written to; choose another place")
    return path


def check_apart(output, data):
    """Refuses results in the folder of own footage, whose next test would read them as frames.

    Raises:
        ValueError: the place for results is in the folder of the data, or is it.
    """
    place, root = (Path(os.path.realpath(path)) for path in (output, data))
    if root.is_dir() and (place == root or root in place.parents):
        raise ValueError(
            f"--output {output}: lies in --datapath {data}; expected another place: the next test "
            "would take pictures there for frames"
        )


class RunLog:
    """Writes each line to a run's log file, in the published format, and to the terminal.

    Whoever writes the log holds the run: no other process can, until this one ends.

    Args:
        path: of the file, which is appended to.
        active: whether this process writes; of several, one does.

    Raises:
        ValueError: another process writes it.
    """

    def __init__(self, path, active=True):
        self.path, self.active, self.handler = Path(path), active, None
        if not active:
            return
        make_folder(self.path.parent)
        self.handler = logging.FileHandler(self.path, encoding="utf-8")
        if not hold(self.handler.stream):
            self.handler.close()
            raise ValueError(
                f"{self.path}: another process is training in this run; expected one at a time: "
                "wait for its end, or stop it"
            )
        self.handler.setFormatter(logging.Formatter(LOG_FORMAT))
        self.logger = logging.Logger("run")
        self.logger.addHandler(self.handler)

    def __call__(self, line):
        if self.handler is not None:
            self.logger.info(line)
            tqdm.write(line, file=sys.stdout)

    def cut(self, size):
        """Drops what lies beyond this number of bytes: an epoch that did not end left it there.

        None: all is kept.
        """
        if self.active and size is not None and self.size() > size:
            os.truncate(self.path, size)

    def size(self):
        """Bytes of the file so far."""
        return self.path.stat().st_size

    def close(self):
        """Closes the file; the log can no longer be written to."""
        if self.handler is not None:
            self.handler.close()
            self.handler = None
