"""Every training here runs in one thread."""

import pytest

import test as test_script
from tests.training.runs import one_thread


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


@pytest.fixture
def untested(monkeypatch):
    """Trainings end without their test."""
    monkeypatch.setattr(test_script, "main", lambda args, group: None)
