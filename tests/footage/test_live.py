"""Live footage: frames from a pipe are tested as they come, as the finished file would be."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

import test as test_script
from data.footage import open_footage
from data.formats.encoder import VideoFile
from data.formats.video import VideoFrames
from data.live import sequence as live
from data.live.sequence import LEVEL_FRAMES, open_live
from data.live.streams import RawFrames, is_live
from data.remarks import DataWarning, Remarks
from data.sequences import mean_std
from data.specs import get_spec
from tests.builders import call
from tests.conftest import REPOSITORY
from tests.training.runs import refused
from utils.report.detections import read_detections

FILTER = "--dataset Frames --model TopHat --gpu cpu --no-overlay"


@pytest.fixture
def frames(rng):
    """A dim scene with a bright pixel that moves, (50, 18, 22) uint16."""
    frames = rng.integers(600, 700, (50, 18, 22), dtype=np.uint16)
    frames[np.arange(50), np.arange(50) % 12 + 3, np.arange(50) % 15 + 3] = 4000
    return frames


@pytest.fixture
def pipe(monkeypatch):
    """Puts these bytes on standard input."""

    def put(data):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))

    return put


def write_video(path, frames):
    with path.open("wb") as file:
        video = VideoFile(file, 25)
        for frame in frames:
            video.add(np.repeat(frame[..., None], 3, axis=2))
        video.close()


def printed_rows(text):
    """What a live test printed: rows of detections.csv."""
    return [line for line in text.splitlines() if line.startswith(("sequence,", "live,"))]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("levels", ["--mean 650 --std 30", ""])
def test_live_output_is_that_of_the_finished_file(tmp_path, frames, pipe, capsys, bits, levels):
    if bits == 8:
        frames = (frames // 16).astype(np.uint8)
        levels = levels and "--mean 40 --std 2"
    pipe(frames.tobytes())
    words = f"{FILTER} --datapath - --size 18x22 --bits {bits} {levels}".strip()
    assert call(test_script, words, f"--output {tmp_path}/live") == 0
    printed = capsys.readouterr().out
    if not levels:  # the first frames' own
        first = frames[:LEVEL_FRAMES].astype(np.float64)
        levels = f"--mean {first.mean()} --std {first.std()}"
    np.save(tmp_path / "live.npy", frames)
    given = f"--datapath {tmp_path}/live.npy --output {tmp_path}/file {levels}"
    assert call(test_script, FILTER, given) == 0
    tables = [(tmp_path / where / "detections.csv").read_text() for where in ("live", "file")]
    assert tables[0] == tables[1] and len(tables[0].splitlines()) > 40
    assert printed_rows(printed) == tables[1].splitlines()
    assert "Live: detections are final at most" in printed


def test_networks_of_windows_give_live_what_they_give_of_files(
    tmp_path, frames, pipe, monkeypatch, capsys
):
    from tests.testing.test_footage import BrightPixels

    monkeypatch.setitem(test_script.MODELS, "BrightPixels", BrightPixels)
    weights = tmp_path / "bright.pth"
    from utils.checkpoint import save

    save(weights, BrightPixels().state_dict())
    common = f"--dataset Frames --model BrightPixels --weights {weights} --gpu cpu --no-overlay"
    levels = "--mean 650 --std 500"
    pipe(frames.tobytes())
    live_words = f"--datapath - --size 18x22 --bits 16 --min_track 3 --output {tmp_path}/live"
    assert call(test_script, common, levels, live_words) == 0
    assert re.search(
        r"final at most \d+ frames .*; tracks 100 frames after", capsys.readouterr().out
    )
    np.save(tmp_path / "live.npy", frames)
    file_words = f"--datapath {tmp_path}/live.npy --min_track 3 --output {tmp_path}/file"
    assert call(test_script, common, levels, file_words) == 0
    for name in ("detections.csv", "tracks/live.txt", "tracks/tracks.csv"):
        assert (tmp_path / "live" / name).read_bytes() == (tmp_path / "file" / name).read_bytes()
    assert len(read_detections(tmp_path / "live/detections.csv")["live"]) > 40


def test_detections_are_printed_before_the_pipe_ends(frames, monkeypatch, capsys, tmp_path):
    """The frame after the last one that is sent waits until what was sent is printed."""
    reading, writing = os.pipe()
    source = os.fdopen(reading, "rb")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=source))
    printed, arrived = [], threading.Event()

    def write(text, file):
        printed.append(text)
        if len(printed) > 30:
            arrived.set()

    monkeypatch.setattr("utils.report.writers.tqdm.write", write)
    seen = []

    def send():
        with os.fdopen(writing, "wb") as sink:
            sink.write(frames[:45].tobytes())
            sink.flush()
            seen.append(arrived.wait(timeout=30))
            sink.write(frames[45:].tobytes())

    sender = threading.Thread(target=send)
    sender.start()
    levels = "--mean 650 --std 30 --bits 16 --size 18x22"
    assert call(test_script, FILTER, f"--datapath - {levels} --output {tmp_path}") == 0
    sender.join()
    source.close()
    assert seen == [True]


def test_a_reader_that_has_enough_ends_a_live_test_in_order(frames, tmp_path):
    """As `| head -4` does: the camera goes on, but nobody reads what is printed."""
    words = "--datapath - --size 18x22 --bits 16 --mean 650 --std 30"
    command = [sys.executable, "test.py", *FILTER.split(), *words.split(), "--output", tmp_path]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with (
        suppress(BrokenPipeError),  # of what could not be sent any more
        subprocess.Popen(command, cwd=REPOSITORY, **pipes) as process,
    ):
        process.stdin.write(frames.tobytes())
        process.stdin.flush()
        printed = [process.stdout.readline().decode() for _ in range(4)]
        process.stdout.close()
        with suppress(BrokenPipeError):
            for _ in range(100_000):
                process.stdin.write(frames[:1].tobytes())
                process.stdin.flush()
        errors = process.stderr.read().decode()
        assert process.wait(timeout=60) == 128 + signal.SIGPIPE
    assert printed_rows("".join(printed)) and errors == ""
    assert len(read_detections(tmp_path / "detections.csv")["live"]) >= 3


def test_ctrl_c_ends_a_live_test_in_order(frames, monkeypatch, capsys, tmp_path):
    class Endless(io.BytesIO):
        count = 0

        def read(self, size):
            self.count += 1
            if self.count == 30:
                os.kill(os.getpid(), signal.SIGINT)
            return frames[self.count % 50].tobytes()

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Endless()))
    words = "--datapath - --size 18x22 --bits 16 --mean 650 --std 30"
    assert call(test_script, FILTER, words, f"--output {tmp_path}") == 0
    assert len(read_detections(tmp_path / "detections.csv")["live"]) >= 29
    assert "detections at threshold" in capsys.readouterr().out


def test_few_frames_are_in_memory_however_many_come(monkeypatch):
    """What waits for its level is `LEVEL_FRAMES` frames; later ones go straight through."""
    come = (np.full((4, 5), n % 7, np.uint8) for n in range(3000))
    (sequence,) = open_stream_of(come, monkeypatch)
    sequence.normalisation  # noqa: B018
    assert len(sequence._waiting) == LEVEL_FRAMES
    count = 0
    for block in sequence.blocks(16):
        assert len(block) == 1 and block.start == count
        assert block.frames[0, 0, 0] == count % 7
        count += 1
        assert len(sequence._waiting) <= LEVEL_FRAMES
    assert count == 3000


def open_stream_of(frames, monkeypatch):
    class Frames:
        title = "made"

        def __iter__(self):
            return iter(frames)

    monkeypatch.setattr(live, "open_stream", lambda *_: Frames())
    return open_live("-", None, 8, None, lambda: False)


def test_a_stream_that_breaks_ends_and_keeps_what_came_before(monkeypatch):
    def cut():
        yield from np.zeros((2, 4, 5), np.uint8)
        raise ValueError("made: the camera is gone")

    sizes = [(4, 5), (4, 5), (4, 6), (4, 5)]
    for come, words in (
        (map(np.zeros, sizes), "made, frame 3: 4x6 pixels, but the first has 4x5"),
        (cut(), "the camera is gone; ended after frame 2"),
    ):
        (sequence,) = open_stream_of(come, monkeypatch)
        with pytest.warns(DataWarning, match=words):
            assert sequence.normalisation == (0, 1)
        assert len(list(sequence.blocks(1))) == 2


def test_a_frame_that_is_cut_short_is_left_out_and_said(frames):
    source = io.BytesIO(frames.tobytes()[:-7])
    with pytest.warns(DataWarning, match="after frame 49.*left out.*--size or --bits"):
        read = list(RawFrames((18, 22), 16, Remarks(), source))
    assert np.array_equal(read, frames[:49])


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (b"", "--size 18x22", "0 bytes, of which a frame takes 396"),
        (b"abc", "--size 18x22 --bits 16", "3 bytes, of which a frame takes 792"),
        (b"", "", "--datapath - without --size"),
        (b"YUV4MPEG2 W22 H18 F25:1\n" + bytes(396), "--size 18x22", "a stream of the form y4m"),
        (b"\x89PNG\r\n\x1a\n" + bytes(396), "--size 18x22", "a stream of the form PNG"),
        (b"", "--size 18x22 --visual", "live frames with --visual"),
    ],
)
def test_what_cannot_be_live_is_one_line(tmp_path, pipe, capsys, data, options, words):
    pipe(data)
    refused(
        capsys,
        call(test_script, FILTER, f"--datapath - --output {tmp_path} {options}".strip()),
        words,
    )


def test_a_size_for_what_has_its_own_is_refused(tmp_path, capsys):
    for words in ("--size 18x22", "--bits 16"):
        status = call(test_script, FILTER, f"--datapath {tmp_path} {words}")
        refused(capsys, status, "--size or --bits without")


def test_what_is_live(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert all(map(is_live, ["-", "rtsp://camera/1", tmp_path / "pipe", "/dev/null"]))
    assert not any(map(is_live, [tmp_path, tmp_path / "absent", "clip.mp4"]))


def test_a_video_is_decoded_once_for_its_levels_and_its_length(tmp_path, monkeypatch, rng):
    pytest.importorskip("av")
    write_video(tmp_path / "x.mp4", rng.integers(0, 255, (40, 32, 40), dtype=np.uint8))
    decoded, original = [], VideoFrames._decode
    monkeypatch.setattr(VideoFrames, "_decode", lambda self: decoded.append(1) or original(self))
    seen = []
    (sequence,) = open_footage(get_spec("Frames"), tmp_path / "x.mp4")
    sequence.measure(SimpleNamespace(update=seen.append))
    assert len(sequence) == sum(seen) == 40 and len(decoded) == 1
    assert sequence.normalisation == pytest.approx(mean_std([sequence.read(0, 40).frames]))
    sequence.measure(None)  # what is known is not looked at again


def test_a_running_video_is_read_as_it_comes(tmp_path, capsys):
    pytest.importorskip("av")
    rising = 60 + 10 * np.arange(12, dtype=np.uint8)
    write_video(tmp_path / "x.mp4", np.broadcast_to(rising[:, None, None], (12, 32, 40)))
    (sequence,) = open_live(f"file://{tmp_path}/x.mp4", None, 8, (100.0, 20.0), lambda: False)
    levels = [float(block.frames.mean()) for block in sequence.blocks(16)]
    assert len(levels) == 12 and (np.diff(levels) > 5).all()
