"""The comparison as CSV and LaTeX."""

import csv
import re

import pytest

from tests.builders import call
from tests.report.scored import MAIN, evaluate_six
from utils.compare import __main__ as command
from utils.compare.exports import csv_table, latex_table
from utils.compare.intervals import bootstrap, measured
from utils.compare.runs import shared_protocols
from utils.protocols import PROTOCOLS
from utils.report.metrics_file import write_metrics


@pytest.fixture(scope="module")
def runs():
    return [evaluate_six(limit, PROTOCOLS)[0] for limit in (2.0, 2.5)]


def rows_of(text):
    return list(csv.DictReader(text.splitlines()))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_tables_hold_the_figures_of_metrics_json_under_any_protocol(runs, name):
    protocol, names = PROTOCOLS[name], ["one", "two & 50 %_{x}"]
    asked = runs, names, shared_protocols(runs, [name]), 0.5, 50, 1
    rows, latex = rows_of(csv_table(*asked)), latex_table(*asked)
    assert [(row["run"], row["subset"]) for row in rows] == [
        (run, subset) for subset in ("low_snr", "high_snr", "all") for run in names
    ]
    for row in rows:
        assert row["protocol"] == name and row["model"] == "DeepPro"
        run = runs[names.index(row["run"])]
        counted = run["protocols"][name]
        for title, key, factor, digits in protocol.columns:
            figure = counted["subsets"][row["subset"]][key]
            if isinstance(figure, list):
                figure = figure[counted["thresholds"].index(0.5)]
            assert float(row[key]) == pytest.approx(figure)
            assert f"{figure * factor:.{digits}f}" in latex and title in latex
    columns = 3 * len(protocol.columns)
    lines = [text for text in latex.splitlines() if text.endswith("\\\\")]
    assert len(lines) == 4 and all(text.count(" & ") == columns for text in lines[1:3])
    assert r"two \& 50 \%\_\{x\}" in latex


@pytest.mark.parametrize("name", PROTOCOLS)
def test_intervals_are_drawn_under_every_protocol_that_counts_at_one_threshold(runs, name):
    protocol = PROTOCOLS[name]
    found = measured(runs[0], protocol, "all", 0.5, 200, 1)
    drawn = {key for key, (_, low, _) in found.items() if low is not None}
    areas = {"auc", "auc_fd", "auc_td", "auc_tf", "od", "td", "bs", "tdbs", "snpr"}
    assert drawn == found.keys() - areas
    for key in drawn:
        value, low, high = found[key]
        assert low <= value <= high


def test_f1_of_drawn_lists_follows_its_definition():
    protocol = PROTOCOLS["f1_2px"]
    counts = {
        "a": {"targets": 10, "matched": 6, "detections": 8},
        "b": {"targets": 2, "matched": 2, "detections": 12},
    }
    found = bootstrap(protocol, counts, 4000, seed=1)
    assert found["precision"][0] == 8 / 20 and found["recall"][0] == 8 / 12
    assert found["f1"][0] == 16 / 32
    # Lists are aa, ab, ba, bb; the ends are those of one sequence alone, drawn a quarter each.
    assert found["f1"][1:] == (pytest.approx(4 / 14), pytest.approx(12 / 18))


def test_files_are_written_under_the_protocols_asked_for(runs, tmp_path, capsys):
    for place, run in zip("ab", runs, strict=True):
        write_metrics(tmp_path / f"{place}.json", run)
    words = f"{tmp_path}/a.json {tmp_path}/b.json --samples 20 --threshold 0.5"
    tables = f"--csv {tmp_path}/t.csv --latex {tmp_path}/t.tex"
    assert call(command, words, tables, "--protocol f1_2px centroid3") == 0
    printed = capsys.readouterr().out
    assert PROTOCOLS["f1_2px"].title in printed and MAIN.title not in printed
    rows = rows_of((tmp_path / "t.csv").read_text())
    assert {row["protocol"] for row in rows} == {"f1_2px", "centroid3"}
    assert all((row["f1"] == "") == (row["protocol"] == "centroid3") for row in rows)
    tex = (tmp_path / "t.tex").read_text()
    assert len(re.findall(r"\\begin{tabular}", tex)) == tex.count(r"\end{tabular}") == 2


def test_a_protocol_that_a_run_lacks_is_refused_in_one_line(runs, tmp_path, capsys):
    run = {**runs[0], "protocols": {MAIN.name: runs[0]["protocols"][MAIN.name]}}
    write_metrics(tmp_path / "metrics.json", run)
    assert call(command, tmp_path, "--protocol roc3d") == 2
    assert "known here among roc3d: they have hit1_guard4" in capsys.readouterr().err
