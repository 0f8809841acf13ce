"""Short trainings as a user calls them, and what they leave behind."""

import json
import os
import signal

import test as test_script
import train as train_script
from tests.builders import call, torch_threads

TRAINING = "--seqlen 8 --patch_size 16 --batch_size 2 --sample_rate 0.2 --workers 0 --gpu cpu"
TIMES = ("seconds", "clips_per_second", "waiting", "seconds_left")


def one_thread():
    """Tiny maps gain nothing from threads, which wait for one another where cores are busy.

    And sums come out the same, to the last digit, wherever a test asks first for the common run.
    """
    return torch_threads(1)


def train(dataset, savepath, model, *extra):
    """Trains; the run's folder."""
    place = f"--dataset NUDT-MIRSDT --datapath {dataset} --savepath {savepath}"
    with one_thread():
        assert call(train_script, f"--model {model}", place, TRAINING, *extra) == 0
    return run_folder(savepath)


def proceed(folder, *extra):
    """Exit status of the training that goes on in a run's folder."""
    savepath = folder.parent.parent
    return call(train_script, f"--savepath {savepath} --log_dir {folder.name} --gpu cpu", *extra)


def evaluate(folder, dataset, output, *extra):
    """Exit status of the test of a run."""
    common = f"--log_dir {folder.name} --logpath {folder.parent.parent} --datapath {dataset}"
    return call(test_script, common, f"--gpu cpu --output {output}", *extra)


def run_folder(savepath):
    """The folder of the run in a place that can be continued."""
    (checkpoint,) = savepath.glob("sem_seg/*/checkpoints/last_model.pth")
    return checkpoint.parent.parent


def history(folder):
    """The rows of a run's history."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def rows(folder):
    """The same without what was measured by the clock."""
    return [{key: row[key] for key in row if key not in TIMES} for row in history(folder)]


def refused(capsys, status, *words):
    """Asserts that a command ended in one line on stderr, which has these words, and status 2."""
    captured = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    assert len([line for line in captured if line.startswith("error: ")]) == 1
    assert not any("Traceback" in line for line in captured)
    for word in words:
        assert word in captured[-1]


def stop_at(number, monkeypatch):
    """SIGTERM arrives at this step, counted over all epochs."""
    step, steps = train_script.Trainer.step, []

    def stopped(self, batch):
        steps.append(1)
        if len(steps) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    monkeypatch.setattr(train_script.Trainer, "step", stopped)
