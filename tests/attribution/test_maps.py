"""Pictures and phenomena: normalised maps, shares of the influence, influence over distance."""

import numpy as np
import pytest

from utils.attribution.maps import Influence, frame_influence, normalised_map, share_influence
from utils.attribution.paths import PATHS, path_start
from utils.attribution.targets import ScoredTarget


def test_the_normalised_map_is_the_root_of_the_magnitude_and_reaches_one(rng):
    attribution = rng.normal(size=(4, 5, 6))
    found = normalised_map(attribution)
    assert found.max() == 1
    np.testing.assert_allclose(found**2, np.abs(attribution) / np.abs(attribution).max())
    assert not normalised_map(np.zeros((2, 3, 3))).any()  # nothing over nothing


def test_shares_are_of_the_magnitudes_on_the_target_s_pixels_and_near_them():
    attribution = np.zeros((5, 12, 12))
    target = ScoredTarget(2, np.array([[4, 4], [4, 5]]))
    attribution[0, 4, 4], attribution[1, 4, 5] = 1, -2
    attribution[2, 4, 4], attribution[4, 4, 5] = 3, -1
    attribution[3, 7, 8], attribution[3, 4, 9] = 2, 1  # three pixels away, and four
    shares = share_influence(attribution, target)
    assert (shares.before, shares.at, shares.after) == pytest.approx((0.3, 0.3, 0.1))
    assert shares.profile == pytest.approx(0.7) and shares.near == pytest.approx(0.9)
    assert shares.drawn_near == pytest.approx(5 / 6)


def test_influence_is_averaged_over_what_lies_at_one_distance(rng):
    parts = [Influence(4), Influence(4)]
    maps, frames = rng.normal(size=(3, 4, 5, 6)), (0, 3, 3)
    reals = (slice(0, 4), slice(0, 4), slice(1, 4))  # the last has a frame before the sequence
    for index, (each, frame, real) in enumerate(zip(maps, frames, reals, strict=True)):
        parts[index % 2].add(each, frame, real)
    offsets, influence, share, counts = (parts[0] + parts[1]).curve()
    by_offset = {}
    for each, frame, real in zip(maps, frames, reals, strict=True):
        largest = frame_influence(each)
        total = np.abs(each).sum()
        for r in range(4)[real]:
            part = np.abs(each[r]).sum() / total
            by_offset.setdefault(r - frame, []).append((largest[r], part))
    assert offsets.tolist() == sorted(by_offset)
    for offset, mean, part, count in zip(offsets, influence, share, counts, strict=True):
        expected = np.array(by_offset[offset])
        assert count == len(expected)
        assert (mean, part) == pytest.approx(tuple(expected.mean(axis=0)))


def test_paths_start_without_the_target_and_leave_padding_alone(rng):
    clip = rng.normal(size=(7, 12, 14)).astype(np.float32)
    real = slice(0, 5)
    starts = {name: path_start(name, clip, (90.0, 30.0), real) for name in PATHS}
    for start in starts.values():
        np.testing.assert_array_equal(start[5:], clip[5:])
        assert start.dtype == np.float32
    assert not starts["zero"][:5].any()
    assert (starts["black"][:5] == -3).all()
    median = np.median(clip[:5], axis=0)
    assert starts["mean"][2, 5, 6] == pytest.approx(median[1:10, 2:11].mean(), rel=1e-5)
    assert (starts["mean"][0] == starts["mean"][4]).all()
