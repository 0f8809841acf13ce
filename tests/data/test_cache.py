"""The cache of decoded frames gives what decoding gives, or is made again."""

import errno
import multiprocessing
import os
import time

import numpy as np
import pytest
import torch

from data.batches import DeviceClips
from data.cache import build as cache
from data.cache.build import choose_mode, open_frames
from data.cache.file import CacheFile, make_cache_folder
from data.clips import ClipOptions, TrainClips
from data.frames import read_window
from data.lists import find_sequences
from data.specs import get_spec
from tests.builders import record_decoding, write_image, write_nudt_sequence

SPEC = get_spec("NUDT-MIRSDT")


@pytest.fixture
def sequences(nudt):
    return find_sequences(SPEC, SPEC.train, nudt)


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mode", ["memory", "disk"])
@pytest.mark.parametrize("size", [None, (16, 16)])
def test_clips_are_the_same_with_and_without_a_cache(sequences, tmp_path, mode, size):
    wanted = ClipOptions(10, 9, 0.5, 3, flips=True, mark_padding=True, turns=True)
    options = 100.0, 20.0, wanted
    plain = TrainClips(sequences, *options, size)
    frames = open_frames(sequences, size, mode, tmp_path / "frames")
    cached = TrainClips(sequences, *options, size, frames)
    on_device = DeviceClips(cached, torch.device("cpu"))
    for epoch in range(2):
        plain.set_epoch(epoch)
        cached.set_epoch(epoch)
        for index in range(len(plain)):
            for one, other in zip(plain[index], cached[index], strict=True):
                assert one.dtype == other.dtype and torch.equal(one, other)
        batch = on_device.batch([0, 1, 2])
        for part, expected in zip(
            batch, zip(*(plain[i] for i in range(3)), strict=True), strict=True
        ):
            torch.testing.assert_close(part, torch.stack(expected), rtol=1e-6, atol=1e-6)


def test_a_second_opening_decodes_nothing(sequences, tmp_path, monkeypatch):
    open_frames(sequences, None, "disk", tmp_path / "frames")
    decoded = record_decoding(monkeypatch)
    assert open_frames(sequences, None, "disk", tmp_path / "frames").read(0, 2, 5)[0].shape == (
        3,
        8,
        10,
    )
    assert decoded == []


def flipped(content, place):
    content = bytearray(content)
    content[place] ^= 1
    return bytes(content)


DAMAGE = ["cut", "emptied", "version", "one bit", "one bit of a mask", "rubbish"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_made_again(sequences, tmp_path, damage):
    expected = [
        np.array(part)
        for part in open_frames(sequences, None, "disk", tmp_path / "frames").arrays[0]
    ]
    path = next(
        path for path in (tmp_path / "frames").iterdir() if path.name.startswith("Sequence1-")
    )
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(
        {
            "cut": whole[:-100],
            "emptied": b"",
            "version": whole.replace(b'"version": 2', b'"version": 1'),
            "one bit": flipped(whole, len(whole) // 2),
            "one bit of a mask": flipped(whole, len(whole) - 60),
            "rubbish": b"\xff" * len(whole),
        }[damage]
    )
    again = open_frames(sequences, None, "disk", tmp_path / "frames").arrays[0]
    assert all(np.array_equal(*pair) for pair in zip(expected, again, strict=True))
    assert path.read_bytes() == whole


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_changed_source_is_noticed(nudt, sequences, tmp_path, kind):
    open_frames(sequences, None, "disk", tmp_path / "frames")
    write_image(nudt / "Sequence1" / kind / "00003.png", np.full((8, 10), 7, np.uint8))
    frames, masks = open_frames(sequences, None, "disk", tmp_path / "frames").read(0, 2, 3)
    assert (frames == 7).all() if kind == "images" else masks.all()
    assert len(files_of(tmp_path / "frames")) == 2


def test_two_sizes_have_two_files(sequences, tmp_path):
    open_frames(sequences, None, "disk", tmp_path / "frames")
    open_frames(sequences, (16, 16), "disk", tmp_path / "frames")
    assert len(files_of(tmp_path / "frames")) == 4


def build_and_sum(nudt, folder, results):
    sequences = find_sequences(SPEC, SPEC.train, nudt)
    frames = open_frames(sequences, None, "disk", folder)
    results.put(sum(int(part.sum()) for part in frames.arrays[0]))


def test_two_processes_may_build_at_once(nudt, tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    arguments = nudt, tmp_path / "frames", results
    processes = [context.Process(target=build_and_sum, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    sums = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sums[0] == sums[1] and len(files_of(tmp_path / "frames")) == 2


def test_a_sequence_may_come_twice(sequences, tmp_path):
    twice = [sequences[0], *sequences, sequences[0]]
    frames = open_frames(twice, None, "disk", tmp_path / "frames", workers=3)
    for index in (1, 3):
        for part, expected in zip(frames.arrays[index], frames.arrays[0], strict=True):
            assert np.array_equal(part, expected)
    assert len(files_of(tmp_path / "frames")) == len(sequences)


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_an_interrupted_build_leaves_no_half_file(sequences, tmp_path, mode):
    def interrupted(builds):
        yield next(iter(builds))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_frames(10 * sequences, None, mode, tmp_path / "frames", 1, progress=interrupted)
    if mode == "disk":
        assert not [name for name in files_of(tmp_path / "frames") if name.endswith(".part")]


@pytest.mark.parametrize("call", ["fsync", "pwrite"])
def test_a_full_disk_is_one_clear_line_and_leaves_no_file(sequences, tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match=r"No space left on device.*--cache memory"):
        open_frames(sequences, None, "disk", tmp_path / "frames")
    assert files_of(tmp_path / "frames") == []


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counted as on Linux")
def test_a_cache_keeps_no_file_open(sequences, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    frames = open_frames(sequences, None, "disk", tmp_path / "frames")
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ValueError, match="read-only"):
        frames.arrays[0][0][0] = 1


def test_decoding_does_not_run_ahead_of_a_slow_disk(sequences, tmp_path, monkeypatch):
    folder, unfinished = tmp_path / "frames", []

    def slow(_):
        time.sleep(0.03)
        unfinished.append(sum(name.endswith(".part") for name in files_of(folder)))

    monkeypatch.setattr(os, "fsync", slow)
    open_frames(15 * sequences, None, "disk", folder, workers=1)
    assert len(unfinished) == 15 * len(sequences) and 1 <= max(unfinished) <= 6


def test_neither_pwrite_nor_sched_getaffinity_is_needed(sequences, tmp_path, monkeypatch):
    """As on macOS and Windows."""
    monkeypatch.delattr(os, "pwrite")
    monkeypatch.delattr(os, "sched_getaffinity")
    kept = open_frames(3 * sequences, None, "disk", tmp_path / "frames").arrays
    for arrays, files in zip(kept, 3 * sequences, strict=True):
        expected = read_window(files, 0, len(files))
        assert all(np.array_equal(*pair) for pair in zip(arrays, expected, strict=True))


def test_a_write_that_stops_half_way_goes_on(sequences, tmp_path, monkeypatch):
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, place: whole(file, content[:7], place))
    kept = open_frames(sequences, None, "disk", tmp_path / "frames").arrays[0]
    expected = open_frames(sequences, None, "memory").arrays[0]
    assert all(np.array_equal(*pair) for pair in zip(kept, expected, strict=True))


@pytest.mark.parametrize("share", [0, 0.02, 1])
def test_a_file_gives_back_what_was_written(sequences, tmp_path, rng, share):
    frames = rng.integers(0, 60000, (5, 40, 201)).astype(np.uint16)
    masks = (rng.random(frames.shape) < share).astype(np.uint8)
    file = CacheFile(sequences[0], None, tmp_path / "frames")
    file.path.parent.mkdir()
    file.begin(frames.shape, frames.dtype)
    for index in (3, 0, 4, 2, 1):
        file.put(index, frames[index], masks[index])
    for arrays in (file.finish(), CacheFile(sequences[0], None, tmp_path / "frames").arrays):
        assert all(np.array_equal(*pair) for pair in zip(arrays, (frames, masks), strict=True))
    assert files_of(tmp_path / "frames") == [file.path.name]


@pytest.mark.parametrize("mode", ["memory", "disk"])
@pytest.mark.parametrize("number", [1, 8, 9, 19])
def test_a_sequence_of_two_depths_is_refused_by_any_thread(
    monkeypatch, tmp_path, rng, mode, number
):
    monkeypatch.setattr(cache, "FRAMES_AT_ONCE", 8)
    frames = rng.integers(0, 256, (19, 8, 10)).astype(np.uint8)
    write_nudt_sequence(tmp_path, "Sequence1", frames, frames > 200)
    wide = rng.integers(0, 60000, (8, 10)).astype(np.uint16)
    write_image(tmp_path / f"Sequence1/images/{number:05d}.png", wide)
    files = find_sequences(SPEC, SPEC.train, tmp_path, ["Sequence1"])
    with pytest.raises(ValueError, match="expected one depth in a sequence"):
        open_frames(files, None, mode, tmp_path / "frames", workers=3)


@pytest.mark.parametrize("mode", ["memory", "disk"])
@pytest.mark.parametrize("size", [None, (16, 20)])
def test_sizes_that_differ_between_blocks_are_refused(monkeypatch, tmp_path, mode, size):
    monkeypatch.setattr(cache, "FRAMES_AT_ONCE", 8)
    frames = np.zeros((19, 8, 10), np.uint8)
    write_nudt_sequence(tmp_path, "Sequence1", frames, frames > 0)
    for number in range(9, 20):
        for kind in ("images", "masks"):
            write_image(
                tmp_path / f"Sequence1/{kind}/{number:05d}.png", np.zeros((9, 10), np.uint8)
            )
    files = find_sequences(SPEC, SPEC.train, tmp_path, ["Sequence1"])
    with pytest.raises(ValueError, match="00009.png: 9x10 pixels, but .*00001.png has 8x10"):
        open_frames(files, size, mode, tmp_path / "frames", workers=3)
    if mode == "disk":
        assert files_of(tmp_path / "frames") == []


def test_an_unreadable_image_is_named_and_leaves_no_half_file(nudt, sequences, tmp_path):
    (nudt / "Sequence1/masks/00002.png").write_bytes(b"no image")
    for mode in ("memory", "disk"):
        with pytest.raises(ValueError, match="00002.png: cannot be read as a mask"):
            open_frames(sequences, None, mode, tmp_path / "frames")
    assert not [name for name in files_of(tmp_path / "frames") if name.endswith(".part")]


def test_the_mode_follows_the_room(tmp_path, monkeypatch):
    assert choose_mode(1000, tmp_path / "absent") == "memory"
    monkeypatch.setattr(cache, "available_memory", lambda: 1000)
    assert choose_mode(1000, tmp_path / "absent") == "disk"
    assert choose_mode(1 << 60, tmp_path) == "none"
    (tmp_path / "file").touch()
    assert choose_mode(1000, tmp_path / "file" / "frames") == "none"  # no folder can be made


@pytest.mark.parametrize("ask", [lambda clips: clips.set_epoch(2), lambda clips: clips[0]])
def test_a_file_that_others_cut_is_noticed_before_it_is_read(sequences, tmp_path, ask):
    frames = open_frames(sequences, None, "disk", tmp_path / "frames")
    clips = TrainClips(sequences, 100.0, 20.0, ClipOptions(10, 6, 1.0, 3), None, frames)
    clips.set_epoch(1)
    for path in (tmp_path / "frames").iterdir():
        with path.open("r+b") as file:
            file.truncate(100)
    with pytest.raises(OSError, match="was cut while it was in use"):
        ask(clips)


def test_what_an_ended_process_left_is_removed_and_what_a_running_one_writes_is_not(
    sequences, tmp_path
):
    ended = multiprocessing.get_context("fork").Process(target=int)
    ended.start()
    ended.join()
    folder = tmp_path / "frames"
    folder.mkdir()
    own = CacheFile(sequences[0], None, folder).aside
    left = own.with_name(own.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    other = own.with_name(".x.cache.elsewhere-1-0.part")
    for path in (own, left, other):
        path.touch()
    make_cache_folder(folder)
    assert own.exists() and other.exists() and not left.exists()


def test_a_file_that_goes_while_its_folder_is_read_is_passed_over(tmp_path):
    # As where another process finishes its file between the listing and the look at it.
    gone = tmp_path / ".x.cache.elsewhere-1-0.part"
    gone.symlink_to(tmp_path / "renamed")
    old = tmp_path / ".y.cache.elsewhere-1-0.part"
    old.touch()
    os.utime(old, (0, 0))
    make_cache_folder(tmp_path)
    assert not old.exists()
