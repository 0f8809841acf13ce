"""Every training here runs in one thread."""

import pytest

from tests.training.runs import one_thread


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield
