"""The published tables anew, and the published rows."""

import copy

import pytest

from tests.report.scored import ALWAYS, evaluate_six
from utils.compare.published_table import published_table
from utils.report.published import PUBLISHED, PUBLISHED_COST, published_row
from utils.report.results import summary_lines, write_results

EFFICIENCY = {
    **{"height": 480, "width": 720, "parameters": 49129, "kib": 191.91015625},
    **{"gmac": 4.8312, "gmac_with_norms": 5.3451, "gmac_streamed": None},
    **{"frames_per_second": 12.346, "frames": 40, "runs": 5, "setting": "fast engine, fp32"},
    "hardware": "a processor, 2 threads",
}
# Res-UNet+DTUM, STDMANet, Res-U+RFR, DeepPro, DeepPro-Plus: Pd, Fa, AUC as in the paper's tables.
PAPER = {
    ("NUDT-MIRSDT", "low_snr"): "91.68 2.37 .9921  92.82 2.88 .9860  64.65 24.09 .8698  "
    "95.84 0.52 .9952  99.24 1.65 .9955",
    ("NUDT-MIRSDT", "all"): "97.46 3.00 .9967  96.59 3.40 .9908  88.61 11.58 .9502  "
    "98.50 0.72 .9973  99.71 2.69 .9978",
    ("NUDT-MIRSDT-Noise", "all"): "43.90 4.86 .9413  51.65 1.95 .8766  35.11 464.92 .8655  "
    "59.17 1.76 .9638  76.23 1.69 .9171",
}


@pytest.fixture(scope="module")
def metrics():
    metrics = evaluate_six()[0]
    metrics["efficiency"] = EFFICIENCY
    return metrics


@pytest.mark.parametrize("place", PAPER)
def test_the_published_rows_are_those_of_the_paper(place):
    numbers = iter(map(float, PAPER[place].split()))
    assert len(PUBLISHED[place]) == 5
    for model in PUBLISHED_COST:
        row = published_row(*place, model)
        assert (row.pd, row.fa, row.auc) == (next(numbers), next(numbers), next(numbers))


def test_own_and_quoted_numbers_stand_beside_each_other_each_with_its_protocol(metrics):
    lines = published_table([metrics])
    assert lines[0] == "Cost at frames of 480x720; threshold 0.5; Pd in 1e-2, Fa in 1e-5"
    own, wider, quoted = lines[3:6]
    assert own.startswith("  1 DeepPro") and own.split()[2:6] == ["191.91", "4.83", "5.35", "12.35"]
    for name, line in zip(ALWAYS, (own, wider), strict=True):
        counted, numbers = metrics["protocols"][name], []
        at = counted["thresholds"].index(0.5)
        for subset in ("low_snr", "high_snr", "all"):
            entry = counted["subsets"][subset]
            numbers += [f"{100 * entry['pd'][at]:.2f}", f"{1e5 * entry['fa'][at]:.2f}"]
            numbers.append(f"{entry['auc']:.4f}")
        assert line.split()[-9:] == numbers and ALWAYS[name].title in line
    assert quoted.split() == (
        [
            "quoted:",
            "DeepPro",
            "192",
            "-",
            "5.3",
            "155.40",
            "hit",
            "2,",
            "guard",
            "5",
            "95.84",
            "0.52",
            "0.9952",
            "-",
            "-",
            "-",
            "98.50",
            "0.72",
            "0.9973",
        ]
    )
    others = [line.split()[1] for line in lines[6:] if line.startswith("    quoted: ")]
    assert others == [name for name in PUBLISHED_COST if name != "DeepPro"]
    assert any("quoted: Res-U+RFR" in line and "not known" in line for line in lines)


def test_what_is_not_reproducible_is_said(metrics):
    text = "\n".join(published_table([metrics]))
    assert "3980 KB and 48.2 G are not reproducible from its released code" in text
    (row,) = (line for line in text.splitlines() if "quoted: Res-U+RFR " in line)
    assert row.split()[2:6] == ["3980*", "-", "48.2*", "34.77"] and "\n  * Res-U+RFR: " in text
    assert "STDMANet here is a reconstruction" in text
    for rule in ("of convolutions and linear maps", "after warming up, synchronised; median"):
        assert rule in text
    assert "5 runs of 40 frames, fast engine, fp32, a processor, 2 threads" in text
    assert "not measured here" in text and "Not comparable: the published rows are of 1729" in text


def test_the_quoted_row_stands_below_the_last_run_of_its_model(metrics):
    other = {**metrics, "model": "STDMANet"}
    lines = published_table([metrics, other, metrics])
    labels = [line[2:].split("  ")[0] or "-" for line in lines if line.startswith("  ")]
    names = [label for label in labels if label[:1].isdigit() and ":" not in label]
    assert names == ["1 DeepPro", "2 STDMANet (reconstruction)", "3 DeepPro"]
    rows = "\n".join(lines)
    order = [
        rows.index(words) for words in ("2 STDMANet", "quoted: STDMANet", "3 DeepPro", "quoted: D")
    ]
    assert order == sorted(order)


def test_another_data_set_has_no_quoted_figures(metrics):
    other = {**copy.deepcopy(metrics), "dataset": "Mine"}
    lines = published_table([other])
    (quoted,) = (line for line in lines if line.startswith("    quoted: DeepPro "))
    expected = "quoted: DeepPro 192 - 5.3 155.40" + 10 * " -"
    assert " ".join(quoted.split()) == expected
    assert "There are no published rows for Mine." in "\n".join(lines)


def test_all_five_rows_stand_in_the_report_and_the_summary(metrics, tmp_path):
    same = copy.deepcopy(metrics)
    for counted in same["protocols"].values():
        counted["subsets"]["all"]["targets"] = 1729
        counted["subsets"]["low_snr"]["targets"] = 529
    write_results(tmp_path, "", same, [], ALWAYS["hit1_guard4"])
    page = (tmp_path / "report.html").read_text()
    assert "12.35 frames/s (5 runs of 40 frames" in page
    for model in PUBLISHED_COST:
        assert page.count(f"{model}, published") == 2  # low SNR, all
        same["model"] = model
        beside = [line for line in summary_lines(same) if "published: " in line]
        assert len(beside) == 2
        unknown = model in ("STDMANet", "Res-U+RFR")
        assert all(("(protocol not known)" in line) == unknown for line in beside)
    same["model"] = "STDMANet"
    assert summary_lines(same)[0].startswith("STDMANet (reconstruction) on")
    write_results(tmp_path, "", same, [], ALWAYS["hit1_guard4"])
    assert "this run, STDMANet (reconstruction)" in (tmp_path / "report.html").read_text()
