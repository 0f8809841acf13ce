"""What a detector costs: the efficiency columns as measured, and through the test script."""

import json
from functools import partial

import numpy as np
import pytest

import test as test_script
from models import build_model
from models.detector import Detector
from tests.builders import call, random_sequence, write_list, write_nudt_sequence
from utils import efficiency as measuring
from utils.checkpoint import save
from utils.command_line import frame_size
from utils.complexity import complexity
from utils.efficiency import measure_efficiency, measure_speed
from utils.scan import open_scan


class Clock:
    """Time that passes only while a detector works: `cost` seconds for each call of it."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


class Costly(Detector):
    """Clips of 10 frames, each of which takes so many seconds of a `Clock`."""

    def __init__(self, clock, cost):
        super().__init__(10)
        self.clock, self.cost, self.calls = clock, cost, 0

    def detect(self, clip):
        self.clock.now += self.cost
        self.calls += 1
        return clip


class CostlyLast(Costly):
    predicts = "last"

    def detect(self, clip):
        return super().detect(clip)[:, :, -1:]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(measuring, "time", clock)
    return clock


@pytest.fixture
def short(monkeypatch):
    """Measures on three runs of eight frames."""
    monkeypatch.setattr(measuring, "measure_speed", partial(measure_speed, frames=8, runs=3))


def scan_of(detector):
    return open_scan(detector, detector)


def test_frames_per_second_count_every_window_of_a_run(clock):
    detector = Costly(clock, 0.5)
    speed = measure_speed(scan_of(detector), (6, 7), frames=28, runs=5, seconds=60)
    # 28 frames are three windows of 10, 9 apart: 1.5 s; and two clips to warm up.
    assert speed == (28 / 1.5, 28, 5) and detector.calls == 2 + 5 * 3


def test_a_slow_detector_of_whole_clips_is_measured_on_one_clip(clock):
    detector = Costly(clock, 20.0)
    speed = measure_speed(scan_of(detector), (6, 7), frames=28, runs=5, seconds=60)
    assert speed == (0.5, 10, 3) and detector.calls == 2 + 3


def test_a_slow_detector_of_last_frames_is_measured_on_as_many_as_fit(clock):
    speed = measure_speed(scan_of(CostlyLast(clock, 2.0)), (6, 7), frames=28, runs=5, seconds=60)
    assert speed == (0.5, 6, 5)
    slower = CostlyLast(clock, 30.0)
    assert measure_speed(scan_of(slower), (6, 7), frames=28, runs=5, seconds=60) == (1 / 30, 2, 3)


def test_the_median_is_not_moved_by_one_slow_run(clock):
    class Once(Costly):
        def detect(self, clip):
            self.cost = 50.0 if self.calls == 4 else 1.0
            return super().detect(clip)

    speed = measure_speed(scan_of(Once(clock, 1.0)), (6, 7), frames=10, runs=5, seconds=60)
    assert speed == (10.0, 10, 5)


@pytest.mark.parametrize("name", ["DeepPro", "Res-UNet+DTUM", "Res-U+RFR", "TopHat"])
def test_the_columns_are_those_of_the_complexity_rule_and_of_a_true_scan(name, short):
    detector = build_model(name).eval()
    scan = open_scan(detector, detector)
    scan.detector.pads_to = None  # a canvas of 512 takes seconds
    found = measure_efficiency(detector, scan, (16, 24), "as trained")
    cost = complexity(detector, 16, 24)
    assert found["kib"] == cost.kib == 4 * found["parameters"] / 1024
    assert (found["gmac"], found["gmac_with_norms"]) == (cost.products / 1e9, cost.with_norms / 1e9)
    streamed = complexity(detector, 16, 24, streaming=True) if detector.streams else None
    assert found["gmac_streamed"] == (streamed and streamed.with_norms / 1e9)
    assert found["frames_per_second"] > 0 and found["hardware"].endswith("threads")
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("text", ["480", "480x", "0x720", "480x720x3", "axb"])
def test_a_frame_size_that_is_none_is_refused(text, capsys):
    assert frame_size("480x720") == (480, 720)
    assert call(test_script, "--efficiency", text) == 2
    assert "expected height x width, such as 480x720" in capsys.readouterr().err


@pytest.fixture
def root(tmp_path, rng):
    root = tmp_path / "NUDT-MIRSDT"
    for name, size in (("Sequence47", (9, 16, 24)), ("Sequence85", (5, 16, 16))):
        write_nudt_sequence(root, name, *random_sequence(rng, *size))
    write_list(root / "test.txt", ["Sequence47", "Sequence85"])
    return root


def words_of(root, tmp_path):
    place = f"--datapath {root} --output {tmp_path / 'out'} --gpu cpu --no-overlay"
    return f"{place} --efficiency 16x24"


def test_several_runs_end_with_the_published_tables_anew(root, tmp_path, short, capsys):
    runs, names = [], ("DeepPro", "Res-U+RFR")
    for name, seqlen in zip(names, (8, 20), strict=True):
        runs.append(f"x__SoftLoUloss_{name}_DataL{seqlen}")
        checkpoints = tmp_path / "sem_seg" / runs[-1] / "checkpoints"
        checkpoints.mkdir(parents=True)
        state = {"epoch": 0, "model_state_dict": build_model(name, seqlen).state_dict()}
        save(checkpoints / "best_model.pth", state)
    words = f"--logpath {tmp_path} --log_dir {' '.join(runs)}"
    assert call(test_script, words, words_of(root, tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    top = next(i for i, line in enumerate(lines) if line.startswith("Cost at frames of 16x24"))
    labels = [line.split("  ")[1] for line in lines[top + 3 :] if line.startswith("  ")]
    assert labels[0] == "1 DeepPro"
    for number, run in enumerate(runs, 1):
        found = json.loads((tmp_path / "out" / run / "metrics.json").read_text())["efficiency"]
        (own,) = (
            line for line in lines[top:] if line.startswith(f"  {number} {names[number - 1]}")
        )
        cost = [f"{found[key]:.2f}" for key in ("kib", "gmac", "gmac_with_norms")]
        cost.append(f"{found['frames_per_second']:.2f}")
        assert own.split()[2:6] == cost


@pytest.mark.parametrize("name", ["TemporalZScore", "DeepPro"])
def test_one_detector_without_a_run_has_its_table_too(root, tmp_path, short, name, capsys):
    words = f"--model {name}"
    if name == "DeepPro":
        weights = tmp_path / "weights.pth"
        save(weights, build_model(name, 8).state_dict())
        words += f" --weights {weights}"
    assert call(test_script, words, words_of(root, tmp_path)) == 0
    printed = capsys.readouterr().out
    assert f"\n  1 {name} " in printed and "\n    quoted: STDMANet " in printed
    assert ("a filter: without weights" in printed) == (name == "TemporalZScore")
    assert "frames/s (" in printed and "64.65" in printed
    assert np.isfinite(json.loads((tmp_path / "out/metrics.json").read_text())["efficiency"]["kib"])
