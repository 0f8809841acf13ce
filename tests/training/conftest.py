"""Every training here runs in one thread; curves are drawn where they are looked at."""

import pytest

import test as test_script
import utils.training.history
from tests.training.runs import one_thread


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


@pytest.fixture
def untested(monkeypatch):
    """Trainings end without their test."""
    monkeypatch.setattr(test_script, "main", lambda args, group: None)


@pytest.fixture(autouse=True)
def _undrawn(request, monkeypatch):
    """Drawing takes longer than an epoch on tiny maps."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(utils.training.history, "draw_history", lambda file, rows: None)


@pytest.fixture
def drawn():
    """Curves are drawn."""
