"""Run folders and how a run's model is found."""

import json
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

import test as test_script
from data.record import write_record
from losses import LOSSES
from models import MODELS
from tests.builders import call
from tests.conftest import REPOSITORY
from tests.training.runs import refused, train
from utils.run_dir import LOG_FORMAT, RunDir, RunLog, find_model_name, find_run, new_run, run_name

WHEN = datetime(2024, 12, 28, 16, 21)


@pytest.mark.parametrize("model", MODELS)
def test_names_are_those_of_the_released_runs(model, tmp_path):
    name = run_name("NUDT-MIRSDT", WHEN, "SoftIoU", model, 40)
    assert name == f"NUDT-MIRSDT__2024-12-28_16-21__SoftLoUloss_{model}_DataL40"
    assert find_model_name(new_run(tmp_path, name), None, MODELS) == model


def test_a_second_run_of_the_same_minute_gets_its_own_folder(tmp_path):
    first = new_run(tmp_path, "run")
    second = new_run(tmp_path, "run")
    assert first.path != second.path and (second.path / "checkpoints").is_dir()


def test_the_model_is_found_in_args_then_in_logs_then_in_the_name(tmp_path):
    name = run_name("Synthetic", WHEN, "SoftIoU", "DeepPro", 40)
    run = new_run(tmp_path, name)
    assert find_model_name(run, None, MODELS) == "DeepPro"
    (run.path / "logs" / "DeepPro-Plus.txt").touch()
    assert find_model_name(run, None, MODELS) == "DeepPro-Plus"
    other = {"model": "DeepPro-Plus_forMovingScenes"}
    assert find_model_name(run, other, MODELS) == "DeepPro-Plus_forMovingScenes"


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", MODELS)
def test_a_runs_name_tells_the_options_that_are_in_it(tmp_path, model, loss):
    told = {"dataset": "RGB-T", "model": model, "seqlen": "20", "loss": loss}
    for suffix in ("", "_2"):
        run = RunDir(tmp_path / (run_name("RGB-T", WHEN, loss, model, 20) + suffix))
        assert {key: run.options()[key] for key in told} == told
    assert RunDir(tmp_path / "renamed").options() == {}


def test_an_unnamed_run_without_logs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="tells the model"):
        find_model_name(RunDir(tmp_path), {}, MODELS)


def test_a_missing_run_is_refused_with_the_runs_there_are(tmp_path):
    new_run(tmp_path, "there")
    with pytest.raises(FileNotFoundError, match="no such run.*there"):
        find_run(tmp_path, "absent")
    with pytest.raises(FileNotFoundError, match="--log_dir '': no such run.*there"):
        find_run(tmp_path, "")


def test_a_run_may_be_given_by_its_path(tmp_path):
    run = new_run(tmp_path, "there")
    assert find_run("elsewhere", str(run.path)).path == run.path


def test_log_lines_have_the_published_form_and_are_printed(tmp_path, capsys):
    log = RunLog(tmp_path / "DeepPro.txt")
    log("Learning rate:0.001000")
    log.close()
    line = (tmp_path / "DeepPro.txt").read_text().rstrip("\n")
    stamp, _, rest = line.partition(" - ")
    assert rest == "Model - INFO - Learning rate:0.001000"
    datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f")
    assert "asctime" in LOG_FORMAT
    assert capsys.readouterr().out == "Learning rate:0.001000\n"


def test_a_log_that_is_continued_loses_what_an_unfinished_epoch_left(tmp_path):
    log = RunLog(tmp_path / "DeepPro.txt")
    log("kept")
    size = log.size()
    log("dropped")
    log.close()
    log = RunLog(tmp_path / "DeepPro.txt")
    log.cut(size)
    log("new")
    log.close()
    text = (tmp_path / "DeepPro.txt").read_text()
    assert "kept" in text and "new" in text and "dropped" not in text


@pytest.mark.skipif(sys.platform == "win32", reason="files are not held there")
def test_a_log_is_written_by_one_process_at_a_time(tmp_path):
    program = "import sys; from utils.run_dir import RunLog; log = RunLog(sys.argv[1]); "
    program += "print('held', flush=True); sys.stdin.read()"
    path = tmp_path / "DeepPro.txt"
    other = subprocess.Popen(
        [sys.executable, "-c", program, path],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="DeepPro.txt: another process is training in this run"):
        RunLog(path)
    other.kill()
    other.wait()
    RunLog(path).close()


def test_an_inactive_log_writes_and_prints_nothing(tmp_path, capsys):
    log = RunLog(tmp_path / "DeepPro.txt", active=False)
    log("a line")
    log.close()
    assert not list(tmp_path.iterdir()) and capsys.readouterr().out == ""


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file.*cannot be made"):
        new_run(tmp_path / "file", "run")


@pytest.mark.parametrize("given", ["", " --mean 80 --std 25"])
def test_other_data_of_the_runs_kind_has_levels_and_results_of_its_own(
    dataset, tmp_path, capsys, monkeypatch, given
):
    levels = {"mine": (90, 20), "moved/mine": (90, 20), "other/mine": (100, 30), "other": (90, 20)}
    for name, numbers in levels.items():
        shutil.copytree(dataset, tmp_path / name, dirs_exist_ok=True)
        write_record(tmp_path / name, *numbers, {})
    monkeypatch.chdir(tmp_path)
    folder = train("mine", tmp_path, "DeepPro", f"--epoch 1 --dataset Converted{given}")
    own = json.loads((folder / "metrics.json").read_text())["protocols"]
    monkeypatch.chdir(tmp_path / "other")
    place = f"--log_dir {folder.name} --logpath {tmp_path} --gpu cpu --dataset Converted"
    for name, numbers in levels.items():
        capsys.readouterr()
        assert call(test_script, place, f"--datapath {tmp_path / name}") == 0
        told = "trained on other data of this name: its grey" in capsys.readouterr().out
        assert told == name.startswith("other")
        if given and not told:
            numbers = 80, 25
        results = folder / f"Converted_{Path(name).name}" if told else folder
        found = json.loads((results / "metrics.json").read_text())
        assert found["normalisation"] == dict(zip(("mean", "std"), numbers, strict=True))
    (tmp_path / "other/dataset.json").unlink()
    refused(capsys, call(test_script, place, "--datapath ."), "dataset.json: no such record")
    (tmp_path / "other/dataset.json").write_text("{}")
    assert call(test_script, place, "--datapath . --mean 1 --std 2") == 0
    assert json.loads((folder / "metrics.json").read_text())["protocols"] == own
