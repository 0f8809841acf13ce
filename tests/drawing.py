"""Figures are rendered where a test looks at them: it takes longer than most of what is tested."""

from contextlib import contextmanager

import pytest
from matplotlib.figure import Figure
from PIL import Image

from utils.training import history

RENDER, DRAW_HISTORY = Figure.savefig, history.draw_history


def save_blank(figure, file, **_):
    """Writes one white pixel."""
    Image.new("1", (1, 1), 1).save(file, "PNG")


def draw_nothing(file, rows):
    """Leaves the file of a training's curves empty."""


@contextmanager
def undrawn():
    """Within it figures are made but not rendered; a training's curves, one an epoch, not made."""
    with _drawn_by(save_blank, draw_nothing):
        yield


@contextmanager
def drawn():
    """Within it, in `undrawn`, all is drawn after all."""
    with _drawn_by(RENDER, DRAW_HISTORY):
        yield


@contextmanager
def _drawn_by(render, draw_history):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", render)
        patch.setattr(history, "draw_history", draw_history)
        yield
