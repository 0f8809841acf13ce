"""Evaluation end to end against the golden counts, and what it writes."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from data.frames import find_sequences
from data.sequences import LabelledSequences
from data.specs import get_spec
from losses import build_loss
from utils.evaluation import PROTOCOLS, evaluate_sequences, evaluate_windows
from utils.metrics import THRESHOLDS, PixelIoU
from utils.report.results import read_metrics, summarise, summary_lines, write_eval, write_metrics


class Brightness(nn.Module):
    """A detector whose logit is the pixel's normalised grey level times a factor."""

    def __init__(self, factor=4.0):
        super().__init__()
        self.factor = factor

    def forward(self, clip):
        return clip.squeeze(1) * self.factor


@pytest.fixture
def sequences(nudt):
    spec = get_spec("NUDT-MIRSDT")
    files = find_sequences(spec, spec.test, nudt)
    return LabelledSequences(files, spec.mean, spec.std, seqlen=10)


def evaluate(sequences, detector=None, **options):
    return evaluate_sequences(
        detector or Brightness(), sequences, 0.5, torch.device("cpu"), **options
    )


def test_scores_do_not_depend_on_how_many_windows_are_fed_at_once(sequences):
    one, three = (evaluate(sequences, batch_size=size) for size in (1, 3))
    for a, b in zip(one.sequences, three.sequences, strict=True):
        for protocol in PROTOCOLS:
            assert np.array_equal(a.curves[protocol].detected, b.curves[protocol].detected)
    assert one.iou() == three.iou()


def test_scores_of_a_pointwise_detector_are_those_of_its_frames(sequences):
    seen = {}
    evaluate(sequences, on_scores=lambda sequence, scores: seen.update({sequence.name: scores}))
    for sequence in sequences:
        logits = torch.from_numpy((sequence.frames - np.float32(105.4025)) / np.float32(26.6452))
        assert np.allclose(seen[sequence.name], torch.sigmoid(4 * logits), atol=1e-6)


def test_scores_are_resized_to_masks_of_another_size(nudt):
    spec = get_spec("NUDT-MIRSDT")
    files = find_sequences(spec, spec.test, nudt)
    data = LabelledSequences(files, spec.mean, spec.std, seqlen=10, size=(16, 20))
    shapes = {}
    evaluate(data, on_scores=lambda sequence, scores: shapes.update({sequence.name: scores.shape}))
    assert shapes == {"Sequence47": (41, 8, 10), "Sequence85": (7, 12, 14)}


def test_nan_logits_are_refused_with_the_sequence(sequences):
    with pytest.raises(ValueError, match="Sequence47: a score is NaN"):
        evaluate(sequences, Brightness(float("nan")))


def test_validation_is_the_mean_loss_and_iou_of_unstitched_windows(sequences):
    criterion = build_loss("SoftIoU")
    loss, iou = evaluate_windows(Brightness(), criterion, sequences, 0.5, torch.device("cpu"))
    losses, expected = [], PixelIoU(0.5)
    for sequence in sequences:
        for start, clip in sequences.clips(sequence):
            masks = sequence.masks[start : start + 10]
            padded = np.zeros((10, *masks.shape[1:]), np.uint8)
            padded[: len(masks)] = masks
            losses.append(criterion(4 * clip, torch.from_numpy(padded)[None]).item())
            expected.update(torch.sigmoid(4 * clip[0, : len(masks)]).numpy(), masks)
    assert loss == pytest.approx(np.mean(losses)) and iou == pytest.approx(expected.iou())


def test_metrics_json_keeps_its_contract(sequences, tmp_path):
    subsets = {"low_snr": ["Sequence47"], "high_snr": ["Sequence85"]}
    metrics = summarise(evaluate(sequences), subsets, "r", "DeepPro", "NUDT-MIRSDT", 10, 0.5)
    write_metrics(tmp_path / "metrics.json", metrics)
    read = json.loads((tmp_path / "metrics.json").read_text())
    assert read == metrics == read_metrics(tmp_path / "metrics.json")
    assert set(read) >= {"run", "model", "dataset", "seqlen", "threshold_eval", "thresholds", "iou"}
    assert read["thresholds"] == list(THRESHOLDS) and len(THRESHOLDS) == 27
    assert set(read["timing"]) >= {
        "network_seconds",
        "scoring_seconds",
        "total_seconds",
        "frames",
        "frames_per_second",
    }
    for protocol in ("hit1_guard4", "hit2_guard5"):
        counts = read["protocols"][protocol]
        assert list(counts["sequences"]) == ["Sequence47", "Sequence85"]
        assert set(counts["subsets"]) == {"low_snr", "high_snr", "all"}
        for key in ("pixels", "targets"):
            total = sum(sequence[key] for sequence in counts["sequences"].values())
            assert counts["subsets"]["all"][key] == total and isinstance(total, int)
        whole = counts["subsets"]["all"]
        for key in ("detected", "false_alarm_pixels"):
            parts = [counts["subsets"][subset][key] for subset in ("low_snr", "high_snr")]
            assert [a + b for a, b in zip(*parts, strict=True)] == whole[key]
        assert whole["pd"] == [count / whole["targets"] for count in whole["detected"]]
        assert whole["fa"] == [count / whole["pixels"] for count in whole["false_alarm_pixels"]]
        assert math.isfinite(whole["auc"])


def test_eval_txt_follows_the_protocol_asked_for(sequences, tmp_path):
    metrics = summarise(evaluate(sequences), {}, "r", "DeepPro", "NUDT-MIRSDT", 10, 0.5)
    for protocol in PROTOCOLS:
        write_eval(tmp_path / "eval.txt", metrics, protocol)
        alarms = metrics["protocols"][protocol]["subsets"]["all"]["false_alarm_pixels"][0]
        text = (tmp_path / "eval.txt").read_text()
        assert f"FA:[{alarms}, " in text
        assert "Low SNR" not in text


def test_a_set_without_targets_is_reported_not_crashed(sequences, tmp_path):
    class Untargeted(LabelledSequences):
        def read(self, files):
            sequence = super().read(files)
            sequence.masks[:] = sequence.centroids[:] = 0
            return sequence

    data = Untargeted(sequences.sequences, 105.4, 26.6, 10)
    metrics = summarise(evaluate(data), {}, "r", "DeepPro", "Mine", 10, 0.5)
    write_metrics(tmp_path / "metrics.json", metrics)
    write_eval(tmp_path / "eval.txt", metrics, "hit1_guard4")
    assert metrics["protocols"]["hit1_guard4"]["subsets"]["all"]["auc"] is None
    assert any("Pd -" in line for line in summary_lines(metrics))


def test_a_file_that_is_no_metrics_json_is_refused(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="not a metrics.json"):
        read_metrics(tmp_path / "metrics.json")
