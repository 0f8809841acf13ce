"""Fixtures: golden data where it is present, and small data sets built on the spot."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.builders import random_sequence, write_list, write_nudt_sequence
from tests.drawing import drawn as drawn_within
from tests.drawing import undrawn
from tests.training.runs import train
from utils.checkpoint import load
from utils.process import keep_freed_memory

keep_freed_memory()
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes: each keeps to one core
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of commands that tests start

REPOSITORY = Path(__file__).parent.parent
SHARED = Path(os.environ.get("DEEPPRO_SHARED", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session")
def shared():
    """The folder of golden numbers and released checkpoints; skips where it is absent."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"no golden data in {SHARED}; set DEEPPRO_SHARED to its folder")
    return SHARED


@pytest.fixture(scope="session")
def released(shared):
    """Gives, for a run's name, the released checkpoint as a dict."""
    return lambda run: load(shared / "released" / "sem_seg" / run / "checkpoints/best_model.pth")


@pytest.fixture(scope="session", autouse=True)
def _undrawn():
    with undrawn():
        yield


@pytest.fixture
def drawn():
    """Figures and curves are drawn, which they are in no other test."""
    with drawn_within():
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(46)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(46)


@pytest.fixture
def nudt(tmp_path, rng):
    """A NUDT-MIRSDT of two training and two test sequences, 8x10 to 12x14 pixels."""
    root = tmp_path / "NUDT-MIRSDT"
    sizes = {"Sequence1": (44, 8, 10), "Sequence2": (41, 12, 14)}
    sizes |= {"Sequence47": (41, 8, 10), "Sequence85": (7, 12, 14)}
    for name, size in sizes.items():
        write_nudt_sequence(root, name, *random_sequence(rng, *size))
    write_list(root / "train.txt", ["Sequence1", "Sequence2"])
    write_list(root / "test.txt", ["Sequence47", "Sequence85"])
    return root


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """A NUDT-MIRSDT with bright moving targets, three training and two test sequences."""
    root = tmp_path_factory.mktemp("data") / "NUDT-MIRSDT"
    rng = np.random.default_rng(46)
    names = ("Sequence1", "Sequence2", "Sequence3", "Sequence47", "Sequence85")
    for name in names:
        images, masks = random_sequence(rng, 20, 24, 28)
        images[masks > 0] = 250
        write_nudt_sequence(root, name, images, masks)
    write_list(root / "train.txt", names[:3])
    write_list(root / "test.txt", names[3:])
    return root


@pytest.fixture(scope="session")
def run(dataset, tmp_path_factory):
    """A short DeepPro run of six epochs on it."""
    return train(dataset, tmp_path_factory.mktemp("log"), "DeepPro", "--epoch 6")
