"""The course of a training: one JSON line an epoch, curves, TensorBoard events."""

import json
from pathlib import Path

from utils.files import write_text, write_whole

TENSORBOARD_KEYS = ("train_loss", "train_iou", "val_loss", "val_iou", "learning_rate")


class History:
    """Rows of numbers, one an epoch, kept in a file of JSON lines and drawn as curves.

    Args:
        jsonl, curves, events: paths: of the lines, of the picture, of a folder for TensorBoard.
        rows: of the epochs before, when a training is continued; what the file says is replaced.
    """

    def __init__(self, jsonl, curves, events, rows=()):
        self.jsonl, self.curves = Path(jsonl), Path(curves)
        self.rows = list(rows)
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
        if self.rows:
            write_whole(self.curves, lambda file: draw_history(file, self.rows))


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

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
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
