"""A detector of any kind, added as one row of MODELS, goes through the whole house.

Four stubs, one of each kind, are trained for two steps, validated, tested, streamed and reported
by the scripts as they are.
"""

import json

import numpy as np
import pytest
import torch
from torch import nn

import test as test_script
import train as train_script
from data.specs import get_spec
from models import MODELS, build_model
from models.detector import Detector
from models.fused import fuse
from tests.builders import call
from utils.checkpoint import load
from utils.metrics import ScoredFrames
from utils.protocols import MAIN, PROTOCOLS
from utils.scan import open_scan


class WholeClip(Detector):
    seqlen = 6

    def __init__(self, seqlen=None):
        super().__init__(seqlen)
        self.mix = nn.Conv3d(1, 1, (3, 1, 1), padding=(1, 0, 0))

    def detect(self, clip):
        return self.mix(clip)


class LastOfFive(Detector):
    seqlen, predicts = 5, "last"

    def __init__(self, seqlen=None):
        super().__init__(seqlen)
        self.mix = nn.Conv3d(1, 1, (5, 1, 1))

    def detect(self, clip):
        return self.mix(clip)


class OnCanvas(WholeClip):
    pads_to, side_multiple = 64, 8

    def detect(self, clip):
        assert clip.shape[3:] == ((8, 8) if self.training else (64, 64))
        return self.mix(clip)


class FrameByFrame(Detector):
    seqlen, recurrent, side_multiple = 4, True, 4

    def __init__(self, seqlen=None):
        super().__init__(seqlen)
        self.mix = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, frame, state):
        state = torch.zeros_like(frame) if state is None else state
        assert frame.shape[2] % 4 == frame.shape[3] % 4 == 0
        logits = self.mix(torch.cat([frame, state], dim=1))
        return logits[:, 0], 0.9 * state + 0.1 * frame


STUBS = {stub.__name__: stub for stub in (WholeClip, LastOfFive, OnCanvas, FrameByFrame)}


@pytest.fixture(params=STUBS)
def stub(request, monkeypatch):
    monkeypatch.setitem(MODELS, request.param, STUBS[request.param])
    return request.param


def test_a_stub_of_each_kind_trains_validates_tests_streams_and_reports(stub, nudt, tmp_path):
    log, data = tmp_path / "log", f"--dataset NUDT-MIRSDT --datapath {nudt} --gpu cpu"
    options = "--epoch 1 --batch_size 2 --patch_size 8 --sample_rate 0.06 --seed 3"
    assert call(train_script, f"--model {stub} {data} --savepath {log}", options) == 0
    (run,) = (log / "sem_seg").iterdir()
    (row,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite([row["train_loss"], row["val_loss"], row["val_iou"]]).all()

    after = build_model(stub)
    state = load(run / "checkpoints" / "best_model.pth")
    after.load_state_dict(state["model_state_dict"])
    assert state["args"]["seqlen"] == STUBS[stub].seqlen

    # The scripts' test, and the same detector over a live stream: the same scores, so counts.
    output = tmp_path / "again"
    assert call(test_script, f"{data} --logpath {log} --log_dir {run.name} --output {output}") == 0
    first, again = (json.loads((at / "metrics.json").read_text()) for at in (run, output))
    assert first["protocols"] == again["protocols"] and first["iou"] == again["iou"]
    assert (output / "report.html").stat().st_size > 10_000

    spec = get_spec("NUDT-MIRSDT")
    scan = open_scan(after.eval(), fuse(after))
    for sequence in spec.open(spec, nudt, None):
        scan.begin(*sequence.normalisation)
        whole = sequence.read(0, len(sequence))
        blocks = [block for frame in whole.frames for block in scan.push(frame)] + scan.finish()
        scores = np.concatenate([block.scores for block in blocks])
        counts = PROTOCOLS[MAIN].count(ScoredFrames(scores, whole.centroids)).as_dict()
        recorded = again["protocols"][MAIN]["sequences"][sequence.name]
        assert counts == {key: recorded[key] for key in counts}


def test_a_bare_file_of_weights_is_tested_by_its_models_name(stub, nudt, tmp_path):
    torch.save(build_model(stub).state_dict(), tmp_path / "weights.pth")
    data = f"--dataset NUDT-MIRSDT --datapath {nudt} --gpu cpu --logpath {tmp_path / 'log'}"
    assert call(test_script, f"--model {stub} --weights {tmp_path / 'weights.pth'} {data}") == 0
    (metrics,) = (tmp_path / "log" / "tests").glob("*/metrics.json")
    assert json.loads(metrics.read_text())["model"] == stub
