"""Interventions: the score falls without what matters, comes back with it alone."""

import numpy as np
import pytest
import torch

from models.detector import Detector
from utils.attribution.intervention import FILLINGS, SHARES, intervene, marked_patches
from utils.attribution.maps import normalised_map
from utils.attribution.scores import TargetScores
from utils.attribution.targets import ScoredTarget

T = 6


class Pulse(Detector):
    """The logit of a pixel: how far it is above its own mean over the clip."""

    def detect(self, clip):
        return 4 * (clip - clip.mean(dim=2, keepdim=True)) - 6


def scene(rng):
    clip = 0.1 * rng.normal(size=(T, 13, 15)).astype(np.float32)
    clip[3, 4:6, 8] += 5
    return clip, ScoredTarget(3, np.array([[4, 8], [5, 8]]))


def score(clip, target):
    with torch.no_grad():
        logits = Pulse(T)(torch.from_numpy(clip)[None, None])[0]
    return logits[target.frame].sigmoid().numpy()[tuple(target.pixels.T)].mean()


def test_a_true_attribution_is_agreed_with_and_a_false_one_is_not(rng):
    clip, target = scene(rng)
    scores = TargetScores(Pulse(T), [target])
    true = np.zeros_like(clip)
    true[:, 4:6, 8] = clip[:, 4:6, 8]
    made = intervene(scores, clip, 0 * clip, true)
    assert made.agrees and made.score == pytest.approx(score(clip, target), abs=1e-6)
    false = np.zeros_like(clip)
    false[:, 10:12, 2] = 1
    assert not intervene(scores, clip, 0 * clip, false).agrees


def test_curves_are_scores_of_what_is_left_and_of_what_is_put_in(rng):
    clip, target = scene(rng)
    start = np.full_like(clip, -0.5)
    attribution = rng.normal(size=clip.shape) ** 5
    made = intervene(TargetScores(Pulse(T), [target]), clip, start, attribution)
    influence = np.abs(attribution)
    order = np.argsort(-influence, axis=None)
    total = np.cumsum(influence.ravel()[order])
    for index, share in enumerate(SHARES):
        count = int(np.argmax(total >= share * total[-1] * (1 - 1e-9))) + 1
        count = {0: 0, 1: clip.size}.get(share, count)
        taken = np.isin(np.arange(clip.size), order[:count]).reshape(clip.shape)
        for curve, kept, other in (
            (made.deletion, clip, start),
            (made.insertion, start, clip),
        ):
            expected = score(np.where(taken, other, kept), target)
            assert curve[index] == pytest.approx(expected, abs=1e-5)
    assert made.random_deletion[-1] == pytest.approx(made.start, abs=1e-6)
    assert made.random_insertion[-1] == pytest.approx(made.score, abs=1e-6)
    assert made.random_deletion[0] == made.score and made.insertion[0] == made.start


def test_patches_are_marked_by_their_own_area_and_replaced_as_named(rng):
    clip, target = scene(rng)
    attribution = np.zeros_like(clip)
    attribution[3, 4:6, 8], attribution[0, 12, 14] = 1, 0.00004
    marks = marked_patches(attribution)
    for (t, i, j), marked in np.ndenumerate(marks):
        patch = normalised_map(attribution)[t, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        assert marked == (patch.sum() > patch.size / 200)
    assert marks.sum() == 1 and marks[3, 1, 2]
    made = intervene(TargetScores(Pulse(T), [target]), clip, 0 * clip, attribution)
    assert made.marked == pytest.approx(1 / marks.size)
    for name, fill in FILLINGS.items():
        replaced = clip.copy()
        replaced[3, 4:8, 8:12] = fill(clip)[3, 4:8, 8:12]
        effect = score(clip, target) - score(replaced, target)
        assert made.effects[name] == pytest.approx(effect, abs=1e-6)
    assert FILLINGS["mean"](clip)[3, 5, 9] == pytest.approx(clip[3, 4:8, 8:12].mean(), rel=1e-5)
    assert FILLINGS["mean"](clip)[0, 12, 13] == pytest.approx(clip[0, 12:, 12:].mean(), rel=1e-4)


def test_an_attribution_of_nothing_is_not_believed(rng):
    clip, target = scene(rng)
    made = intervene(TargetScores(Pulse(T), [target]), clip, 0 * clip, 0 * clip)
    assert not made.agrees and made.marked == 0
    assert (made.deletion == made.score).all() and (made.insertion == made.start).all()
