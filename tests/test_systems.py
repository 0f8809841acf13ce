"""The five systems of the published table, from a generated data set to the table of them all."""

import json

import numpy as np
import pytest

import test as test_script
import train as train_script
import utils.report.highlights
from data.synthetic.plans import Preset
from data.synthetic.writing import write_synthetic
from models import MODELS
from models.baselines import stdmanet
from tests.builders import call
from tests.training.runs import history, one_thread
from utils.checkpoint import load
from utils.protocols import choose
from utils.report import results
from utils.report.published import PUBLISHED_COST
from utils.run_dir import RunDir

TINY = Preset(1, 0, 2, 1, frames=12, heights=(28, 32), widths=(30, 32))
SHORT = {"DeepPro": 8, "DeepPro-Plus": 8, "Res-U+RFR": 4}  # clips, where their length is free


@pytest.fixture(scope="module", autouse=True)
def small():
    """DTUM's canvas and STDMANet's widths, which take seconds, are a fraction of theirs."""
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr(MODELS["Res-UNet+DTUM"], "pads_to", 32)
        patch.setattr(stdmanet, "PATH_CHANNELS", 16)
        patch.setattr(stdmanet, "REFINER_WIDTHS", (16, 32, 48))
        patch.setattr(utils.report.highlights, "WORST", 1)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "Synthetic"
    write_synthetic(root, TINY, workers=1, progress=False)
    return root


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """{system: folder of its run}, each trained for two epochs, tested and reported by train.py."""
    log, folders = tmp_path_factory.mktemp("log"), {}
    place = f"--dataset Synthetic --datapath {data} --savepath {log} --gpu cpu --epoch 2"
    size = "--patch_size 16 --batch_size 2 --sample_rate 0.2 --cache memory"
    for name in PUBLISHED_COST:
        before = set(log.glob("sem_seg/*"))
        seqlen = f"--seqlen {SHORT[name]}" if name in SHORT else ""
        assert call(train_script, f"--model {name} {place} {size}", *seqlen.split()) == 0
        (folders[name],) = set(log.glob("sem_seg/*")) - before
    return folders


@pytest.mark.parametrize("name", PUBLISHED_COST)
def test_a_system_trains_two_epochs_by_its_recipe_and_is_tested_and_reported(runs, name):
    rows = history(runs[name])
    assert [row["epoch"] for row in rows] == [1, 2]
    for key in ("train_loss", "val_loss", "val_iou"):
        assert all(np.isfinite(row[key]) for row in rows)
    first, last = (
        load(RunDir(runs[name]).checkpoint(which))["model_state_dict"] for which in ("best", "last")
    )
    assert first.keys() == last.keys()
    metrics = json.loads((runs[name] / "metrics.json").read_text())
    assert metrics["model"] == name and set(metrics["protocols"]) == {p.name for p in choose()}
    assert metrics["protocols"]["hit1_guard4"]["subsets"]["all"]["targets"] > 0
    page = (runs[name] / "report.html").read_text()
    assert f"<h1>{name}" in page and ("(reconstruction)" in page) == (name == "STDMANet")


def test_one_command_prints_the_table_of_all_five(runs, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(results, "write_report", lambda *_: None)  # drawn above already
    log = next(iter(runs.values())).parent.parent
    names = " ".join(folder.name for folder in runs.values())
    place = f"--dataset Synthetic --datapath {data} --logpath {log} --output {tmp_path}"
    words = f"--log_dir {names} {place} --gpu cpu --no-overlay"
    assert call(test_script, words, "--protocol hit1_guard4 centroid3 roc3d") == 0
    table = capsys.readouterr().out.split("written to")[-1]
    for number, (name, folder) in enumerate(runs.items(), 1):
        assert f"  {number} {name}" in table
        again = json.loads((tmp_path / folder.name / "metrics.json").read_text())
        first = json.loads((folder / "metrics.json").read_text())
        assert {"centroid3", "roc3d"} <= again["protocols"].keys()
        for protocol in first["protocols"]:
            assert again["protocols"][protocol] == first["protocols"][protocol]
