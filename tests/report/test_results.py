"""metrics.json keeps its contract; eval.txt and the summary say the same numbers."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.report.scored import ALWAYS, MAIN, Bright, evaluate_six, sequence_of
from utils.compare.intervals import compare
from utils.compare.joint import joint_table
from utils.compare.runs import shared_protocols
from utils.evaluation import Evaluator
from utils.metrics import THRESHOLDS
from utils.protocols import PROTOCOLS
from utils.report.metrics_file import (
    normalisation_entry,
    normalisation_text,
    read_metrics,
    write_metrics,
)
from utils.report.results import (
    header,
    summarise,
    summary_lines,
    timing_line,
    write_eval,
    write_results,
)
from utils.scan import open_scan


class Tested:
    run, name, detector, stabilise = "run", "Network", Bright(), False


@pytest.fixture(scope="module")
def metrics():
    return evaluate_six()[0]


def evaluate(sequence):
    scan = open_scan(Bright(), Bright())
    return Evaluator(scan, ALWAYS.values(), 0.5).run([sequence])


def test_metrics_json_keeps_its_contract(metrics, tmp_path):
    write_metrics(tmp_path / "metrics.json", metrics)
    read = json.loads((tmp_path / "metrics.json").read_text())
    assert read == metrics == read_metrics(tmp_path / "metrics.json")
    assert set(read) >= {"run", "model", "dataset", "seqlen", "threshold_eval", "thresholds", "iou"}
    assert read["thresholds"] == list(THRESHOLDS) and len(THRESHOLDS) == 27
    assert (read["run"], read["model"], read["seqlen"]) == ("bright", "DeepPro", 8)
    assert set(read["timing"]) >= {
        *(f"{step}_seconds" for step in ("reading", "network", "scoring", "output", "total")),
        "frames",
        "frames_per_second",
    }
    for name in ("hit1_guard4", "hit2_guard5"):
        counts = read["protocols"][name]
        assert counts["thresholds"] == list(PROTOCOLS[name].thresholds)
        assert list(counts["sequences"])[:2] == ["Sequence47", "Sequence56"]
        assert set(counts["subsets"]) == {"low_snr", "high_snr", "all"}
        assert counts["subsets"]["low_snr"]["sequences"] == ["Sequence47", "Sequence56"]
        for key in ("pixels", "targets"):
            total = sum(sequence[key] for sequence in counts["sequences"].values())
            assert counts["subsets"]["all"][key] == total and isinstance(total, int)
        whole = counts["subsets"]["all"]
        for key in ("detected", "false_alarm_pixels"):
            parts = [counts["subsets"][subset][key] for subset in ("low_snr", "high_snr")]
            assert [a + b for a, b in zip(*parts, strict=True)] == whole[key]
        for entry in (whole, *counts["sequences"].values()):
            assert entry["pd"] == [count / entry["targets"] for count in entry["detected"]]
            assert entry["fa"] == [count / entry["pixels"] for count in entry["false_alarm_pixels"]]
            assert math.isfinite(entry["auc"])


def test_eval_txt_follows_the_protocol_asked_for(metrics, tmp_path):
    for name, protocol in ALWAYS.items():
        write_eval(tmp_path / "eval.txt", metrics, protocol)
        counts = metrics["protocols"][name]
        text = (tmp_path / "eval.txt").read_text()
        for entry in (*counts["sequences"].values(), *counts["subsets"].values()):
            assert f"FA:[{entry['false_alarm_pixels'][0]}, " in text
        assert f"Final results:\tAUC:{counts['subsets']['all']['auc']:.5f}\n" in text
        order = [text.index(title) for title in ("Low SNR", "High SNR", "Final", "Eval avg class")]
        assert order == sorted(order)
    without = copy.deepcopy(metrics)
    for counts in without["protocols"].values():
        del counts["subsets"]["low_snr"], counts["subsets"]["high_snr"]
    write_eval(tmp_path / "eval.txt", without, MAIN)
    assert "SNR" not in (tmp_path / "eval.txt").read_text()


def test_a_set_without_targets_is_reported_not_crashed(tmp_path):
    empty = np.zeros((9, 20, 20), np.uint8)
    evaluation = evaluate(sequence_of("empty", empty / 1, empty, empty))
    metrics = summarise(evaluation, {}, header(Tested(), "Mine", 0.5))
    write_results(tmp_path, "", metrics, [], MAIN)
    assert metrics["protocols"][MAIN.name]["subsets"]["all"]["auc"] is None
    assert any("Pd -  Fa 0.00  AUC -" in line for line in summary_lines(metrics))
    assert read_metrics(tmp_path / "metrics.json") == metrics


def test_the_terminal_gets_ten_lines(metrics):
    lines = summary_lines(metrics)
    assert len(lines) <= 9  # and one that says where the results are
    for word in ("reading", "network", "scoring", "frames/s"):
        assert word in lines[-1]
    low = metrics["protocols"][MAIN.name]["subsets"]["low_snr"]
    pd, fa = (low[key][metrics["thresholds"].index(0.5)] for key in ("pd", "fa"))
    expected = f"Pd {100 * pd:.2f}  Fa {1e5 * fa:.2f}  AUC {low['auc']:.4f}"
    assert lines[1] == f"  {MAIN.title}  low SNR   {expected}"


def test_a_published_row_stands_beside_the_run_under_its_own_protocol_on_its_own_targets(metrics):
    assert not any("published: " in line for line in summary_lines(metrics))
    same = copy.deepcopy(metrics)
    for counted in same["protocols"].values():
        counted["subsets"]["all"]["targets"] = 1729
        counted["subsets"]["low_snr"]["targets"] = 529
    for model, protocol in (("DeepPro", "hit2_guard5"), ("DeepPro-Plus", "hit1_guard4")):
        same["model"] = model
        beside = [line for line in summary_lines(same) if "published: " in line]
        assert len(beside) == 2 and all(PROTOCOLS[protocol].title in line for line in beside)
        assert "published DeepPro row was scored with" in "".join(summary_lines(same))


def test_timing_says_where_the_time_went(metrics):
    timing = metrics["timing"]
    for step in ("reading", "network", "scoring", "output"):
        assert 0 <= timing[f"{step}_seconds"] <= timing["total_seconds"]
    assert timing["frames"] == 72
    unlabelled = evaluate(sequence_of("u", np.zeros((9, 20, 20)))).timing
    assert timing_line(unlabelled).startswith("9 frames in ")
    assert timing_line(replace(unlabelled, sequences=3)).startswith("9 frames of 3 sequences in ")
    assert timing["sequences"] == 6


def _without(key, *path):
    def change(metrics):
        for step in path:
            metrics = metrics[step]
        del metrics[key]

    return change


def _shorten(metrics):
    metrics["protocols"][MAIN.name]["subsets"]["all"]["pd"].pop()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda metrics: metrics.clear(), "no 'run'"),
        (_without("iou"), "no 'iou'"),
        (lambda metrics: metrics.update(protocols=[]), "bad 'protocols'"),
        (lambda metrics: metrics.update(protocols={}), "no protocol"),
        (_without("sequences", "protocols", MAIN.name), f"{MAIN.name}: no 'sequences'"),
        (_without("all", "protocols", MAIN.name, "subsets"), "no subset 'all'"),
        (lambda metrics: metrics.update(normalisation=[1, 2]), "list, expected an object"),
        (lambda metrics: metrics.update(normalisation={"mean": 1}), "'normalisation': no 'std'"),
        (
            lambda metrics: metrics.update(normalisation={"sequences": {"a": {"mean": "x"}}}),
            "of 'normalisation': bad 'mean'",
        ),
        (
            lambda metrics: metrics.update(normalisation={"mean": 10**400, "std": 1}),
            "'mean' that is no number",
        ),
        (_shorten, "all in protocol hit1_guard4: 26 numbers in 'pd' for 27 thresholds"),
    ],
)
def test_a_file_that_is_no_whole_metrics_json_is_refused_in_one_line(
    metrics, tmp_path, change, words
):
    broken = copy.deepcopy(metrics)
    change(broken)
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="not a metrics.json") as error:
        read_metrics(path)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b'{"run": "x", "pro', b"[1, 2]", b"\xff\xfe{}"])
def test_a_file_that_broke_off_is_refused(tmp_path, content):
    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(ValueError, match="metrics.json: not a metrics.json"):
        read_metrics(tmp_path / "metrics.json")


def test_files_of_earlier_versions_are_read_with_the_thresholds_of_the_whole_file(
    metrics, tmp_path
):
    earlier = copy.deepcopy(metrics)
    for counts in earlier["protocols"].values():
        del counts["thresholds"]
    (tmp_path / "metrics.json").write_text(json.dumps(earlier))
    assert read_metrics(tmp_path / "metrics.json") == metrics
    del earlier["normalisation"]
    (tmp_path / "metrics.json").write_text(json.dumps(earlier))
    assert normalisation_text(read_metrics(tmp_path / "metrics.json")) is None


def test_the_normalisation_is_that_of_all_or_of_each_sequence_its_own():
    one, other = (100, 20.0), (90.0, 20.0)
    assert normalisation_entry({"a": one, "b": one}) == {"mean": 100.0, "std": 20.0}
    entry = normalisation_entry({"a": one, "b": other})
    assert entry == {
        "sequences": {"a": {"mean": 100.0, "std": 20.0}, "b": {"mean": 90.0, "std": 20.0}}
    }
    assert normalisation_entry({}) is None
    words = "each sequence's own: mean 90.0000 to 100.0000, std 20.0000"
    assert normalisation_text({"normalisation": entry}) == words


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name not in ALWAYS])
def test_every_other_protocol_is_reported_by_its_own_columns(tmp_path, name):
    protocol = PROTOCOLS[name]
    metrics, _ = evaluate_six(protocols=[name])
    write_results(tmp_path, "", metrics, [], protocol)
    assert read_metrics(tmp_path / "metrics.json") == metrics
    assert list(metrics["protocols"]) == [*ALWAYS, name]
    counted = metrics["protocols"][name]
    at = counted["thresholds"].index(0.5)
    texts, words = [], []
    for title, key, factor, digits in protocol.columns:
        figure = counted["subsets"]["all"][key]
        figure = figure[at] if isinstance(figure, list) else figure
        texts.append("-" if figure is None else f"{figure * factor:.{digits}f}")
        words.append(f"{title} {texts[-1]}")
    shown = [line for line in summary_lines(metrics) if line.startswith(f"  {protocol.title} ")]
    assert len(shown) == 3 and shown[-1].endswith(f"  all       {'  '.join(words)}")
    page = (tmp_path / "report.html").read_text().replace(' class=""', "")
    assert "".join(f"<th>{title}</th>" for title, *_ in protocol.columns) in page
    assert "".join(f"<td>{text}</td>" for text in texts) in page
    assert protocol.title in page[page.index("What the numbers mean") :]
    evaluated = (tmp_path / "eval.txt").read_text().splitlines()
    lines = [line for line in evaluated if f"Th_Seg = {0.5:e}:\t" in line]
    assert len(lines) == 6 + 3 and all("[" in line and "nan" not in line for line in lines)
    joint = joint_table([metrics, metrics])
    assert any(line.split()[-len(texts) :] == texts for line in joint)
    runs = [metrics, metrics]
    assert compare(runs, ["1", "2"], shared_protocols(runs), 0.5, 20, 1)
