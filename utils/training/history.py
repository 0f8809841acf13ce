"""The course of a training in files: checkpoints; a JSON line an epoch, curves, TensorBoard."""

import json
import math
import shlex
import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from signal import Signals

from utils.checkpoint import load, save
from utils.files import write_text, write_whole
from utils.training.description import describe
from utils.training.schema import is_history
from utils.training.trainer import speed_line

CHECKPOINT_EVERY = 5  # epochs between numbered checkpoints
TENSORBOARD_KEYS = ("train_loss", "train_iou", "val_loss", "val_iou", "learning_rate")


class Recorder:
    """Writes a run's checkpoints, log and history as its training goes on.

    Args:
        run: `utils.run_dir.RunDir`.
        state: `utils.training_state.TrainingState`.
        log: `utils.run_dir.RunLog`; where it is not active, nothing is written.
    """

    def __init__(self, run, state, log):
        self.run, self.state, self.log = run, state, log
        self.history = None
        if log.active:
            if state.from_best:  # which has no rows
                state.history = read_rows(run.history, state.epoch + 1)
            self.history = History(run.history, run.curves, run.events, state.history)

    def save_last(self, within_epoch=False):
        """The checkpoint to continue from; what an interrupted epoch logged is dropped then."""
        if self.log.active:
            if not within_epoch:
                self.state.log_size = self.log.size()
            save(self.run.checkpoint("last"), self.state.last())

    def save_numbered(self, last):
        """That of an epoch: every fifth has one, and the last."""
        number = self.state.epoch + 1
        if number % CHECKPOINT_EVERY == 0 or last:
            self._save_logged(number, self.state.published)

    def save_best(self, iou):
        """That of the best epoch, if the one that ended with this IoU is; returns the best IoU."""
        if iou >= self.state.best_iou:
            if self.state.best_iou == -math.inf:
                self._keep_former_best()
            self.state.best_iou = iou
            self._save_logged("best", partial(self.state.published, iou))
        self.log(f"Best mIoU_mid: {self.state.best_iou:f}")
        return self.state.best_iou

    def end_epoch(self, row):
        """Adds an epoch's row to the history."""
        self.log(speed_line(row))
        if self.log.active:
            self.history.add(row)
        self.save_last()

    def stop(self, signal):
        """Ends after SIGTERM or Ctrl-C, with the exit status that shells expect."""
        words = ["--savepath", str(self.run.logpath), "--log_dir", self.run.name]
        self.log(f"Stopped by {Signals(signal).name}; continue with {shlex.join(words)}")
        self.log.close()
        raise SystemExit(128 + signal)

    def _keep_former_best(self):
        """Copies the best checkpoint of earlier epochs, whose IoU is not comparable any more."""
        path = self.run.checkpoint("best")
        if not self.log.active:
            return
        try:
            epochs = describe(load(path)).epochs
        except (OSError, ValueError):
            return
        if epochs is not None and epochs <= self.state.epoch:
            kept = self.run.checkpoint(f"best_of_epoch_{epochs}")
            with path.open("rb") as former:
                write_whole(kept, lambda file: shutil.copyfileobj(former, file))
            self.log(f"The best checkpoint so far, of epoch {epochs}, is kept as {kept}")

    def _save_logged(self, which, checkpoint):
        path = self.run.checkpoint(which)
        self.log("Save model...")
        self.log(f"Saving at {path}")
        if self.log.active:
            save(path, checkpoint())
        self.log("Saving model....")


class History:
    """Rows of numbers, one an epoch, kept in a file of JSON lines and drawn as curves.

    Without matplotlib there are no curves.

    Args:
        jsonl, curves, events: paths: of the lines, of the picture, of a folder for TensorBoard.
        rows: list of the epochs before, which grows; what the file says is replaced.
    """

    def __init__(self, jsonl, curves, events, rows):
        self.jsonl, self.curves = Path(jsonl), Path(curves)
        self.rows = rows
        self.writer = open_events(events)

    def add(self, row):
        """Adds an epoch's row and brings the files up to date, each whole or not at all."""
        self.rows.append(row)
        self.write()
        if self.writer is not None:
            for key in TENSORBOARD_KEYS:
                self.writer.add_scalar(key, row[key], row["epoch"])
            self.writer.flush()

    def write(self):
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.rows)
        write_text(self.jsonl, text)
        if self.rows and find_spec("matplotlib") is not None:
            write_whole(self.curves, lambda file: draw_history(file, self.rows))


def read_rows(path, epochs):
    """The rows of the first epochs in a file that `History` wrote; none where it cannot be read."""
    try:
        rows = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    return [row for row in rows if row["epoch"] <= epochs] if is_history(rows) else []


def open_events(folder):
    """A TensorBoard writer, or None where `tensorboard` is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def draw_history(file, rows):
    """Draws loss, IoU and learning rate over the epochs as a PNG."""
    import matplotlib  # here: it takes a second, and most starts draw nothing

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.4))
    # A layout that is sought would draw everything twice.
    figure.subplots_adjust(left=0.05, right=0.99, bottom=0.14, top=0.91, wspace=0.26)
    epochs = [row["epoch"] for row in rows]
    for axis, title, keys in (
        (axes[0], "loss", ("train_loss", "val_loss")),
        (axes[1], "IoU", ("train_iou", "val_iou")),
        (axes[2], "learning rate", ("learning_rate",)),
    ):
        for key in keys:
            axis.plot(epochs, [row[key] for row in rows], marker=".", label=key.replace("_", " "))
        axis.set(title=title, xlabel="epoch")
        axis.legend()
        axis.grid(alpha=0.3)
    axes[2].set_yscale("log")
    figure.savefig(file, dpi=80, format="png")
    pyplot.close(figure)
