"""What writes: stopped by a signal, where it may not write, beside what killed processes left."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data import saving
from data.convert import writing as conversion
from data.convert.__main__ import main as convert
from data.noise import writing as noise
from data.noise.__main__ import main as add_noise
from data.remarks import DataWarning
from data.saving import new_folder, save_image, told_when_stopped, writing_at
from data.synthetic import writing as synthetic
from data.synthetic.__main__ import main as generate
from tests.builders import random_sequence, write_nudt_sequence

ROOT = Path(__file__).parents[2]
CAPTURED = {"capture_output": True, "text": True, "check": True}
SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped by SIGTERM"}


@pytest.fixture
def footage(tmp_path, rng):
    """A sequence with masks."""
    write_nudt_sequence(tmp_path, "clip", *random_sequence(rng, 6, 12, 13))
    return tmp_path / "clip"


def ending(command, words, capsys):
    """(status, last line on stderr) of a command that ends early."""
    with pytest.raises(SystemExit) as stop:
        command([str(word) for word in words])
    return stop.value.code, capsys.readouterr().err.strip().splitlines()[-1]


def raise_here(number):
    os.kill(os.getpid(), number)
    time.sleep(5)  # it arrives sooner


@pytest.fixture
def heeds_interrupts():
    """What a shell starts in the background ignores Ctrl-C, this too."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("heeds_interrupts")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_each_command_in_order(number, footage, tmp_path, monkeypatch, capsys):
    former = signal.getsignal(signal.SIGTERM)
    before = {path.name for path in tmp_path.iterdir()}
    for module, name in (
        (noise, "in_order"),
        (conversion, "in_order"),
        (synthetic, "write_sequence"),
    ):
        monkeypatch.setattr(module, name, lambda *_: raise_here(number))
    out = ["--output", tmp_path / "out"]
    expected = 128 + number, f"error: {SIGNALS[number]}, nothing written"
    assert ending(generate, [*out, "--workers", 1], capsys) == expected
    assert ending(convert, [footage, *out], capsys) == expected
    assert {path.name for path in tmp_path.iterdir()} == before
    words = ["--dataset", "Frames", "--datapath", footage, *out]
    expected = 128 + number, f"error: {SIGNALS[number]}; the same command continues"
    assert ending(add_noise, words, capsys) == expected
    assert {path.name for path in tmp_path.iterdir()} == {*before, "out.partial"}
    assert signal.getsignal(signal.SIGTERM) is former


def test_a_second_sigterm_does_not_disturb_the_cleaning(tmp_path, monkeypatch):
    remove = saving._remove

    def stopped_again(folder):
        os.kill(os.getpid(), signal.SIGTERM)
        remove(folder)

    monkeypatch.setattr(saving, "_remove", stopped_again)
    with pytest.raises(SystemExit) as stop, told_when_stopped(""), new_folder(tmp_path / "out"):
        raise_here(signal.SIGTERM)
    assert stop.value.code == 143 and list(tmp_path.iterdir()) == []


def children_of(number):
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], **CAPTURED)
    pairs = (line.split() for line in listed.stdout.splitlines()[1:])
    return [int(pid) for pid, parent in pairs if int(parent) == number]


def runs(number):
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(
    not Path("/proc/self/stat").is_file(), reason="processes are looked up in /proc"
)
@pytest.mark.parametrize("to_all", [True, False])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_that_generate_end_with_their_parent(number, to_all, tmp_path):
    words = ["-m", "data.synthetic", "--preset", "small", "--workers", "2", "--output"]
    process = subprocess.Popen(
        [sys.executable, *words, str(tmp_path / "out")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out.partial-*/*/images")) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = children_of(process.pid)
    assert len(children) >= 2
    (os.killpg if to_all else os.kill)(process.pid, number)
    lines = process.communicate(timeout=60)[1].replace("\r", "\n").strip().splitlines()
    deadline = time.monotonic() + 20
    while any(map(runs, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, children))
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert lines[-1] == "error: stopped by SIGTERM, nothing written"
        assert not [line for line in lines if "Warning" in line or "Traceback" in line]
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_a_killed_process_left_is_named_and_one_in_use_is_not(tmp_path):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], **CAPTURED)
    (tmp_path / f"out.partial-{os.getppid()}").mkdir()
    with new_folder(tmp_path / "out"):
        pass
    (tmp_path / f"out.partial-{ended.stdout.strip()}").mkdir()
    with pytest.warns(DataWarning, match=f"{ended.stdout.strip()}: left by a call that was killed"):
        (tmp_path / "out").rmdir()
        with new_folder(tmp_path / "out"):
            pass


def test_a_place_that_may_only_be_read_is_one_sentence(footage, tmp_path, monkeypatch, capsys):
    make = os.mkdir

    def refuse(path, *given, **options):
        if "place" in str(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        make(path, *given, **options)

    monkeypatch.setattr(os, "mkdir", refuse)
    out = tmp_path / "place" / "out"
    expected = f"error: {out}: could not be written (Read-only file system); free some room, or"
    expected = 2, f"{expected} choose another folder that you may write to"
    words = ["--dataset", "Frames", "--datapath", footage, "--output", out]
    assert ending(add_noise, words, capsys) == expected
    assert ending(generate, ["--output", out], capsys) == expected
    assert ending(convert, [footage, "--output", out], capsys) == expected


def test_only_what_concerns_the_output_is_called_not_written(tmp_path):
    elsewhere = OSError(errno.EACCES, "Permission denied", str(tmp_path / "source" / "1.png"))
    for error in (elsewhere, FileExistsError("it exists: choose another")):
        with pytest.raises(type(error)) as raised, writing_at(tmp_path / "out"):
            raise error
        assert raised.value is error
    full = OSError(errno.ENOSPC, "No space left on device")
    wanted = r"out: could not be written \(No space left"
    with pytest.raises(OSError, match=wanted), writing_at(tmp_path / "out"):
        raise full


def test_a_broken_link_on_the_way_to_a_folder_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    output = tmp_path / "link" / "out"
    with pytest.raises(OSError, match="could not be written"), new_folder(output):
        pass


def test_an_image_that_cannot_be_written_leaves_nothing(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        save_image(tmp_path / "1.png", rng.integers(0, 9, (4, 5), "uint8"))
    assert list(tmp_path.iterdir()) == []
