"""Runs beside each other: the comparison with intervals, and the joint table."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

from tests.builders import call
from tests.report.scored import ALWAYS, MAIN, evaluate_six
from utils.command_line import run_command
from utils.compare import __main__ as command
from utils.compare.intervals import bootstrap, bootstrap_difference, compare, sequence_counts
from utils.compare.joint import joint_table
from utils.compare.runs import shared_protocols
from utils.report.metrics_file import write_metrics


@pytest.fixture(scope="module")
def runs():
    """The metrics of two detectors; the second is the shyer one."""
    return evaluate_six()[0], evaluate_six(limit=2.5)[0]


@pytest.fixture
def folders(runs, tmp_path):
    paths = [tmp_path / "one", tmp_path / "two"]
    for path, metrics in zip(paths, runs, strict=True):
        path.mkdir()
        write_metrics(path / "metrics.json", metrics)
    return paths


def lines_of(runs, threshold=0.5):
    names = [f"run {number}" for number in range(1, len(runs) + 1)]
    return compare(runs, names, shared_protocols(runs), threshold, 200, seed=1)


def refused(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: command.main(command.parse_args(map(str, words))))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_a_run_whose_frames_were_laid_on_each_other_is_told(runs):
    plain, laid = (
        {**run, "stabilised": value} for run, value in zip(runs, (False, True), strict=True)
    )
    told = "Frames were laid on each other first (--stabilise) in run 2"
    assert told in "\n".join(lines_of([plain, laid]))
    untold = {key: value for key, value in plain.items() if key != "stabilised"}
    for pair in ([laid, laid], [plain, plain], [untold, laid]):
        assert not any("laid on" in line for line in lines_of(pair))


def test_how_far_marks_reach_is_told_where_it_differs(runs):
    cut = {**runs[1], "mark_reach": 3}
    told = "Detections are not marked as a whole (--mark_reach): 3 px in run 2"
    assert told in "\n".join(lines_of([runs[0], cut]))
    for pair in ([cut, cut], [runs[0], {**cut, "mark_reach": None}]):
        assert not any("--mark_reach" in line for line in lines_of(pair))


def test_of_runs_with_tracks_it_is_told_that_these_are_not_compared(runs):
    tracked = {**runs[1], "tracks": {"tracks": 3}}
    told = "Of run 2 all detections are compared, not those of tracks"
    assert told in "\n".join(lines_of([runs[0], tracked]))
    assert not any("tracks" in line for line in lines_of(runs))


@pytest.mark.usefixtures("drawn")
def test_comparing_a_run_with_itself_shows_no_difference(folders, tmp_path, capsys):
    arguments = [folders[0], folders[0] / "metrics.json", "--samples", 200]
    arguments += ["--output", tmp_path / "x.png"]
    command.main(command.parse_args(map(str, arguments)))
    printed = capsys.readouterr().out
    differences = [line for line in printed.splitlines() if "minus 1" in line]
    assert len(differences) == 6
    assert all(line.count("+0.00 [+0.00, +0.00]") == 2 for line in differences)
    for protocol in ALWAYS:
        with Image.open(tmp_path / f"x_{protocol}.png") as image:
            image.load()


def test_the_interval_holds_the_value_and_the_difference_is_paired(runs):
    first, second = (sequence_counts(run, MAIN, "all", 0.5) for run in runs)
    alone = bootstrap(MAIN, second, 500, seed=1)
    for value, low, high in alone.values():
        assert low <= value <= high
    paired = bootstrap_difference(MAIN, first, second, 500, seed=1)
    base = bootstrap(MAIN, first, 500, seed=1)
    assert paired["pd"][0] == pytest.approx(alone["pd"][0] - base["pd"][0])
    assert paired["pd"][0] < 0
    assert bootstrap_difference(MAIN, first, {"other": first["Sequence47"]}, 5, 1) is None


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.95])
def test_thresholds_are_found_by_value_in_the_grid_of_each_protocol(runs, threshold):
    shuffled = copy.deepcopy(runs[0])
    counted = shuffled["protocols"][MAIN.name]
    order = np.random.default_rng(1).permutation(len(counted["thresholds"]))
    for entry in (counted, *counted["sequences"].values(), *counted["subsets"].values()):
        for key in ("thresholds", "detected", "false_alarm_pixels", "pd", "fa"):
            if key in entry:
                entry[key] = [entry[key][index] for index in order]
    assert lines_of([shuffled], threshold) == lines_of([runs[0]], threshold)


def test_the_iou_is_told_at_the_threshold_that_it_was_computed_at_only(runs):
    whole = [line for line in lines_of([runs[0]]) if "IoU" in line]
    assert whole and all(line.endswith(f"IoU {runs[0]['iou']:.4f}") for line in whole)
    overlap, _ = evaluate_six(protocols=["iou_niou"])
    own = overlap["protocols"]["iou_niou"]["subsets"]["all"]["iou"][0]
    assert any(f"  run 1: IoU {own:.4f} [" in line for line in lines_of([overlap], 0.1))
    at_another = [line for line in lines_of([runs[0]], threshold=0.1) if "IoU" in line]
    assert at_another and all(line.endswith("IoU - (computed at 0.5)") for line in at_another)


def test_one_sequence_has_no_interval_and_no_target_no_rate(runs):
    single = copy.deepcopy(runs[0])
    for counted in single["protocols"].values():
        subset = counted["subsets"]["low_snr"]
        subset["sequences"] = subset["sequences"][:1]
        for name in counted["subsets"]["high_snr"]["sequences"]:
            counted["sequences"][name]["targets"] = 0
            counted["sequences"][name]["detected"] = [0] * 27
        counted["subsets"]["high_snr"]["auc"] = None
    lines = lines_of([single, single])
    low = lines.index(f"{MAIN.title}, low SNR")
    assert lines[low + 1].count("[-]") == 2 and lines[low + 3].count("+0.00 [-]") == 2
    high = lines.index(f"{MAIN.title}, high SNR")
    assert "Pd -  Fa " in lines[high + 1] and "AUC -" in lines[high + 1]
    assert "Pd -  Fa +0.00" in lines[high + 3]
    assert "nan" not in "\n".join(lines)


def test_runs_of_other_data_or_protocols_are_told_apart(runs):
    other = copy.deepcopy(runs[1])
    other["dataset"] = "Mine"
    for counted in other["protocols"].values():
        counted["sequences"] = {f"x{name}": entry for name, entry in counted["sequences"].items()}
        for subset in counted["subsets"].values():
            subset["sequences"] = [f"x{name}" for name in subset["sequences"]]
    del other["protocols"]["hit2_guard5"]
    lines = lines_of([runs[0], other])
    assert lines[1].startswith("Not comparable: run 2 is on Mine")
    assert lines[2] == "Left out, not of all runs or not known here: hit2_guard5"
    assert any("minus 1: other sequences, no paired difference" in line for line in lines)
    assert not any(ALWAYS["hit2_guard5"].title in line for line in lines)


@pytest.mark.parametrize("key", ["frames", "pixels", "targets"])
def test_other_data_of_the_same_names_and_numbers_of_targets_are_told_apart(runs, key):
    """Such as a set and the same one enlarged."""
    other = copy.deepcopy(runs[1])
    for counted in other["protocols"].values():
        counted["sequences"]["Sequence56"][key] += 3
        counted["sequences"]["Sequence87"][key] -= 3  # the total stays
    number = runs[0]["protocols"][MAIN.name]["sequences"]["Sequence56"][key]
    told = f"Not comparable: Sequence56 has {number + 3} {key} in run 2, {number} in run 1"
    lines = lines_of([runs[0], other, runs[1]])
    assert [line for line in lines if "Not comparable" in line] == [told]
    assert sum("minus 1: other sequences, no paired difference" in line for line in lines) == 6
    assert sum("minus 1: Pd" in line for line in lines) == 6
    joint = joint_table([runs[0], other])
    assert told.replace("run 2", f"2 {other['model']}") in joint
    assert not any("Not comparable" in line for line in [*lines_of(runs), *joint_table(runs)])


def test_another_sequence_with_as_many_targets_is_told(runs):
    other = copy.deepcopy(runs[1])
    for counted in other["protocols"].values():
        counted["sequences"]["mine"] = counted["sequences"].pop("Sequence88")
        for subset in counted["subsets"].values():
            subset["sequences"] = [
                "mine" if name == "Sequence88" else name for name in subset["sequences"]
            ]
    told = "Not comparable: Sequence88 is a sequence of run 1 or of run 2 alone"
    assert told in lines_of([runs[0], other])


def test_pixels_that_follow_from_a_written_fa_are_no_other_data(runs):
    near = copy.deepcopy(runs[1])
    both = copy.deepcopy(runs[0]), near
    for number, run in enumerate(both):
        for counted in run["protocols"].values():
            for entry in counted["sequences"].values():
                entry["pixels"] = 6_553_600 + 4 * number
    assert not any("Not comparable" in line for line in lines_of(both))


def test_another_normalisation_is_told_as_far_as_runs_tell_theirs(runs):
    def given(entry):
        if entry is None:
            return {key: value for key, value in runs[1].items() if key != "normalisation"}
        return {**runs[1], "normalisation": entry}

    def notes(*others):
        lines = [*lines_of([runs[0], *map(given, others)]), *joint_table([runs[0], *others_of])]
        return [line for line in lines if "normalised" in line]

    others_of = []
    same, other = {"mean": 105.4, "std": 26.6}, {"mean": 90, "std": 26.6}
    names = runs[0]["protocols"][MAIN.name]["sequences"]
    own = {"sequences": dict.fromkeys(names, same) | {"Sequence85": other}}
    for alike in (None, same, {"mean": 105.4 * (1 + 1e-9), "std": 26.6}):
        assert notes(alike) == []
    assert notes({"sequences": dict.fromkeys(names, same)}) == []
    told = "Grey levels were normalised otherwise: run 1 by mean 105.4000, std 26.6000; "
    assert notes(None, other) == [told + "run 3 by mean 90.0000, std 26.6000"]
    span = "each sequence's own: mean 90.0000 to 105.4000, std 26.6000"
    assert notes(own) == [told + f"run 2 by {span}"]
    others_of = [given(other)]
    assert len(notes(same)) == 1  # of the joint table


def test_a_subset_of_which_the_sequences_are_not_told_has_figures_without_intervals(runs):
    earlier = copy.deepcopy(runs[0])
    for counted in earlier["protocols"].values():
        del counted["subsets"]["low_snr"]["sequences"]
    lines = lines_of([earlier, runs[1]])
    line = lines[lines.index(f"{MAIN.title}, low SNR") + 1]
    entry = earlier["protocols"][MAIN.name]["subsets"]["low_snr"]
    pd = 100 * entry["pd"][earlier["thresholds"].index(0.5)]
    assert line.startswith(f"  run 1: Pd {pd:.2f}  Fa ") and "[" not in line


def test_the_joint_table_has_every_run_under_every_protocol(runs):
    lines = joint_table([*runs, runs[0]])
    for name, protocol in ALWAYS.items():
        top = lines.index(f"{protocol.title}, threshold 0.5; Pd in 1e-2, Fa in 1e-5")
        iou = ["IoU", "at", "0.5"] if protocol is MAIN else []
        assert lines[top + 2].split() == [*iou, *3 * ("Pd", "Fa", "AUC")]
        for row, run in zip(lines[top + 3 :], [*runs, runs[0]], strict=False):
            at = run["thresholds"].index(0.5)
            numbers = [f"{run['iou']:.4f}"] if iou else []
            for subset in ("low_snr", "high_snr", "all"):
                entry = run["protocols"][name]["subsets"][subset]
                numbers += [f"{100 * entry['pd'][at]:.2f}", f"{1e5 * entry['fa'][at]:.2f}"]
                numbers += [f"{entry['auc']:.4f}"]
            assert row.split()[2:] == numbers
        assert len({len(row) for row in lines[top + 2 : top + 6]}) == 1


ODD = (None, "x", [], {}, -1, 3.5, True, [None], 10**30, ["x"] * 27, [0.5] * 27, {"all": {}}, 1e400)


def places_of(node, path=()):
    """The keys of all that a metrics.json holds, as tuples."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places_of(value, (*path, key))


def test_any_other_value_anywhere_is_compared_or_refused_in_one_line(tmp_path, folders, capsys):
    text = (folders[0] / "metrics.json").read_text()
    places, rng = list(places_of(json.loads(text))), np.random.default_rng(46)
    ends = []
    for number in range(150):
        metrics = json.loads(text)
        # Half of the changes near the top, where most of the form is.
        few = [p for p in places if len(p) < 5] if number % 2 else places
        *path, last = few[rng.integers(len(few))]
        parent = metrics
        for key in path:
            parent = parent[key]
        if number % 5 == 0:
            del parent[last]
        else:
            parent[last] = ODD[rng.integers(len(ODD))]
        (tmp_path / "metrics.json").write_text(json.dumps(metrics))
        outputs = f"--csv {tmp_path / 'x.csv'} --latex {tmp_path / 'x.tex'} --samples 20"
        ends.append(call(command, tmp_path, folders[0], outputs))
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == (ends[-1] == 2), (path, last, errors)
    assert set(ends) == {0, 2}


@pytest.mark.parametrize("key", ["targets", "detected", "iou", "threshold_eval"])
def test_a_number_that_no_test_can_count_to_is_refused(tmp_path, folders, capsys, key):
    metrics = json.loads((folders[0] / "metrics.json").read_text())
    entry = metrics["protocols"][MAIN.name]["sequences"]["Sequence47"]
    if key in metrics:
        metrics[key] = 10**400
    else:
        entry[key] = 10**30 if key == "targets" else [10**30] * len(entry[key])
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert f"'{key}' that is no number, or not within" in refused(capsys, tmp_path)


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path, folders, capsys):
    (tmp_path / "metrics.json").write_text("{}")
    assert "no 'run'" in refused(capsys, tmp_path)
    assert "no such file" in refused(capsys, tmp_path / "absent")
    assert "expected one of" in refused(capsys, folders[0], "--threshold", 0.51)
    assert "expected 1 or more" in refused(capsys, folders[0], "--samples", 0)
    assert "1,000,000 at most" in refused(capsys, folders[0], "--samples", 10**12)
    assert "--seed" in refused(capsys, folders[0], "--seed", -1)
    text = (folders[0] / "metrics.json").read_text()
    (folders[0] / "metrics.json").write_text(text.replace("hit1_guard4", "x").replace("hit2", "y"))
    assert "no protocol in common" in refused(capsys, *folders)
