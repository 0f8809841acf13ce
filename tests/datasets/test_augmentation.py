"""Changes of training clips at random: each is what its name says, and none is made unasked."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.cache.build import Frames
from data.clips import ClipOptions, TrainClips
from data.training.augmentation import (
    Augmentation,
    Change,
    move_masks,
    move_view,
    parse_augmentation,
)

NOTHING = Change(None, 1.0, 0.0, False, 0.0, 0.0, 7)
ALL = "contrast=0.5,level=0.4,dark=0.5,stride=2,jitter=0.4,drift=0.3,noise=0.2,pattern=0.1,grow=1"


@pytest.fixture
def clip(rng):
    return rng.normal(0.5, 1.0, (6, 11, 13)).astype(np.float32)


def make_clips(rng, augmentation, frames=25, side=20, **options):
    """Clips of T = 10 frames and 8 x 8 pixels of one sequence; its arrays."""
    images = rng.integers(50, 200, (frames, side, side), dtype=np.uint8)
    masks = np.zeros_like(images)
    masks[np.arange(frames), np.arange(frames) % side, 9] = 1
    held = Frames([range(frames)], None, "memory", [(images, masks)])
    given = ClipOptions(10, 8, 1.0, 3, augmentation=augmentation, **options)
    return TrainClips([range(frames)], 100.0, 20.0, given, None, held), images, masks


def test_without_changes_a_clip_keeps_its_bits(clip):
    before = clip.copy()
    NOTHING.apply(clip)
    assert np.array_equal(clip, before)


def test_changes_of_size_nothing_give_the_clips_of_none(rng):
    plain, *_ = make_clips(np.random.default_rng(1), None)
    changed, *_ = make_clips(np.random.default_rng(1), Augmentation())
    for index in range(len(plain)):
        assert all(map(torch.equal, plain[index], changed[index]))


def test_dark_mirrors_grey_levels_about_the_mean_of_the_clip(clip):
    before = clip.copy()
    replace(NOTHING, mirrored=True).apply(clip)
    assert np.allclose(clip, 2 * before.mean() - before, atol=1e-5)
    assert clip.mean() == pytest.approx(before.mean(), abs=1e-5)
    assert before.argmax() == clip.argmin()


def test_contrast_multiplies_the_distance_from_the_mean_of_the_data_set(clip):
    before = clip.copy()
    replace(NOTHING, gain=1.5).apply(clip)
    assert np.allclose(clip, 1.5 * before)


def test_the_logarithm_of_the_contrast_is_uniform():
    rng = np.random.default_rng(0)
    gains = np.log([Augmentation(contrast=0.5).draw(5, 2, rng).gain for _ in range(4000)])
    ends = np.log(1.5)
    assert np.abs(gains).max() <= ends and gains.mean() == pytest.approx(0, abs=0.02)
    assert gains.std() == pytest.approx(2 * ends / 12**0.5, rel=0.05)


def test_level_is_added_and_uniform(clip):
    before = clip.copy()
    replace(NOTHING, level=-0.7).apply(clip)
    assert np.allclose(clip, before - 0.7)
    rng = np.random.default_rng(0)
    levels = np.array([Augmentation(level=0.8).draw(5, 2, rng).level for _ in range(4000)])
    assert np.abs(levels).max() <= 0.8 and levels.mean() == pytest.approx(0, abs=0.03)
    assert levels.std() == pytest.approx(1.6 / 12**0.5, rel=0.05)


def test_the_share_of_dark_clips_is_the_one_given():
    rng = np.random.default_rng(0)
    drawn = [Augmentation(dark=0.3).draw(5, 2, rng).mirrored for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(0.3, abs=0.03)


def test_noise_is_new_in_every_frame_and_a_pattern_stays():
    clip = np.zeros((50, 40, 40), np.float32)
    replace(NOTHING, noise=0.2).apply(clip)
    assert clip.std(axis=0).mean() == pytest.approx(0.2, rel=0.03)
    assert clip.mean(axis=0).std() == pytest.approx(0.2 / 50**0.5, rel=0.1)
    fixed = np.zeros((50, 40, 40), np.float32)
    replace(NOTHING, pattern=0.2).apply(fixed)
    assert not (fixed - fixed[0]).any() and fixed[0].std() == pytest.approx(0.2, rel=0.05)
    levels = [
        Augmentation(noise=0.4, pattern=0.1).draw(5, 2, np.random.default_rng(i))
        for i in range(2000)
    ]
    for name, most in (("noise", 0.4), ("pattern", 0.1)):
        values = np.array([getattr(change, name) for change in levels])
        assert values.max() <= most and values.mean() == pytest.approx(most / 2, rel=0.05)


def test_masks_grow_in_the_clip_and_only_there():
    plain, *_ = make_clips(np.random.default_rng(1), None)
    grown, *_ = make_clips(np.random.default_rng(1), Augmentation(grow=2))
    targets = 0
    for index in range(len(plain)):
        (clip, mask), (same, more) = plain[index], grown[index]
        assert torch.equal(clip, same) and more.dtype == torch.uint8
        expected = torch.zeros_like(mask)
        for frame, row, column in mask.nonzero().tolist():
            expected[frame, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = 1
        assert torch.equal(more, expected)
        targets += int(mask.sum())
    assert targets


def test_padding_stays_zero_under_all_changes(rng):
    clips, *_ = make_clips(rng, parse_augmentation(ALL), frames=8, mark_padding=True)
    padded = 0
    for index in range(len(clips)):
        clip, mask, real = clips[index]
        assert not clip[0][real == 0].any() and not mask[real == 0].any()
        assert clip[0][real == 1].any()
        padded += int((real == 0).any())
    assert padded


def test_moves_by_whole_pixels_are_other_slices(rng):
    frames = rng.integers(0, 256, (5, 20, 24), dtype=np.uint8)
    rows, columns = slice(6, 14), slice(5, 15)
    offsets = np.array([[0, 0], [2, -3], [-6, 5], [6, 9], [-1, -5]], float)
    expected = [
        frame[6 + down : 14 + down, 5 + right : 15 + right]
        for frame, (down, right) in zip(frames, offsets.astype(int), strict=True)
    ]
    assert np.array_equal(move_view(frames, rows, columns, offsets), np.array(expected, np.float32))
    assert np.array_equal(move_masks(frames, rows, columns, offsets), expected)


def test_moves_by_parts_of_pixels_are_bilinear():
    """A plane of grey levels is read exactly."""
    row, column = np.mgrid[:20, :24]
    plane = (3.0 * row - 2.0 * column + 5)[None]
    moved = move_view(plane, slice(6, 14), slice(5, 15), np.array([[0.3, -1.6]]))
    expected = 3.0 * (row[6:14, 5:15] + 0.3) - 2.0 * (column[6:14, 5:15] - 1.6) + 5
    assert np.allclose(moved[0], expected, atol=1e-4)


@pytest.mark.parametrize(("offset", "pixel"), [(0.49, 10), (0.51, 9), (-0.49, 10), (-0.51, 11)])
def test_a_mask_moves_to_the_nearest_pixel(offset, pixel):
    masks = np.zeros((1, 20, 20), np.uint8)
    masks[0, 10, 10] = 1
    moved = move_masks(masks, slice(0, 19), slice(0, 20), np.array([[offset, 0.0]]))
    inside = move_masks(masks, slice(2, 18), slice(2, 18), np.array([[offset, offset]]))
    assert inside.sum() == 1 and np.argwhere(inside[0]).tolist() == [[pixel - 2] * 2]
    assert moved.sum() == 1


def test_the_view_stops_at_the_border_of_the_image(rng):
    frames = rng.integers(0, 256, (2, 9, 7), dtype=np.uint8)
    offsets = np.array([[100.0, -100.0], [0.5, 0.5]])
    moved = move_view(frames, slice(0, 5), slice(1, 7), offsets)
    assert np.array_equal(moved[0], frames[0, 4:9, 0:6])
    whole = move_view(frames, slice(0, 30), slice(0, 30), offsets)
    assert np.array_equal(whole, frames)  # an image smaller than the crop has nowhere to go
    assert np.array_equal(move_masks(frames, slice(0, 30), slice(0, 30), offsets), frames)


def test_a_share_of_the_clips_is_left_unmoved():
    rng = np.random.default_rng(1)
    moving = parse_augmentation("jitter=0.3,drift=0.4,still=0.25")
    drawn = [moving.draw(9, 4, rng).offsets is None for _ in range(2000)]
    assert abs(np.mean(drawn) - 0.25) < 0.03
    assert parse_augmentation("jitter=0.3,still=1").draw(9, 4, rng).offsets is None


def test_the_frame_that_is_predicted_last_does_not_drift_whichever_way_the_clip_is_played(rng):
    clips, *_ = make_clips(rng, Augmentation(drift=0.5), predicts="last", turns=True)
    crops = [clips.draw(index) for index in range(len(clips))]
    for crop in crops:
        still = ~crop.change.offsets.any(axis=1)
        assert np.flatnonzero(still).tolist() == [0 if crop.backwards else len(still) - 1]
    assert {crop.backwards for crop in crops} == {False, True}


def test_drift_is_a_steady_speed_and_leaves_the_frame_that_placed_the_crop():
    rng = np.random.default_rng(0)
    speeds = []
    for _ in range(1500):
        offsets = Augmentation(drift=0.5).draw(9, 4, rng).offsets
        assert not offsets[4].any()
        steps = np.diff(offsets, axis=0)
        assert np.allclose(steps, steps[0])
        speeds.append(steps[0])
    speeds = np.array(speeds)
    assert np.abs(speeds).max() <= 0.5 and speeds.std() == pytest.approx(1 / 12**0.5, rel=0.05)
    assert abs(np.corrcoef(speeds.T)[0, 1]) < 0.1


def test_jitter_moves_each_frame_on_its_own():
    offsets = Augmentation(jitter=0.7).draw(4000, 4, np.random.default_rng(0)).offsets
    assert offsets.std(axis=0) == pytest.approx([0.7, 0.7], rel=0.05)
    assert abs(np.corrcoef(offsets[1:, 0], offsets[:-1, 0])[0, 1]) < 0.06


def test_a_stretched_window_keeps_its_frames_in_number_and_lies_in_the_sequence():
    rng = np.random.default_rng(0)
    for frames, most in ((100, 4), (25, 2), (19, 1), (8, 1)):
        steps = set()
        for stop in range(1, frames):
            for _ in range(20):
                start = max(0, stop - 10)
                window = Augmentation(stride=4).draw_stride(start, stop, frames, 10, rng)
                taken = range(*window)
                assert len(taken) == stop - start
                assert taken[0] >= 0 and taken[-1] < frames and window[1] <= frames
                assert taken[-1] == stop - 1 or taken[0] == 0
                steps.add(window[2])
        assert steps == set(range(1, most + 1))


def test_clips_at_a_stride_are_every_so_manyth_frame(rng):
    clips, images, masks = make_clips(rng, Augmentation(stride=2))
    seen = set()
    for index in range(len(clips)):
        crop = clips.draw(index)
        clip, mask = clips[index]
        frames = range(crop.start, crop.stop, crop.step)
        first = 0 if crop.pad_end else 10 - len(frames)
        for place, frame in enumerate(frames, first):
            part = images[frame, crop.rows, crop.columns]
            assert np.allclose(clip[0, place].numpy(), (part - np.float32(100)) / np.float32(20))
            assert np.array_equal(mask[place].numpy(), masks[frame, crop.rows, crop.columns])
        seen.add(crop.step)
    assert seen == {1, 2}


def test_an_item_depends_on_seed_epoch_and_index_alone(rng):
    clips, *_ = make_clips(rng, parse_augmentation(ALL), flips=True)
    first = [clips[index] for index in range(len(clips))]
    again = [clips[index] for index in reversed(range(len(clips)))][::-1]
    for one, other in zip(first, again, strict=True):
        assert all(map(torch.equal, one, other))
    clips.set_epoch(1)
    assert not all(torch.equal(clips[i][0], first[i][0]) for i in range(len(clips)))


def test_a_text_gives_the_values_by_name():
    assert parse_augmentation(None) is None
    assert parse_augmentation("dark=0.5, stride=4") == Augmentation(dark=0.5, stride=4)
    assert parse_augmentation(ALL) == Augmentation(0.5, 0.4, 0.5, 2, 0.4, 0.3, 0.2, 0.1, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dork=1", "NAME one of contrast, level, dark"),
        ("dark", "from 0 to 1"),
        ("dark=1.5", "from 0 to 1"),
        ("dark=nan", "from 0 to 1"),
        ("noise=-1", "from 0 to 1000"),
        ("noise=inf", "from 0 to 1000"),
        ("contrast=1e300", "from 0 to 1000"),
        ("stride=0", "a whole number from 1 to 1000"),
        ("stride=1.5", "a whole number"),
        ("dark=0.1,dark=0.2", "twice"),
        ("", "no such change"),
    ],
)
def test_what_is_no_change_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse_augmentation(text)


def test_a_gpu_leaves_changed_clips_to_the_cpu(rng):
    from data.batches import fits

    clips, *_ = make_clips(rng, Augmentation(dark=0.5))
    assert not fits(clips, SimpleNamespace(type="cuda"))
