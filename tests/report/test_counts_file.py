"""Published files of counts as runs of the comparison."""

import copy
import csv
from types import SimpleNamespace

import numpy as np
import pytest

from tests.builders import ArraySequence, call
from tests.report.scored import ALWAYS, MAIN, Bright
from utils.compare import __main__ as command
from utils.compare.counts_file import COUNTS_LINE, pixels_of, read_counts
from utils.compare.runs import open_run
from utils.evaluation import Evaluator
from utils.protocols import PROTOCOLS, choose
from utils.report.metrics_file import write_metrics
from utils.report.results import header, summarise, write_eval
from utils.scan import open_scan

RELEASED = "released/dtum/Epoch20_ROC_ShootingRules.txt"
DEEPPRO = "released/sem_seg/NUDT-MIRSDT__2024-12-28_16-21__SoftLoUloss_DeepPro_DataL40"


def line(threshold, detected, targets, alarms, pixels):
    """A line as published."""
    return (
        f"Th_Seg = {threshold:e}:\tPD:[{detected}/{targets}, {detected / targets:.5f}]\t"
        f"FA:[{alarms}, {alarms / pixels:e}]"
    )


def two_sequences():
    """Two targets in 1,000 pixels and one in 500, under hit 1, guard 4: 81 pixels guarded each."""
    first = [line(0, 2, 2, 838, 1000), line(0.5, 1, 2, 4, 1000), line(1, 0, 2, 0, 1000)]
    second = [line(0, 1, 1, 419, 500), line(0.5, 1, 1, 2, 500), line(1, 1, 1, 0, 500)]
    final = [line(0, 3, 3, 1257, 1500), line(0.5, 2, 3, 6, 1500), line(1, 1, 3, 0, 1500)]
    return ["Seq5results:", *first, "Seq6results:", *second, "Final results:\tAUC:0.1", *final]


def written(tmp_path, lines):
    path = tmp_path / "counts.txt"
    path.write_text("\n".join(lines))
    return path


def test_counts_are_read_as_written_and_figures_are_made_of_them(tmp_path):
    run = read_counts(written(tmp_path, two_sequences()))
    (name,) = run["protocols"]
    counted = run["protocols"][name]
    assert name == "hit1_guard4" and counted["thresholds"] == [0, 0.5, 1]
    assert list(counted["sequences"]) == ["Sequence5", "Sequence6"]
    assert [each["pixels"] for each in counted["sequences"].values()] == [1000, 500]
    everything = counted["subsets"]["all"]
    assert everything["pd"] == [1, 2 / 3, 1 / 3] and everything["fa"] == [1257 / 1500, 0.004, 0]
    # Trapezoids of Pd over Fa: between 0 and .004, and from there to .838.
    area = 0.004 * (1 / 3 + 2 / 3) / 2 + (0.838 - 0.004) * (2 / 3 + 1) / 2
    assert everything["auc"] == pytest.approx(area)
    assert run["iou"] is None and run["dataset"] is None


def test_the_guard_tells_the_protocol(tmp_path):
    wide = [text.replace("[838, 8.38", "[758, 7.58") for text in two_sequences()]
    wide = [text.replace("[419, 8.38", "[379, 7.58") for text in wide]
    wide = [text.replace("[1257, 8.38", "[1137, 7.58") for text in wide]
    with pytest.warns(UserWarning, match="names no protocol; with 121.0 .* 3x3 pixels it is hit 1"):
        assert list(read_counts(written(tmp_path, wide))["protocols"]) == ["hit2_guard5"]
    none = [text.replace("838, 8.38", "998, 9.98") for text in two_sequences()[:4]]
    with pytest.raises(ValueError, match="1.0 pixels guarded for each target"):
        read_counts(written(tmp_path, none))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [], "no line such as"),
        (lambda lines: [text.replace("[6, 4.0", "[7, 4.0") for text in lines], "not the sum"),
        (lambda lines: [text.replace("[4, 4.0", "[5, 4.0") for text in lines], "do not belong"),
        (lambda lines: lines[:6] + lines[7:], "Sequence6 has other thresholds"),
        (lambda lines: [text for text in lines if "0.000000e+00:" not in text], "threshold 0"),
        (lambda lines: [text.replace("[1/2, 0.5", "[1/3, 0.3") for text in lines], "number of"),
    ],
)
def test_what_is_no_whole_file_of_counts_is_refused(tmp_path, change, words):
    path = written(tmp_path, change(two_sequences()))
    with pytest.raises(ValueError, match="counts.txt: not a file of published counts") as error:
        read_counts(path)
    assert words in str(error.value)


def evaluated(rng, names=("Sequence47", "Sequence85"), side=1, protocols=()):
    """The metrics of two sequences, one of low and one of high SNR."""
    sequences = []
    for name in names:
        masks = np.zeros((9, 30, 34), np.uint8)
        for frame in range(9):  # no square leaves the frame
            masks[frame, 8 + frame : 8 + frame + side, 10 + frame : 10 + frame + side] = 1
        frames = rng.integers(60, 150, masks.shape, dtype=np.uint8) + 40 * masks
        sequences.append(ArraySequence(name, frames, masks))
    detector = Bright()
    evaluation = Evaluator(open_scan(detector, detector), choose(protocols), 0.5).run(sequences)
    given = {"run": "bright", "name": "DeepPro", "detector": detector, "stabilise": False}
    subsets = {"low_snr": names[:1], "high_snr": names[1:]}
    return summarise(evaluation, subsets, header(SimpleNamespace(**given), "Mine", 0.5))


def agree(counted, expected):
    """Whether all that was read of a protocol is in a metrics.json."""
    parts = ("sequences", "subsets")
    return counted["thresholds"] == expected["thresholds"] and all(
        counted[part].keys() == expected[part].keys()
        and all(entry.items() <= expected[part][each].items() for each, entry in own)
        for part in parts
        for own in [counted[part].items()]
    )


def test_an_eval_txt_written_here_is_read_back(tmp_path, rng):
    metrics = evaluated(rng)
    for name, protocol in ALWAYS.items():
        write_eval(tmp_path / "eval.txt", metrics, protocol)
        found = open_run(tmp_path)
        assert found["iou"] == pytest.approx(metrics["iou"], abs=1e-6)
        assert agree(found["protocols"][name], metrics["protocols"][name])


@pytest.mark.parametrize("name", [*ALWAYS, "centroid3", "centroid3_legacy"])
def test_an_eval_txt_names_its_protocol_where_the_counts_do_not_tell_it(
    tmp_path, rng, recwarn, name
):
    metrics = evaluated(rng, side=3, protocols=[name])  # of guard 4 these look like guard 5
    write_eval(tmp_path / "eval.txt", metrics, PROTOCOLS[name])
    found = open_run(tmp_path)["protocols"]
    assert list(found) == [name] and agree(found[name], metrics["protocols"][name])
    assert not recwarn


def test_where_no_protocol_is_named_the_metrics_json_beside_tells_it(tmp_path, rng, recwarn):
    metrics = evaluated(rng, side=3)
    write_eval(tmp_path / "eval_epoch-5.txt", metrics, MAIN)
    path, lines = tmp_path / "eval_epoch-5.txt", (tmp_path / "eval_epoch-5.txt").read_text()
    path.write_text("".join(line for line in lines.splitlines(True) if line[0] != "#"))
    write_metrics(tmp_path / "metrics_epoch-5.json", metrics)
    assert list(read_counts(path)["protocols"]) == [MAIN.name] and not recwarn
    other = copy.deepcopy(metrics)  # of another test
    for counted in other["protocols"].values():
        counted["sequences"]["Sequence47"]["detected"][0] -= 1
    write_metrics(tmp_path / "metrics_epoch-5.json", other)
    with pytest.warns(UserWarning, match="names no protocol"):
        assert list(read_counts(path)["protocols"]) == ["hit2_guard5"]


def test_the_protocols_name_moves_no_line_and_takes_the_place_of_an_empty_one(tmp_path, rng):
    write_eval(tmp_path / "eval.txt", evaluated(rng), MAIN)
    lines = (tmp_path / "eval.txt").read_text().splitlines()
    (place,) = [index for index, line in enumerate(lines) if line[:1] == "#"]
    assert lines[place - 1].endswith("Sequence47 results:") and "Th_Seg" in lines[place + 1]
    # From here on every second line is empty, as published.
    assert lines[place].endswith(MAIN.name) and not any(lines[place + 2 : -1 : 2])


@pytest.mark.parametrize("name", ["centroid3", MAIN.name])
@pytest.mark.parametrize(
    "sequence",
    ["a-b", "a: b", "1 - Model - INFO - x", "x results:", "Seq5", "Final", " a ", "红外"],
)
def test_sequences_of_any_name_are_read_back(tmp_path, rng, sequence, name):
    metrics = evaluated(rng, (sequence, "other"), protocols=[name])
    write_eval(tmp_path / "eval.txt", metrics, PROTOCOLS[name])
    found = open_run(tmp_path)["protocols"]
    assert agree(found[name], metrics["protocols"][name])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("# protocol hit1_guard4", "# protocol hit9", "counted by hit9, which is not known here"),
        (
            "# protocol hit1_guard4",
            "# protocol f1_2px",
            "holds no counts; expected the metrics.json",
        ),
        ("/9,", f"/{10**30},", "a count of 31 digits"),
    ],
)
def test_an_eval_txt_that_cannot_be_compared_says_why(tmp_path, rng, old, new, words):
    write_eval(tmp_path / "eval.txt", evaluated(rng), MAIN)
    path = written(tmp_path, [(tmp_path / "eval.txt").read_text().replace(old, new)])
    with pytest.raises(ValueError, match=words):
        read_counts(path)


def test_the_released_counts_of_dtum_give_the_published_rows(shared, tmp_path, capsys):
    table = tmp_path / "table.csv"
    assert call(command, shared / RELEASED, "--csv", table, "--protocol", MAIN.name) == 0
    printed = capsys.readouterr().out
    assert "Pd 91.68  Fa 2.37  AUC 0.9921" in printed
    with table.open() as file:
        rows = {row["subset"]: row for row in csv.DictReader(file)}
    for subset, detected, targets, alarms, auc in (
        ("low_snr", 485, 529, 1246, 0.99212),
        ("high_snr", 1200, 1200, 2722, 0.99876),
        ("all", 1685, 1729, 3968, 0.99665),
    ):
        row = rows[subset]
        pixels = {"low_snr": 52_604_700, "high_snr": 79_704_400, "all": 132_309_100}[subset]
        assert float(row["pd"]) == detected / targets and float(row["fa"]) == alarms / pixels
        assert float(row["auc"]) == pytest.approx(auc, abs=5e-6)
    (found,) = read_counts(shared / RELEASED)["protocols"].values()
    assert len(found["thresholds"]) == 50


def test_a_released_run_without_metrics_is_compared_by_its_eval_txt(shared, capsys):
    run = open_run(shared / DEEPPRO)
    assert list(run["protocols"]) == ["hit2_guard5"] and run["iou"] == 0.837066
    assert call(command, shared / DEEPPRO, shared / RELEASED) == 2
    assert "no protocol in common" in capsys.readouterr().err
    plus = str(shared / DEEPPRO).replace("_DeepPro_", "_DeepPro-Plus_")
    assert call(command, shared / RELEASED, plus, "--samples", 100) == 0
    printed = capsys.readouterr().out
    assert "Thresholds of hit1_guard4 differ (50, 27): areas do not compare" in printed
    assert "minus 1: Pd +2.26 [" in printed


def test_the_number_of_pixels_is_the_one_that_every_line_agrees_on():
    lines = two_sequences()[1:3]
    assert pixels_of([COUNTS_LINE.search(text) for text in lines]) == 1000
