"""The page of a report."""

import re

import pytest
from matplotlib.axes import Axes
from PIL import Image

from tests.drawing import drawn
from tests.report.scored import ALWAYS, MAIN, evaluate_six
from utils.files import write_whole
from utils.protocols import PROTOCOLS, operating_point
from utils.report.metrics_file import column_texts
from utils.report.results import results_in, write_results


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """(metrics, folder) of a test of six sequences, with low and high SNR among them."""
    metrics, strips = evaluate_six()
    folder = tmp_path_factory.mktemp("report")
    with drawn():
        written = write_results(folder, "", metrics, strips, MAIN)
    assert [path.name for path in written] == ["eval.txt", "metrics.json", "report.html"]
    return metrics, folder


def cells(page):
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]


def test_the_report_stands_alone_and_shows_every_picture_it_is_made_of(tested):
    page = (tested[1] / "report.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert links and all(link.startswith("data:image/png;base64,") for link in links)
    assert "<script" not in page and "http" not in page
    assert "clips of 8 frames; grey levels normalised by mean 105.4000, std 26.6000</p>" in page
    pictures = list((tested[1] / "report").glob("*.png"))
    assert len(pictures) == len(links)
    for path in pictures:
        with Image.open(path) as image:
            image.load()
    kinds = {path.name.split("_")[0] for path in pictures}
    assert kinds == {"pd", "frame", "profile"}


def test_the_report_tells_how_far_marks_reach(tested, tmp_path):
    with drawn():
        write_results(tmp_path, "", {**tested[0], "mark_reach": 3.0}, [], MAIN)
    words = "; detections marked up to 3 px from their centroids</p>"
    assert words in (tmp_path / "report.html").read_text()
    assert words not in (tested[1] / "report.html").read_text()


def test_the_numbers_of_the_report_are_those_of_metrics_json(tested):
    metrics, rows = tested[0], cells((tested[1] / "report.html").read_text())
    index = operating_point(metrics["thresholds"])
    titles = {"low_snr": "low SNR", "high_snr": "high SNR", "all": "all"}
    for name, protocol in ALWAYS.items():
        for subset, title in titles.items():
            counts = metrics["protocols"][name]["subsets"][subset]
            pd, fa = 100 * counts["pd"][index], 1e5 * counts["fa"][index]
            numbers = [f"{pd:.2f}", f"{fa:.2f}", f"{counts['auc']:.4f}"]
            assert [title, "this run, DeepPro", protocol.title, *numbers] in rows
    sequences = metrics["protocols"][MAIN.name]["sequences"]
    shown = [row for row in rows if row[0] in sequences]
    assert len(shown) == len(sequences)
    for row in shown:
        counts = sequences[row[0]]
        detected, alarms = (counts[key][index] for key in ("detected", "false_alarm_pixels"))
        assert row[1:4] == [str(counts["frames"]), str(counts["targets"]), str(detected)]
        assert row[4] == f"{100 * detected / counts['targets']:.2f}"
        assert row[5:7] == [str(alarms), f"{1e5 * alarms / counts['pixels']:.2f}"]
    assert [float(row[4]) for row in shown] == sorted(float(row[4]) for row in shown)


def test_published_rows_are_called_comparable_only_on_the_published_targets(tested):
    page = (tested[1] / "report.html").read_text()
    assert "Not comparable: the published rows are of 1729 targets" in page
    assert "scored with hit 2, guard 5" in page


def test_pictures_of_the_report_before_do_not_stay_and_those_of_the_user_do(tested, tmp_path):
    metrics, _ = tested
    (tmp_path / "report").mkdir()
    with results_in(tmp_path):
        write_whole(tmp_path / "report" / "frame_of_another_test.png", lambda file: None)
    own = tmp_path / "report" / "mine.png"
    own.write_bytes(b"mine")
    with results_in(tmp_path):
        write_results(tmp_path, "", metrics, [], MAIN)
    assert own.read_bytes() == b"mine"
    own.unlink()
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        f"pd_fa_{name}.png" for name in ALWAYS
    }
    assert "The worst sequences" not in (tmp_path / "report.html").read_text()


@pytest.mark.usefixtures("drawn")
def test_the_rates_over_the_threshold_are_drawn_where_the_3d_roc_is_asked_for(
    tmp_path, monkeypatch
):
    metrics, _ = evaluate_six(protocols=["roc3d"])
    lines = []
    monkeypatch.setattr(Axes, "plot", lambda self, *data, **style: lines.append(data) or [])
    write_results(tmp_path, "", metrics, [], MAIN)
    kinds = {path.name for path in (tmp_path / "report").iterdir()}
    assert kinds == {"rates_roc3d.png", *(f"pd_fa_{name}.png" for name in ALWAYS)}
    page = (tmp_path / "report.html").read_text()
    assert "Rates over the threshold under 3-D ROC" in page
    counted = metrics["protocols"]["roc3d"]
    curves = [(x, list(y)) for x, y, *_ in lines if x is counted["thresholds"]]
    assert len(curves) == 6
    for subset in ("low_snr", "high_snr", "all"):
        entry = counted["subsets"][subset]
        assert (counted["thresholds"], entry["tpr"]) in curves
        floor = 0.5 / entry["background_pixels"]
        assert (counted["thresholds"], [max(rate, floor) for rate in entry["fpr"]]) in curves


def test_precision_recall_f1_and_every_meaning_of_niou_are_shown(tmp_path):
    metrics, _ = evaluate_six(protocols=["f1_3px", "iou_niou"])
    write_results(tmp_path, "", metrics, [], MAIN)
    rows = cells((tmp_path / "report.html").read_text())
    for name in ("f1_3px", "iou_niou"):
        counted, protocol = metrics["protocols"][name], PROTOCOLS[name]
        head = ["targets", "model", "protocol", *(title for title, *_ in protocol.columns)]
        assert head in rows
        texts = [text for _, text in column_texts(protocol, counted, counted["subsets"]["all"])]
        assert ["all", "this run, DeepPro", protocol.title, *texts] in rows
    titles = [title for title, *_ in PROTOCOLS["iou_niou"].columns]
    assert sum(title.startswith("nIoU, empty frames ") for title in titles) == 3
