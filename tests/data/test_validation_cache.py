"""What is validated every epoch is decoded once, and reads as it would from disk."""

import dataclasses
from functools import partial

import numpy as np
import pytest

from data.cache.validation import Room, keep_decoded
from data.sequences import open_test_list
from data.specs import get_spec
from tests.builders import record_decoding

SPEC = get_spec("NUDT-MIRSDT")
WINDOWS = [(0, 3), (2, 7), (0, 7), (6, 7)]  # within the shortest sequence


def read_all(sequences):
    return [each.read(*window) for each in sequences for window in WINDOWS]


@pytest.mark.parametrize(
    "mode, keeps", [("auto", True), ("memory", True), ("disk", False), ("none", False)]
)
def test_kept_sequences_read_as_those_on_disk(nudt, monkeypatch, mode, keeps):
    plain = open_test_list(SPEC, nudt)
    kept = keep_decoded(open_test_list(SPEC, nudt), mode)
    assert [(each.name, len(each), each.normalisation) for each in kept] == [
        (each.name, len(each), each.normalisation) for each in plain
    ]
    expected = read_all(plain)
    decoded = record_decoding(monkeypatch)
    for _ in range(2):
        first = len(decoded)
        for block, other in zip(read_all(kept), expected, strict=True):
            for field in dataclasses.fields(block):
                one, two = getattr(block, field.name), getattr(other, field.name)
                np.testing.assert_array_equal(one, two)
    frames = sum(stop - start for start, stop in WINDOWS) * 2
    assert len(decoded) - first == (0 if keeps else frames * 3)


def test_what_does_not_fit_is_read_from_disk_each_time(nudt):
    sizes = [41 * 8 * 10 * 3, 7 * 12 * 14 * 3]
    for room, fitting in ((sum(sizes), 2), (sum(sizes) - 1, 1), (sizes[1], 1), (0, 0)):
        free = partial(int, 2 * room)
        kept = list(keep_decoded(open_test_list(SPEC, nudt), "auto", free))
        read_all(kept)
        assert sum(each.whole is not None for each in kept) == fitting


def test_room_is_never_below_nothing(rng):
    room, taken = Room(lambda: 2001), 0
    for size in rng.integers(1, 300, 50).tolist():
        taken += size * room.take(size)
        assert room.left == 1000 - taken >= 0
    assert taken > 700
