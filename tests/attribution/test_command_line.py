"""test.py --attribution: of one run, of several, and what it refuses."""

import json

import numpy as np
import pytest

import test as test_script
from models import build_model
from tests.builders import call
from utils.attribution.writer import Attributions
from utils.checkpoint import save
from utils.command_line import Terminated


@pytest.fixture
def runs(tmp_path):
    """Two runs of untrained networks for clips of 8 frames."""
    names = [f"NUDT-MIRSDT__{number}__SoftLoUloss_DeepPro_DataL8" for number in range(2)]
    for name in names:
        folder = tmp_path / "log/sem_seg" / name / "checkpoints"
        folder.mkdir(parents=True)
        weights = build_model("DeepPro", 8).state_dict()
        save(folder / "best_model.pth", {"epoch": 0, "model_state_dict": weights})
    return names


def attribute(nudt, tmp_path, words):
    return call(
        test_script,
        f"--dataset NUDT-MIRSDT --datapath {nudt} --logpath {tmp_path / 'log'} --gpu cpu "
        f"--no-overlay --attribution --attribution-points 2 {words}",
    )


def test_of_several_runs_each_has_its_attributions_and_all_a_band(nudt, tmp_path, runs, capsys):
    out = tmp_path / "out"
    words = f"--log_dir {' '.join(runs)} --output {out} --attribution-frames 2"
    assert attribute(nudt, tmp_path, words) == 0
    assert (out / "influence.png").is_file()
    printed = capsys.readouterr().out
    for run in runs:
        found = json.loads((out / run / "metrics.json").read_text())["attribution"]
        assert len(found["targets"]) == 4 and found["backward_passes"] == 8
        for row in found["targets"]:
            assert f"{row['file']}: score" in printed
            for ending in (".png", ".npz", ".mat"):
                assert (out / run / "attribution" / f"{row['file']}{ending}").is_file()
        assert "What the scores are due to" in (out / run / "report.html").read_text()
        with np.load(out / run / "attribution/influence.npz") as file:
            assert file["influence"].tolist() == found["influence"]


@pytest.mark.parametrize(
    "words, status, message",
    [
        ("--attribution-of 3,9", 2, "3,9: expected targets, alarms or FRAME,ROW,COLUMN"),
        ("--attribution-of 1,3,4", 0, "attribution of 2 such pixel"),
        ("--attribution-of alarms --threshold_eval 1", 0, "no alarms in any of 2 sequences"),
        ("--attribution-of 1,99,4", 2, "row 99, column 4: expected a pixel of frames of 8x10"),
        ("--attribution-points 1", 2, "1 points of a path: expected at least 2"),
    ],
)
def test_what_is_attributed_is_an_option(nudt, tmp_path, runs, capsys, words, status, message):
    words = f"--log_dir {runs[0]} --output {tmp_path / 'out'} {words}"
    assert attribute(nudt, tmp_path, words) == status
    found = capsys.readouterr()
    assert message in (found.err.splitlines()[-1] if status else found.out)


@pytest.mark.parametrize(
    ("stop", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated("stopped by SIGTERM"), 143, "stopped by SIGTERM"),
        (OSError("no space left"), 2, "no space left"),
    ],
)
def test_what_ends_an_attribution_costs_no_figure(
    nudt, tmp_path, runs, capsys, monkeypatch, stop, status, said
):
    make, out = Attributions._attribute, tmp_path / "out"

    def once(writer, *given):
        if writer.rows:
            raise stop
        make(writer, *given)

    monkeypatch.setattr(Attributions, "_attribute", once)
    words = f"--log_dir {runs[0]} --output {out} --min_track 2"
    assert attribute(nudt, tmp_path, words) == status
    found = capsys.readouterr()
    assert said in found.err and "and later ones: " in found.out and "Pd" in found.out
    written = json.loads((out / "metrics.json").read_text())
    assert len(written["attribution"]["targets"]) == 1 and written["protocols"]
    for name in ("eval.txt", "report.html", "tracks/tracks.csv", "attribution/attribution.csv"):
        assert (out / name).is_file()
    told = (out / "unfinished.txt").read_text()
    assert f"ended early: {said}" in told and "metrics.json" in told
