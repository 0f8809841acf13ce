"""Points of a path: few, where the score changes, and honest about what they miss."""

import numpy as np
import pytest

from utils.attribution import quadrature
from utils.attribution.quadrature import Adaptive, Equidistant


class KnownPath:
    """Scores that are functions of the place, and how often each was asked for.

    The part of voxel i is the slope times its share, so that attributions are known.
    """

    def __init__(self, *functions):
        self.functions, self.targets = functions, len(functions)
        self.shares = np.array([0.5, 0.75, -0.25], np.float32)
        self.scored, self.taken = [], []

    def scores(self, places):
        self.scored += list(places)
        return np.array([[function(a) for function, _ in self.functions] for a in places])

    def gradients(self, places, wanted):
        for i, a in enumerate(places):
            for k in np.flatnonzero(wanted[i]):
                self.taken.append((a, k))
                slope = self.functions[k][1](a)
                yield i, k, slope, np.float32(slope) * self.shares


def switch(where, width, height=1.0):
    """A score that switches on at a place, and its slope."""

    def score(a):
        return height / (1 + np.exp(-np.clip((a - where) / width, -500, 500)))

    def slope(a):
        part = score(a) / height
        return height * part * (1 - part) / width

    return score, slope


@pytest.mark.parametrize("where", [0.001, 0.02, 0.37, 0.5, 0.999])
@pytest.mark.parametrize("width", [1e-4, 1e-2, 1.0])
def test_a_switch_anywhere_is_integrated(where, width):
    path = KnownPath(switch(where, width, 5.0))
    (found,) = Adaptive().integrate(path)
    begin, end = path.functions[0][0](0), path.functions[0][0](1)
    assert (found.begin, found.end) == (begin, end)
    np.testing.assert_allclose(
        found.attribution, (end - begin) * path.shares, rtol=0.01, atol=0.0101 * (end - begin)
    )
    assert abs(found.error) <= 0.01 and found.spread <= 0.02 and abs(found.jumps) < 1e-3
    assert found.points == len(path.taken) < 70


def test_the_published_points_miss_what_the_adaptive_ones_find():
    missed = switch(0.013, 1e-4)
    (published,) = Equidistant(50).integrate(KnownPath(missed))
    (adaptive,) = Adaptive().integrate(KnownPath(missed))
    assert published.error == pytest.approx(-1, abs=1e-6) and abs(adaptive.error) <= 0.01


def test_a_score_that_rises_and_falls_again_is_followed():
    up, down = switch(0.1, 1e-3, 4.0), switch(0.6, 0.03, -2.5)
    path = KnownPath((lambda a: up[0](a) + down[0](a), lambda a: up[1](a) + down[1](a)))
    (found,) = Adaptive(0.001).integrate(path)
    assert abs(found.error) <= 0.001 and found.difference == pytest.approx(1.5, rel=1e-3)


def test_no_place_is_scored_twice_and_targets_have_points_of_their_own():
    path = KnownPath(switch(0.02, 1e-3), switch(0.8, 1e-3))
    first, second = Adaptive().integrate(path)
    assert len(set(path.scored)) == len(path.scored)
    assert len(set(path.taken)) == len(path.taken)
    near = [a for a, k in path.taken if k == 0 and a < 0.1]
    assert len(near) > first.points / 2 and abs(second.error) <= 0.01


def test_gradients_that_are_not_kept_are_taken_again_for_the_same_result(monkeypatch):
    functions = switch(0.02, 1e-3, 4.0), switch(0.5, 0.2, 1.0)
    kept = Adaptive(1e-4).integrate(KnownPath(*functions))
    monkeypatch.setattr(quadrature, "KEPT_BYTES", 0)
    path = KnownPath(*functions)
    again = Adaptive(1e-4).integrate(path)
    assert len(set(path.taken)) < len(path.taken)
    for one, other in zip(kept, again, strict=True):
        np.testing.assert_allclose(one.attribution, other.attribution, rtol=1e-5)
        assert other.points >= one.points


def test_what_a_score_does_in_a_jump_is_said():
    rise = switch(0.3, 0.02)
    path = KnownPath((lambda a: rise[0](a) + (a > 0.7123), rise[1]))
    (found,) = Adaptive().integrate(path)
    assert found.error == pytest.approx(-0.5, abs=0.01)
    assert found.jumps == pytest.approx(0.5, abs=0.01)
    assert found.points < 100  # it does not dig for ever


def test_a_bound_on_points_is_kept_to():
    noise = np.random.default_rng(1)
    path = KnownPath((lambda a: a, lambda a: 1 + noise.normal()))
    (found,) = Adaptive(1e-6, most=40).integrate(path)
    assert 40 <= found.points < 100 and found.spread > 1e-6


def test_a_score_that_does_not_change_has_no_attribution():
    path = KnownPath((lambda a: 0.25, lambda a: 0.0))
    (found,) = Adaptive().integrate(path)
    assert not found.attribution.any() and found.difference == found.error == 0
    assert found.points == 4
