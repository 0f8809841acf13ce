"""The report of a test, the summary on the terminal, the comparison of runs, attribution."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import test as test_script
from data.sequences import LabelledSequence, LabelledSequences
from data.specs import get_spec
from models import build_model
from tests.builders import random_sequence, write_list, write_nudt_sequence
from utils import compare
from utils.attribution.gradient_times_input import Attributions, gradient_times_input
from utils.command_line import run_command
from utils.report.highlights import WORST, Highlights
from utils.report.results import summary_lines


def detect_bright(clip):
    return 6 * (clip.squeeze(1) - 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two tests of six sequences, with low and high SNR among them: their output folders."""
    root = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(46)
    names = ["Sequence47", "Sequence56", "Sequence85", "Sequence86", "Sequence87", "Sequence88"]
    for index, name in enumerate(names):
        images, masks = random_sequence(rng, 12, 30, 34)
        images[masks > 0] = rng.integers(120, 220 + 5 * index, np.count_nonzero(masks))
        write_nudt_sequence(root / "NUDT-MIRSDT", name, images, masks)
    write_list(root / "NUDT-MIRSDT/test.txt", names)
    outputs = []
    for number, detector in enumerate([detect_bright, lambda clip: detect_bright(clip) - 3]):
        outputs.append(root / f"run{number}")
        outputs[-1].mkdir()
        test_script.evaluate_run(
            "DeepPro",
            detector,
            get_spec("NUDT-MIRSDT"),
            root / "NUDT-MIRSDT",
            outputs[-1],
            run_name="bright",
            seqlen=8,
            batch_size=2,
            device=torch.device("cpu"),
            threshold=0.5,
        )
    return outputs


def read(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_the_report_stands_alone_and_shows_every_picture_it_is_made_of(runs):
    page = (runs[0] / "report.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert links and all(link.startswith("data:image/png;base64,") for link in links)
    assert "<script" not in page and "http" not in page
    pictures = list((runs[0] / "report").glob("*.png"))
    assert len(pictures) == len(links)
    for path in pictures:
        with Image.open(path) as image:
            image.load()
    kinds = {path.name.split("_")[0] for path in pictures}
    assert kinds == {"pd", "frame", "profile"}


def cells(page):
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]


def test_the_numbers_of_the_report_are_those_of_metrics_json(runs):
    metrics, rows = read(runs[0]), cells((runs[0] / "report.html").read_text())
    index = metrics["thresholds"].index(0.5)
    titles = {"low_snr": "low SNR", "high_snr": "high SNR", "all": "all"}
    for protocol, words in (("hit1_guard4", "hit 1, guard 4"), ("hit2_guard5", "hit 2, guard 5")):
        for subset, title in titles.items():
            counts = metrics["protocols"][protocol]["subsets"][subset]
            pd, fa = 100 * counts["pd"][index], 1e5 * counts["fa"][index]
            numbers = [f"{pd:.2f}", f"{fa:.2f}", f"{counts['auc']:.4f}"]
            assert [title, "this run, DeepPro", words, *numbers] in rows
    sequences = metrics["protocols"]["hit1_guard4"]["sequences"]
    shown = [row for row in rows if row[0] in sequences]
    assert len(shown) == len(sequences)
    for row in shown:
        counts = sequences[row[0]]
        assert row[1:4] == [str(counts[key]) for key in ("frames", "targets")] + [
            str(counts["detected"][index])
        ]
        assert row[5] == str(counts["false_alarm_pixels"][index])
    assert [float(row[4]) for row in shown] == sorted(float(row[4]) for row in shown)


def test_published_rows_are_called_comparable_only_on_the_published_targets(runs):
    page = (runs[0] / "report.html").read_text()
    assert "Not comparable: the published rows are of 1729 targets" in page
    assert "scored with hit 2, guard 5" in page


def test_the_terminal_gets_ten_lines(runs):
    lines = summary_lines(read(runs[0]))
    assert len(lines) <= 9  # and one that says where the results are
    for word in ("reading", "network", "scoring", "frames/s"):
        assert word in lines[-1]


def test_timing_says_where_the_time_went(runs):
    timing = read(runs[0])["timing"]
    for step in ("reading", "network", "scoring", "output"):
        assert 0 <= timing[f"{step}_seconds"] <= timing["total_seconds"]
    assert timing["frames"] == 72


def test_highlights_keep_the_worst_sequences_only(rng):
    highlights = Highlights(0.5, 1, 4)
    for index in range(WORST + 3):
        scores = np.zeros((6, 20, 20), np.float32)
        centroids = np.zeros((6, 20, 20), np.uint8)
        centroids[:, 10, 10] = 1
        scores[:index, 10, 10] = 1  # index frames of 6 found
        frames = rng.integers(0, 255, scores.shape, dtype=np.uint8)
        highlights(LabelledSequence(f"s{index}", frames, centroids, centroids), scores)
    assert [strip.sequence for strip in highlights.strips] == [f"s{i}" for i in range(WORST)]
    assert {profile.verdict.split()[1] for profile in highlights.strips[1].profiles} == {
        "found",
        "missed",
    }


def test_comparing_a_run_with_itself_shows_no_difference(runs, tmp_path, capsys):
    arguments = [str(runs[0]), str(runs[0] / "metrics.json"), "--samples", "200"]
    compare.main(compare.parse_args([*arguments, "--output", str(tmp_path / "x.png")]))
    printed = capsys.readouterr().out
    differences = [line for line in printed.splitlines() if "minus 1" in line]
    assert len(differences) == 6
    assert all(line.count("+0.00 [+0.00, +0.00]") == 2 for line in differences)
    for protocol in ("hit1_guard4", "hit2_guard5"):
        with Image.open(tmp_path / f"x_{protocol}.png") as image:
            image.load()


def test_the_interval_holds_the_value_and_the_difference_is_paired(runs):
    first, second = (compare.sequence_counts(read(run), "hit1_guard4", "all", 16) for run in runs)
    alone = compare.bootstrap(second, 500, seed=1)
    for value, low, high in alone.values():
        assert low <= value <= high
    paired = compare.bootstrap_difference(first, second, 500, seed=1)
    base = compare.bootstrap(first, 500, seed=1)
    assert paired["pd"][0] == pytest.approx(alone["pd"][0] - base["pd"][0])
    assert paired["pd"][0] < 0  # the second detector is the shyer one
    assert compare.bootstrap_difference(first, {"other": first["Sequence47"]}, 5, 1) is None


def test_a_file_that_is_no_metrics_json_is_refused(tmp_path, runs, capsys):
    (tmp_path / "metrics.json").write_text("{}")
    for words in ([tmp_path], [tmp_path / "absent"], [runs[0], "--threshold", "0.51"]):
        with pytest.raises(SystemExit) as stop:
            run_command(lambda words=words: compare.main(compare.parse_args(map(str, words))))
        assert stop.value.code == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_gradient_times_input_of_a_linear_detector_adds_up_to_the_logit():
    weights = torch.randn(1, 1, 5, 6, 7, generator=torch.Generator().manual_seed(1))
    clip = torch.randn(1, 1, 5, 6, 7, generator=torch.Generator().manual_seed(2))

    def linear(clip):
        return (weights * clip).sum().expand(1, 5, 6, 7)

    attribution = gradient_times_input(linear, clip, 3, 2, 1)
    np.testing.assert_allclose(attribution, (weights * clip)[0, 0], rtol=1e-6)


def test_attribution_is_written_for_sequences_with_a_target(tmp_path, rng):
    frames, masks = random_sequence(rng, 11, 20, 90)
    masks = (masks > 0).astype(np.uint8)
    model = build_model("DeepPro-Plus", 8).eval()
    sequences = LabelledSequences([], 100, 20, 8)
    write = Attributions(model, sequences, tmp_path / "a", torch.device("cpu"), 2.0)
    scores = rng.random(frames.shape, np.float32)
    write(LabelledSequence("with", frames, masks, masks), scores)
    write(LabelledSequence("without", frames, None, None), scores)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["with.npz", "with.png"]
    with np.load(tmp_path / "a/with.npz") as result:
        row, column = int(result["row"]), int(result["column"])
        assert masks[int(result["frame"]) - 1, row, column] == 1
        assert result["numbers"].shape == result["frame_attribution"].shape == (8,)
        np.testing.assert_array_equal(result["levels"], frames[result["numbers"] - 1, row, column])
        local = result["maps"][:, row - result["top"], column - result["left"]]
        np.testing.assert_array_equal(local, result["pixel_attribution"])
