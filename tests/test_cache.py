"""The cache of decoded frames gives what decoding gives, or is made again."""

import errno
import multiprocessing
import os

import numpy as np
import pytest
import torch

from data import cache
from data.cache import choose_mode, open_frames
from data.clips import TrainClips
from data.device_clips import DeviceClips
from data.frames import find_sequences
from data.specs import get_spec
from tests.builders import write_image

SPEC = get_spec("NUDT-MIRSDT")


@pytest.fixture
def sequences(nudt):
    return find_sequences(SPEC, SPEC.train, nudt)


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mode", ["memory", "disk"])
@pytest.mark.parametrize("size", [None, (16, 16)])
def test_clips_are_the_same_with_and_without_a_cache(sequences, tmp_path, mode, size):
    options = (*(100.0, 20.0, 10, 9, 0.5, 3, size), None, True, True)
    plain = TrainClips(sequences, *options)
    frames = open_frames(sequences, size, mode, tmp_path / "frames")
    cached = TrainClips(sequences, *options[:7], frames, True, True)
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
    monkeypatch.setattr(cache, "read_window", None)
    assert open_frames(sequences, None, "disk", tmp_path / "frames").read(0, 2, 5)[0].shape == (
        3,
        8,
        10,
    )


@pytest.mark.parametrize("damage", ["cut", "emptied", "version", "rubbish"])
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
            "version": whole.replace(b'"version": 1', b'"version": 0'),
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


def test_a_full_disk_is_one_clear_line_and_leaves_no_file(sequences, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*--cache memory"):
        open_frames(sequences, None, "disk", tmp_path / "frames")
    assert files_of(tmp_path / "frames") == []


@pytest.mark.parametrize("share", [0, 0.02, 1])
def test_a_file_gives_back_what_was_written(tmp_path, rng, share):
    frames = rng.integers(0, 60000, (5, 40, 201)).astype(np.uint16)
    masks = (rng.random(frames.shape) < share).astype(np.uint8)
    cache.write_file(tmp_path / "a.cache", "sources", frames, masks)
    arrays = cache.map_file(tmp_path / "a.cache", "sources")
    assert all(np.array_equal(*pair) for pair in zip(arrays, (frames, masks), strict=True))
    assert files_of(tmp_path) == ["a.cache"]


def test_an_unreadable_image_is_named_and_leaves_no_half_file(nudt, sequences, tmp_path):
    (nudt / "Sequence1/masks/00002.png").write_bytes(b"no image")
    for mode in ("memory", "disk"):
        with pytest.raises(ValueError, match="00002.png: cannot be read as a mask"):
            open_frames(sequences, None, mode, tmp_path / "frames")
    assert not [name for name in files_of(tmp_path / "frames") if name.endswith(".part")]


def test_the_mode_follows_the_room(tmp_path, monkeypatch):
    assert choose_mode(1000, tmp_path / "absent") == "memory"
    monkeypatch.setattr(cache, "free_memory", lambda: 1000)
    assert choose_mode(1000, tmp_path / "absent") == "disk"
    assert choose_mode(1 << 60, tmp_path) == "none"
