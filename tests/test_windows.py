"""Test windows and stitching."""

import numpy as np
import pytest

from data.frames import find_sequences
from data.sequences import LabelledSequences
from data.specs import get_spec
from tests.builders import random_sequence, record_decoding, write_list, write_nudt_sequence
from utils.windows import cut, stitch, window_starts

LENGTHS = [1, 3, 4, 5, 39, 40, 41, 75, 76, 77, 100, 137]


@pytest.mark.parametrize(
    ("frames", "starts"),
    [(100, [0, 36, 60]), (40, [0]), (41, [0, 1]), (76, [0, 36]), (77, [0, 36, 37]), (39, [0])],
)
def test_windows_of_40_start_where_published(frames, starts):
    assert window_starts(frames, 40) == starts


@pytest.mark.parametrize("seqlen", [1, 5, 10, 20, 40])
@pytest.mark.parametrize("frames", LENGTHS)
def test_windows_cover_every_frame_and_as_many_as_the_rule_says(frames, seqlen):
    starts = window_starts(frames, seqlen)
    covered = {frame for start in starts for frame in range(start, min(start + seqlen, frames))}
    assert covered == set(range(frames))
    overlap = int(0.1 * seqlen)
    if frames >= seqlen:
        assert len(starts) == -(-(frames - overlap) // (seqlen - overlap))
        assert starts[-1] + seqlen == frames


@pytest.mark.parametrize("frames", LENGTHS)
def test_stitching_cut_windows_gives_the_sequence_back(frames, rng):
    sequence = rng.random((frames, 3, 4), dtype=np.float32)
    starts = window_starts(frames, 40)
    windows = [np.zeros((40, 3, 4), np.float32) for _ in starts]
    for window, start in zip(windows, starts, strict=True):
        part = cut(sequence, start, 40)
        window[: len(part)] = part
    assert np.array_equal(stitch(windows, starts, frames), sequence)


def test_frames_seen_twice_take_the_larger_score():
    low, high = np.full((40, 1, 1), 0.25), np.full((40, 1, 1), 0.75)
    joined = stitch([low, high, low], [0, 36, 60], 100)[:, 0, 0]
    assert (joined[:36] == 0.25).all()
    assert (joined[36:76] == 0.75).all()
    assert (joined[76:] == 0.25).all()


def test_no_frame_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        window_starts(0, 40)


@pytest.fixture
def awkward(tmp_path, rng):
    """Sequences of awkward lengths, each of its own size."""
    names = {f"Sequence{frames}": frames for frames in (1, 39, 40, 41, 76, 77)}
    for name, frames in names.items():
        write_nudt_sequence(tmp_path, name, *random_sequence(rng, frames, 5 + frames % 3, 6))
    write_list(tmp_path / "test.txt", names, newline="\r\n")
    spec = get_spec("NUDT-MIRSDT")
    return LabelledSequences(
        find_sequences(spec, spec.test, tmp_path), spec.mean, spec.std, seqlen=40
    )


def test_sequences_of_awkward_lengths_and_sizes_come_in_order_and_whole(awkward):
    lengths = [1, 39, 40, 41, 76, 77]
    sequences = list(awkward)
    assert [sequence.name for sequence in sequences] == awkward.names
    assert [len(sequence.frames) for sequence in sequences] == lengths
    assert awkward.windows() == 1 + 1 + 1 + 2 + 2 + 3


def test_clips_are_normalised_frames_padded_with_zeros_after_normalisation(awkward):
    for sequence in awkward:
        frames = len(sequence.frames)
        for start, clip in awkward.clips(sequence):
            assert clip.shape == (1, 40, *sequence.frames.shape[1:])
            real = min(40, frames)
            expected = (sequence.frames[start : start + real] - 105.4025) / 26.6452
            assert np.allclose(clip[0, :real], expected, atol=1e-5)
            assert not clip[0, real:].any()


def test_each_frame_of_a_sequence_is_decoded_once(awkward, monkeypatch):
    decoded = record_decoding(monkeypatch)
    sequence = awkward.read(awkward.sequences[-1])
    list(awkward.clips(sequence))
    assert len(decoded) == len(set(decoded)) == 3 * 77
