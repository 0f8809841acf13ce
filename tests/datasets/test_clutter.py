"""Clutter that is added to clips: objects that move through them, and waves."""

from dataclasses import replace

import numpy as np
import pytest

from data.training import augmentation
from data.training.augmentation import Augmentation
from data.training.clutter import (
    CONTRASTS,
    FASTEST,
    PART_LEVELS,
    WAVES,
    WIDTHS,
    add_waves,
    paste_mover,
)
from tests.datasets.test_augmentation import NOTHING, make_clips


def pasted(seed, side=120, frames=20):
    clip = np.full((frames, side, side), 2.5, np.float32)
    paste_mover(clip, seed)
    return clip


def middle(frame):
    """Row and column of what an object added to a frame of level 2.5, weighed by how much."""
    change = np.abs(frame - 2.5)
    grid = np.indices(frame.shape)
    return (grid * change).sum((1, 2)) / change.sum()


def test_an_object_wider_than_a_target_moves_steadily_and_keeps_its_form():
    whole = 0
    for seed in range(12):
        clip = pasted(seed, side=400)
        moved = clip != 2.5
        rim = moved[:, [0, -1]].any((1, 2)) | moved[:, :, [0, -1]].any((1, 2))
        inside = moved.any((1, 2)) & ~rim
        if inside.sum() < 10:
            continue  # it leaves the view
        whole += 1
        steps = np.diff([middle(frame) for frame in clip[inside]], axis=0)
        assert np.abs(steps - steps.mean(0)).max() < 0.1
        assert np.abs(steps).max() < FASTEST + 0.1
        widths = moved[inside].any(1).sum(1)
        assert WIDTHS[0] <= widths.min() and widths.max() <= WIDTHS[1] + 4
        assert np.ptp(widths) <= 2
        assert np.abs(clip - 2.5).max() <= CONTRASTS[1] * PART_LEVELS[1] + 1e-4
    assert whole > 5


def test_objects_differ_and_the_same_seed_gives_the_same():
    assert np.array_equal(pasted(3), pasted(3))
    assert len({pasted(seed).tobytes() for seed in range(20)}) == 20
    brighter = sum(pasted(seed).mean() > 2.5 for seed in range(200))
    assert 110 < brighter < 180


@pytest.mark.parametrize("options", [{}, {"jitter": 0.3}])
def test_all_clips_that_show_no_target_get_one_and_no_others(options, monkeypatch):
    seen = []
    monkeypatch.setattr(augmentation, "paste_mover", lambda clip, seed: seen.append(seed))
    clips, *_ = make_clips(
        np.random.default_rng(1), Augmentation(movers=1.0, **options), side=40, crops="centred"
    )
    without = 0
    for index in range(len(clips)):
        before = len(seen)
        _, mask = clips[index]
        without += not mask.any()
        assert len(seen) - before == (not mask.any())
    assert 5 < without < len(clips)


def test_the_share_of_clips_is_the_one_given_and_other_draws_stay():
    def draws(augmentation):
        return [augmentation.draw(10, 5, np.random.default_rng(seed)) for seed in range(400)]

    found = draws(Augmentation(noise=0.2, movers=0.3, waves=0.6))
    assert 80 < sum(change.mover is not None for change in found) < 160
    assert 200 < sum(change.waves is not None for change in found) < 280
    plain = draws(Augmentation(noise=0.2))
    assert [replace(change, mover=None, waves=None) for change in found] == plain
    assert NOTHING.mover is None and NOTHING.waves is None


def test_waves_are_brighter_come_and_go_and_have_the_strength_given():
    strengths = []
    for seed in range(30):
        clip = np.zeros((40, 32, 48), np.float32)
        add_waves(clip, seed)
        again = np.zeros_like(clip)
        add_waves(again, seed)
        assert np.array_equal(clip, again)
        assert clip.min() >= 0
        by_time = clip.std(0).mean()
        assert by_time > 0.3 * clip.std()  # no pixel keeps its level
        near = np.corrcoef(clip[:, :, 1:].ravel(), clip[:, :, :-1].ravel())[0, 1]
        assert near > 0.3  # they are longer than a pixel
        strengths.append(clip.max())
    # A crest is at most some five standard deviations high.
    assert max(strengths) < 6.5 * WAVES[1] and min(strengths) > WAVES[0]


def test_clips_with_targets_have_waves_too():
    plain, *_ = make_clips(np.random.default_rng(1), None)
    waved, *_ = make_clips(np.random.default_rng(1), Augmentation(waves=1.0))
    for index in range(len(plain)):
        assert np.array_equal(plain[index][1], waved[index][1])
        added = waved[index][0] - plain[index][0]
        assert added.min() >= 0 and added.max() > 0


def test_padding_stays_zero(rng):
    clips, *_ = make_clips(rng, Augmentation(movers=1.0, waves=1.0), frames=9, mark_padding=True)
    for index in range(len(clips)):
        clip, _, real = clips[index]
        assert not clip[0][real == 0].any()
