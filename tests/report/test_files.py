"""Files of results: whole or as they were, of any name; what was written before goes, no other."""

import csv
import errno
import io
import json
import os
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.report.scored import MAIN, Bright, evaluate_six, feed, sequence_of
from utils import files
from utils.attribution.writer import AttributionOptions, Attributions
from utils.files import csv_text, hold, read_cell, renewed, short_name, sweep, write_text
from utils.report.detections import read_detections
from utils.report.figures import as_text, draw_profile, new_figure
from utils.report.highlights import Profile
from utils.report.marks import legible
from utils.report.results import results_in, write_results
from utils.report.writers import Detections, Overlays, ScoreMaps
from utils.run_dir import RunDir, check_apart
from utils.tracks.options import TrackOptions
from utils.tracks.writer import Tracks


def tree(folder):
    """All files below a folder: {path: bytes}; without the list of what was written."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != files.WRITTEN)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@cache
def six():
    return evaluate_six()


def write_tables(folder, scored):
    """What a test writes of sequences, {name: scores}, and a report."""
    metrics, strips = six()
    with results_in(folder):
        feed_all(
            scored,
            Detections(folder / "detections.csv", 0.9, folder / "centroids"),
            ScoreMaps(folder / "visual"),
            Overlays(folder / "visual", 0.9, MAIN),
            Tracks(folder / "tracks", 0.9, MAIN, TrackOptions()),
        )
        write_results(folder, "", metrics, strips[:1], MAIN)


def write_attributions(folder, scored):
    with results_in(folder):
        options = AttributionOptions(targets=1, points=2)
        writer = Attributions(folder / "attribution", Bright(), "cpu", 0.9, options)
        feed_all(scored, writer)
        writer.end_as_stopped()


def feed_all(scored, *writers):
    for name, scores in scored.items():
        feed(writers, sequence_of(name, scores, (scores > 0.95).astype(np.uint8)), scores)
    for writer in writers:
        writer.share(SimpleNamespace(size=1, is_main=True, gather=list))
    for writer in writers:
        writer.close()


@pytest.fixture
def scored(rng):
    return {name: rng.random((6, 12, 12), np.float32) for name in ("a", "b")}


def test_what_an_earlier_test_wrote_goes_and_what_is_the_users_stays(tmp_path, scored):
    write_tables(tmp_path / "twice", scored)
    own = ["report/mine.png", "visual/a/note.txt", "visual/c/00001.png", "tracks/b/x.txt"]
    for name in own:
        (tmp_path / "twice" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "twice" / name).write_text("mine")
    shorter = {"a": scored["a"][:3]}
    write_tables(tmp_path / "twice", shorter)
    write_tables(tmp_path / "once", shorter)
    left, expected = tree(tmp_path / "twice"), tree(tmp_path / "once")
    assert {name: left.pop(name) for name in own} == dict.fromkeys(own, b"mine")
    assert left.keys() == expected.keys()
    assert not (tmp_path / "twice/tracks/b.txt").exists()


def test_nothing_of_an_earlier_test_stands_beside_new_numbers(tmp_path, scored):
    write_tables(tmp_path, scored)
    with results_in(tmp_path, suffix="_epoch-5"):  # another checkpoint's, which its name tells
        write_text(tmp_path / "eval_epoch-5.txt", "")
        Tracks(tmp_path / "tracks_epoch-5", 0.9, MAIN, TrackOptions()).close()
    before = set(tree(tmp_path))
    assert before >= {"metrics.json", "visual/a.gif", "tracks/a.txt", "eval_epoch-5.txt"}
    (tmp_path / "visual/mine.png").write_text("mine")
    metrics, strips = six()
    with results_in(tmp_path):
        write_results(tmp_path, "", metrics, strips[:1], MAIN)
    left = set(tree(tmp_path))
    assert {name.split("/")[0] for name in left} == {
        *("eval.txt", "metrics.json", "report.html", "report", "visual"),
        *("eval_epoch-5.txt", "tracks_epoch-5"),
    }
    assert {name for name in left if name.startswith("visual")} == {"visual/mine.png"}


def test_pictures_written_anew_leave_the_numbers_of_another_checkpoint(tmp_path, scored):
    write_tables(tmp_path, scored)
    with results_in(tmp_path, suffix="_epoch-5"):
        write_text(tmp_path / "eval_epoch-5.txt", "")
        write_text(tmp_path / "visual/b/00007.png", "")
    left = set(tree(tmp_path))
    assert left >= {"metrics.json", "detections.csv", "tracks/a.txt"}
    assert {name for name in left if name.startswith("visual")} == {"visual/b/00007.png"}


def test_a_test_that_ended_early_marks_what_it_left_beside_older_results(tmp_path, scored):
    write_tables(tmp_path, scored)
    before = set(tree(tmp_path))
    with pytest.raises(KeyboardInterrupt), results_in(tmp_path):
        raise KeyboardInterrupt
    assert set(tree(tmp_path)) == before  # it left nothing
    with pytest.raises(ValueError, match="no room"), results_in(tmp_path):
        write_text(tmp_path / "tracks/a.txt", "new")
        raise ValueError("no room")
    said = (tmp_path / "unfinished.txt").read_text()
    assert said.startswith("This test ended early: no room\nFiles of it: tracks\n")
    assert "Other files here may be of an earlier test" in said
    write_tables(tmp_path, scored)
    assert set(tree(tmp_path)) == before


def part(path):
    return path.parts[0]


def test_only_the_parts_that_are_written_to_are_renewed(tmp_path):
    for folder in "xy":
        (tmp_path / folder / "deep").mkdir(parents=True)
    with renewed(tmp_path, part):
        write_text(tmp_path / "x/deep/1", "")
        write_text(tmp_path / "y/deep/1", "")
    with renewed(tmp_path, part):
        write_text(tmp_path / "x/2", "")
    assert set(tree(tmp_path)) == {"x/2", "y/deep/1"} and not (tmp_path / "x/deep").exists()
    # What an error or another process leaves is known later, and nothing is removed for it.
    with pytest.raises(KeyError), renewed(tmp_path, part):
        write_text(tmp_path / "x/3", "")
        raise KeyError
    with renewed(tmp_path, part, active=False):
        write_text(tmp_path / "x/4", "")
    assert set(tree(tmp_path)) == {"x/2", "x/3", "x/4", "y/deep/1"}
    with renewed(tmp_path, part) as written:
        written.append(str(tmp_path / "x/4"))
    assert set(tree(tmp_path)) == {"x/4", "y/deep/1"}


@pytest.mark.parametrize("text", ["no list", "{}", '["../outside", "/etc/outside"]', "[1]"])
def test_a_list_that_was_tampered_with_removes_nothing_outside(tmp_path, text):
    folder = tmp_path / "in" / "results"
    folder.mkdir(parents=True)
    (tmp_path / "in" / "outside").write_text("")
    (folder / files.WRITTEN).write_text(text)
    with renewed(folder, lambda path: "all"):
        write_text(folder / "new", "")
    assert (tmp_path / "in" / "outside").exists()
    assert json.loads((folder / files.WRITTEN).read_text()) == ["new"]


@pytest.mark.parametrize("suffix", [".png", ".gif", ".csv", ".txt", ".html", ".json"])
def test_a_full_disk_leaves_each_file_of_a_test_whole_or_as_it_was(
    tmp_path, scored, monkeypatch, suffix
):
    full_disk(write_tables, tmp_path, scored, monkeypatch, suffix)


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".png", ".csv"])
def test_a_full_disk_leaves_each_file_of_an_attribution_whole_or_as_it_was(
    tmp_path, scored, monkeypatch, suffix
):
    full_disk(write_attributions, tmp_path, {"a": scored["a"]}, monkeypatch, suffix)


def full_disk(write_all, folder, scored, monkeypatch, suffix):
    """Writes twice, the second time to a disk that has no room left for files of this suffix."""
    write_all(folder, scored)
    before, original = tree(folder), Path.open

    def open_full(path, mode="r", *rest, **options):
        file = original(path, mode, *rest, **options)
        if "w" in mode and path.name.rpartition(".")[0].endswith(suffix):
            file.write(b"half")
            return FullFile(file)
        return file

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(OSError, match=rf"{suffix}: could not be written \(No space left"):
        write_all(folder, {name: scores[::-1].copy() for name, scores in scored.items()})
    after, ours = tree(folder), [name for name in before if name.endswith(suffix)]
    assert ours
    for name in ours:
        assert after[name] == before[name], name


class FullFile:
    """An open file that takes nothing more."""

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["x" * 240, "红" * 80, "=1+1", "a" * 181, "@SUM(A1)", "-2"])
def test_sequences_of_any_name_a_folder_may_have_are_written(tmp_path, scored, name):
    write_tables(tmp_path, {name: scored["a"]})
    assert read_detections(tmp_path / "detections.csv").keys() == {name}
    with (tmp_path / "tracks/tracks.csv").open(newline="") as file:
        assert {read_cell(row["sequence"]) for row in csv.DictReader(file)} == {name}
    assert all(not row.startswith(("=", "@", "-")) for row in read_rows(tmp_path))


def read_rows(folder):
    return [
        line
        for path in folder.rglob("*.csv")
        for row in csv.reader(path.open(newline=""))
        for line in row
        if not line.replace(".", "").replace("-", "").replace("e", "").isdigit()
    ]


def test_long_names_are_cut_apart_and_others_kept():
    assert short_name("Sequence47") == "Sequence47"
    names = [f"{'长' * 90}{number}" for number in range(50)]
    short = {short_name(name) for name in names}
    assert len(short) == 50 and all(len(name.encode()) <= files.LONGEST_NAME for name in short)


def test_cells_read_back_and_are_no_formulas():
    cells = ["=1", "+2", "-3", "@x", "\tx", "'quoted", "plain", "a=b", ""]
    (row,) = csv.reader(io.StringIO(csv_text([[*cells, -1.5, None]])))
    assert [read_cell(cell) for cell in row] == [*cells, "-1.5", ""]
    assert all(not cell.startswith(files.FORMULA) for cell in row[: len(cells)])


def test_what_a_killed_process_left_of_any_name_is_swept(tmp_path):
    for name in ("plain", "[odd]*", "x" * 240):
        left = tmp_path / f".{short_name(name)}.1"
        left.touch()
        other = tmp_path / f".{short_name(name)}.txt"
        other.touch()
        sweep(tmp_path / name)
        assert not left.exists() and other.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="files are held otherwise there")
def test_two_tests_do_not_write_to_one_folder_at_once(tmp_path):
    program = "import sys; from pathlib import Path; from utils.report.results import results_in\n"
    program += "with results_in(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, tmp_path / "out"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match="out: another test writes its results there"),
            results_in(tmp_path / "out"),
        ):
            pass
        other.stdin.close()
    with results_in(tmp_path / "out"):
        pass
    assert not list((tmp_path / "out").iterdir())


def test_results_on_other_data_than_the_runs_own_have_a_folder_there(tmp_path):
    run = RunDir(tmp_path / "NUDT-MIRSDT__2026-11-22_20-49__SoftLoUloss_DeepPro_DataL40")
    assert run.results("NUDT-MIRSDT") == run.path
    assert run.results("Frames") == run.path / "Frames"
    renamed = RunDir(tmp_path / "mine")
    assert renamed.results("Frames") == renamed.path
    assert renamed.results("Frames", own="NUDT-MIRSDT") == renamed.path / "Frames"


@pytest.mark.parametrize("place", ["data", "data/out", "data/a/../out", "link/out"])
def test_results_among_own_footage_are_refused(tmp_path, place):
    (tmp_path / "data/a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(ValueError, match="lies in --datapath"):
        check_apart(tmp_path / place, tmp_path / "data")
    check_apart(tmp_path / "out", tmp_path / "data")
    check_apart(tmp_path / "database", tmp_path / "data")


class Locks:
    """Windows' module that locks bytes of files, by the system's own rule: one holder each."""

    LK_NBLCK = 2

    def __init__(self):
        self.held = {}

    def locking(self, descriptor, mode, count):
        place = os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR)
        assert (mode, count) == (self.LK_NBLCK, 1) and place[1] > os.fstat(descriptor).st_size
        if self.held.setdefault(place, descriptor) != descriptor:
            raise PermissionError


def test_a_file_is_held_without_fcntl_too(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    with (tmp_path / "log").open("a") as first, (tmp_path / "log").open("a") as second:
        assert hold(first) and hold(second)  # neither module: nothing can be held
        monkeypatch.setattr(files, "msvcrt", Locks(), raising=False)
        first.write("line")
        assert hold(first) and not hold(second)
        first.write(" goes on")
    assert (tmp_path / "log").read_text() == "line goes on"


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("name", ["$a$", r"$\frac{1", "红外 $x", "ä_ß", "a$b$_红外_=x"])
def test_names_are_drawn_as_they_are_or_as_escapes(tmp_path, name):
    place = {"sequence": name, "row": 3, "column": 4, "verdict": "", "numbers": np.arange(3)}
    series = {"levels": np.arange(3), "scores": np.arange(3), "on_target": np.zeros(3, bool)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of letters that the font lacks
        draw_profile(tmp_path / "x.png", Profile(**place, **series, threshold=0.5))
    figure, axes = new_figure(3, 3)
    axes.set_title(as_text(name))
    figure.draw_without_rendering()
    width = axes.title.get_window_extent().width
    axes.title.set(text=legible(name), parse_math=False)  # no formula in any case
    assert axes.title.get_window_extent().width == width
    assert legible("红外 $x") == r"\u7ea2\u5916 $x" and legible("ä_ß") == "ä_ß"
