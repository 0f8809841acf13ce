"""The main job, as commands: released runs on golden and real data, realism of synthetic data."""

import json

import numpy as np
import pytest

from data.synthetic.plans import PRESETS, plan_sequences
from data.synthetic.writing import write_lists, write_sequences
from tests.builders import call_test, compare_eval

RUN = "NUDT-MIRSDT__2024-12-28_16-21__SoftLoUloss_{}_DataL40"


def test_run(shared, model, datapath, output, *extra):
    """metrics.json of `python test.py` on a released run."""
    run = RUN.format(model)
    call_test(
        f"--logpath {shared}/released/ --log_dir {run} --datapath {datapath} --output {output}",
        *extra,
    )
    return json.loads((output / "metrics.json").read_text())


test_run.__test__ = False


def assert_counts_equal(metrics, golden, undecided=()):
    """Counts equal the golden ones; false alarms within 2 pixels or 0.1 %.

    At the `undecided` thresholds, where rounding decides, Pd counts may differ by 1.
    """
    sequences = metrics["protocols"]["hit1_guard4"]["sequences"]
    tolerance = np.isin(metrics["thresholds"], undecided).astype(int)
    for name, counts in sequences.items():
        row = golden["names"].tolist().index(name)
        assert counts["pixels"] == golden["pixelsNumber"][row]
        assert (golden["TgtNumAll"][row] == counts["targets"]).all()
        assert (np.abs(counts["detected"] - golden["TrueNumAll"][row]) <= tolerance).all(), name
        alarms = golden["FalseNumAll"][row]
        difference = np.abs(counts["false_alarm_pixels"] - alarms)
        assert (difference <= np.maximum(2, 1e-3 * alarms)).all(), name


ENGINES = {"reference": (), "fast": (0, 1e-20, 1e-10, 1e-8, 1e-7, 1e-6, 1.0)}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", ["DeepPro", "DeepPro-Plus"])
def test_released_runs_give_the_golden_counts(shared, tmp_path, model, engine):
    folder = shared / "golden" / "evaluation"
    golden = np.load(folder / f"counts_{model}.npz")
    metrics = test_run(shared, model, folder / "NUDT-MIRSDT", tmp_path, f"--engine {engine}")
    sequences = metrics["protocols"]["hit1_guard4"]["sequences"]
    assert list(sequences) == golden["names"].tolist()
    assert_counts_equal(metrics, golden, ENGINES[engine])
    assert metrics["iou"] == pytest.approx(golden["inter"] / golden["union"], abs=1e-5)
    if engine == "reference":
        compare_eval(tmp_path / "eval.txt", folder / f"eval_{model}.txt")


# Of the real sequences, some for each network: the list in full takes minutes.
REAL = {
    "DeepPro": ("ISTD_seq1_101",),
    "DeepPro-Plus": ("ISTD_seq5_63",),
}


@pytest.mark.parametrize("model", ["DeepPro", "DeepPro-Plus"])
def test_released_runs_give_the_golden_counts_on_real_sequences(shared, tmp_path, model):
    root = tmp_path / "real"
    root.mkdir()
    names = REAL[model]
    (root / "test.txt").write_text("\n".join(names))
    for name in names:
        (root / name).symlink_to(shared / "real" / name)
    golden = np.load(shared / "golden" / f"real_counts_{model}.npz")
    metrics = test_run(shared, model, root, tmp_path / "out")
    assert list(metrics["protocols"]["hit1_guard4"]["sequences"]) == list(names)
    assert_counts_equal(metrics, golden, ENGINES["fast"])


def test_synthetic_targets_look_real_to_the_released_deeppro(shared, tmp_path):
    # The test split of the data set that is generated if missing.
    data, every = tmp_path / "data", plan_sequences(PRESETS["small"], 46)
    plans = [plan for plan in every if plan.split == "test"]
    data.mkdir()
    write_lists(plans, write_sequences(plans, data, workers=1, progress=False), data)
    metrics = test_run(shared, "DeepPro", data, tmp_path / "out", "--dataset Synthetic")
    subsets = metrics["protocols"]["hit1_guard4"]["subsets"]
    middle = metrics["thresholds"].index(0.5)
    assert subsets["high_snr"]["pd"][middle] > 0.7
    assert subsets["all"]["fa"][middle] < 1e-3
    assert 0 < subsets["low_snr"]["pd"][middle] < subsets["high_snr"]["pd"][middle]
