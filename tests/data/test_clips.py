"""Training clips: the published sampling, padding and cropping."""

import math
from collections import Counter

import numpy as np
import pytest

from data.cache.build import Frames
from data.clips import (
    CROPS,
    CandidateWindow,
    ClipOptions,
    TrainClips,
    candidate_windows,
    centres,
    draw_crop,
    hardness,
    middle_frame,
)
from data.lists import find_sequences
from data.specs import get_spec
from tests.builders import random_sequence, record_decoding, write_list, write_nudt_sequence


@pytest.fixture
def make_clips(tmp_path, rng):
    """Builds TrainClips over sequences of the given lengths, T = 10 and 6 x 6 crops."""

    def make(*lengths, patch=6, rate=1.0, size=None, shape=(12, 14), **options):
        names = [f"Sequence{i}" for i in range(1, len(lengths) + 1)]
        for name, frames in zip(names, lengths, strict=True):
            write_nudt_sequence(tmp_path, name, *random_sequence(rng, frames, *shape))
        write_list(tmp_path / "train.txt", names)
        spec = get_spec("NUDT-MIRSDT")
        files = find_sequences(spec, spec.train, tmp_path)
        return TrainClips(files, 100.0, 20.0, ClipOptions(10, patch, rate, 3, **options), size)

    return make


def test_candidates_are_96_for_100_frames_and_7680_for_the_training_set():
    windows = candidate_windows([100], 40)
    assert len(windows) == 96
    assert windows[0] == CandidateWindow(0, 0, 4) and windows[-1] == CandidateWindow(0, 59, 99)
    assert len(candidate_windows([100] * 80, 40)) == 7680
    assert int(len(candidate_windows([100] * 80, 40)) * 0.1) == 768


@pytest.mark.parametrize("frames", [1, 4, 5, 39, 40, 41])
def test_candidates_never_use_the_last_frame(frames):
    expected = [(max(0, i - 40), i) for i in range(4, frames)]
    assert [(w.start, w.stop) for w in candidate_windows([frames], 40)] == expected


def test_items_have_the_published_shapes_and_types(make_clips):
    clip, mask = make_clips(30)[0]
    assert clip.shape == (1, 10, 6, 6) and str(clip.dtype) == "torch.float32"
    assert mask.shape == (10, 6, 6) and str(mask.dtype) == "torch.uint8"
    assert set(mask.unique().tolist()) <= {0, 1}


def test_windows_are_drawn_with_probability_proportional_to_their_length(make_clips):
    clips = make_clips(20)
    rng = np.random.default_rng(0)
    draws = Counter(len(clips.draw_window(rng)) for _ in range(20000))
    weights = Counter()
    for window in clips.windows:
        weights[len(window)] += len(window)
    total = sum(weights.values())
    assert len(draws) == len(weights) == 10
    for length, weight in weights.items():
        assert draws[length] / 20000 == pytest.approx(weight / total, abs=0.015)


def test_an_item_depends_on_seed_epoch_and_index_alone(make_clips):
    clips = make_clips(30, 25)
    first = [clips[i][0].numpy() for i in range(8)]
    again = [clips[i][0].numpy() for i in reversed(range(8))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    clips.set_epoch(1)
    assert any(not np.array_equal(clips[i][0].numpy(), first[i]) for i in range(8))


def test_short_windows_are_padded_after_normalisation_by_the_parity_of_the_index(make_clips):
    clips = make_clips(8)  # every window is shorter than T = 10
    for index in range(len(clips)):
        window = clips.draw_window(np.random.default_rng((3, 0, index)))
        clip = clips[index][0][0].numpy()
        zero = [not frame.any() for frame in clip]
        real = [False] * len(window)
        padding = [True] * (10 - len(window))
        assert zero == (real + padding if index % 2 else padding + real)


@pytest.mark.parametrize("frames", [1, 2, 7, 39, 40])
def test_the_crop_is_placed_by_the_middle_real_frame(frames):
    # In the padded clip: t // 2 for odd items, T - ceil(t / 2) for even ones.
    numbers = np.arange(1, frames + 1).reshape(-1, 1, 1)
    for pad_end, position in ((True, frames // 2), (False, 40 - math.ceil(frames / 2))):
        missing = (0, 40 - frames) if pad_end else (40 - frames, 0)
        padded = np.pad(numbers, (missing, (0, 0), (0, 0)))
        assert padded[position, 0, 0] == numbers[middle_frame(frames, 40, pad_end), 0, 0]


def test_where_the_last_frame_is_predicted_short_windows_are_padded_at_the_start(make_clips):
    clips = make_clips(8, predicts="last")
    for index in range(len(clips)):
        crop = clips.draw(index)
        clip = clips[index][0][0].numpy()
        missing = 10 - (crop.stop - crop.start)
        assert missing > 0 and not crop.pad_end
        assert [not frame.any() for frame in clip] == [True] * missing + [False] * (10 - missing)


@pytest.mark.parametrize("turns", [False, True])
def test_where_the_last_frame_is_predicted_its_mask_places_the_crop(rng, turns):
    """Of a clip that is played backwards this is the first of its window."""
    images = rng.integers(0, 256, (15, 60, 60), dtype=np.uint8)
    masks = np.zeros_like(images)
    masks[np.arange(15), 4 * np.arange(15), 4 * np.arange(15)] = 1
    frames = Frames([range(15)], None, "memory", [(images, masks)])
    options = ClipOptions(10, 6, 1.0, 3, predicts="last", turns=turns)
    clips = TrainClips([range(15)], 100.0, 20.0, options, None, frames)
    near, backwards = [], set()
    for epoch in range(40):
        clips.set_epoch(epoch)
        crops = [clips.draw(index) for index in range(len(clips))]
        last = [crop.start if crop.backwards else crop.stop - 1 for crop in crops]
        offsets = [4 * at - crop.rows.start - 3 for at, crop in zip(last, crops, strict=True)]
        near += [abs(offset) <= 4 for offset in offsets]
        backwards |= {crop.backwards for crop in crops}
    assert backwards == {False, turns}
    assert np.mean(near) > 0.7  # 3 of 4 crops are centred on a target of the placing frame


def crop_corner(mask, patch_size, rng):
    return draw_crop(mask.shape, centres(mask), patch_size, rng)


def test_three_quarters_of_the_crops_are_centred_on_a_target_with_jitter():
    rng = np.random.default_rng(1)
    mask = np.zeros((300, 400), np.uint8)
    mask[150:153, 200:203] = 1
    corners = np.array([crop_corner(mask, 48, rng) for _ in range(4000)])
    offset = corners - (151 - 24, 201 - 24)
    near = (np.abs(offset) <= 8).all(axis=1)
    by_chance = (17 / 253) * (17 / 353)
    assert near.mean() == pytest.approx(0.75 + 0.25 * by_chance, abs=0.02)
    assert set(np.unique(offset[near])) == set(range(-8, 9))
    assert corners.min() >= 0 and (corners.max(axis=0) <= (252, 352)).all()


def test_centred_crops_lie_half_of_the_time_right_on_a_target():
    rng = np.random.default_rng(1)
    targets = [(151.0, 201.0)]
    corners = [draw_crop((300, 400), targets, 48, rng, CROPS["centred"]) for _ in range(4000)]
    exact = [corner == (151 - 24, 201 - 24) for corner in corners]
    assert np.mean(exact) == pytest.approx(0.5, abs=0.025)


def make_hard(images, masks, hard_crops):
    frames = Frames([range(len(images))], None, "memory", [(images, masks)])
    options = ClipOptions(10, 6, 1.0, 3, hard_crops=hard_crops)
    return TrainClips([range(len(images))], 100.0, 20.0, options, None, frames)


@pytest.mark.parametrize("kind", ["moves", "stands out"])
def test_crops_off_the_targets_lie_where_most_is_hard_and_the_others_as_before(rng, kind):
    images = rng.integers(99, 102, (15, 60, 60), dtype=np.uint8)
    if kind == "moves":
        images[::2, 40:43, 40:43] = 140
    else:
        images[:, 40:43, 40:43] = 140
    masks = np.zeros_like(images)
    masks[:, 10, 10] = 1
    images[::3, 10, 10] = 255  # a target is what moves and stands out most
    plain, hard = make_hard(images, masks, 1), make_hard(images, masks, 300)
    met = {plain: [], hard: []}
    for epoch in range(15):
        plain.set_epoch(epoch)
        hard.set_epoch(epoch)
        for index in range(len(plain)):
            first, second = plain.draw(index), hard.draw(index)
            assert shows(first, 10, 10) == shows(second, 10, 10)
            if shows(first, 10, 10):
                assert first == second
                continue
            for clips, crop in ((plain, first), (hard, second)):
                met[clips].append(any(shows(crop, r, c) for r in (40, 42) for c in (40, 42)))
    # One place in 47 shows some of it, so of 300 nearly always one does. In every second draw it is
    # looked for what moves, of which a window of one frame has nothing.
    assert np.mean(met[plain]) < 0.1
    assert np.mean(met[hard]) == pytest.approx(0.95 if kind == "moves" else 0.5, abs=0.1)


def shows(crop, row, column):
    return crop.rows.start <= row < crop.rows.stop and (
        crop.columns.start <= column < crop.columns.stop
    )


def test_hardness_is_the_root_of_the_mean_square_of_the_nine_pixels_that_stand_out_most(rng):
    frames = rng.integers(0, 256, (8, 7, 5), dtype=np.uint8)
    values = frames.astype(float)
    for moving, usual in ((True, values.mean(axis=0)), (False, np.median(values[::2]))):
        squares = ((values - usual) ** 2).mean(axis=0)
        expected = np.sqrt(np.mean(sorted(squares.ravel())[-9:]))
        assert hardness(frames, moving) == pytest.approx(expected, rel=1e-6)
    assert hardness(frames[:, :2, :2], True) > 0  # fewer pixels than nine


def test_turned_clips_are_the_same_clips_backwards_and_transposed(make_clips):
    plain, turned = make_clips(8), make_clips(8, turns=True)
    seen = Counter()
    for epoch in range(30):
        plain.set_epoch(epoch)
        turned.set_epoch(epoch)
        for index in range(len(plain)):
            crop = turned.draw(index)
            seen[crop.backwards, crop.transposed] += 1
            for part, expected in zip(turned[index], plain[index], strict=True):
                part, expected = part.numpy().reshape(10, 6, 6), expected.numpy().reshape(10, 6, 6)
                first = 0 if crop.pad_end else 10 - (crop.stop - crop.start)
                real = slice(first, first + crop.stop - crop.start)
                assert not np.delete(part, np.r_[real], axis=0).any()
                expected = expected[real][::-1] if crop.backwards else expected[real]
                expected = expected.swapaxes(1, 2) if crop.transposed else expected
                assert np.array_equal(part[real], expected)
    assert len(seen) == 4 and min(seen.values()) > 0.2 * seen.total()


def test_crops_are_clipped_into_the_image_and_uniform_without_target():
    rng = np.random.default_rng(1)
    corner = np.zeros((60, 70), np.uint8)
    corner[0, 69] = 1
    for _ in range(50):
        top, left = crop_corner(corner, 48, rng)
        assert 0 <= top <= 12 and 0 <= left <= 22
    empty = np.zeros((60, 70), np.uint8)
    drawn = {crop_corner(empty, 48, rng) for _ in range(6000)}
    assert len(drawn) == 13 * 23


def test_every_component_is_chosen():
    rng = np.random.default_rng(1)
    mask = np.zeros((200, 200), np.uint8)
    mask[50, 50] = mask[150, 150] = 1
    corners = np.array([crop_corner(mask, 12, rng) for _ in range(300)])
    assert (np.abs(corners - 44).max(axis=1) <= 2).sum() > 60
    assert (np.abs(corners - 144).max(axis=1) <= 2).sum() > 60


def test_frames_smaller_than_the_crop_are_padded_with_zeros(make_clips):
    clips = make_clips(30, patch=20)
    clip, mask = clips[0]
    assert clip.shape == (1, 10, 20, 20)
    assert not clip[..., 12:, :].any() and not clip[..., 14:].any() and not mask[:, 12:].any()


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 1])
@pytest.mark.parametrize("shape", [(12, 14), (5, 9), (9, 5)])
def test_the_mask_is_the_crop_of_the_masks_however_many_targets(rng, share, shape):
    images = rng.integers(0, 256, (15, *shape), dtype=np.uint8)
    masks = (rng.random(images.shape) < share).astype(np.uint8)
    frames = Frames([range(15)], None, "memory", [(images, masks)])
    clips = TrainClips([range(15)], 100.0, 20.0, ClipOptions(10, 6, 1.0, 3), None, frames)
    for index in range(len(clips)):
        crop = clips.draw(index)
        expected = masks[crop.start : crop.stop, crop.rows, crop.columns]
        missing = [whole - side for whole, side in zip((10, 6, 6), expected.shape, strict=True)]
        ends = [(0, missing[0]) if crop.pad_end else (missing[0], 0)]
        expected = np.pad(expected, ends + [(0, side) for side in missing[1:]])
        assert np.array_equal(clips[index][1].numpy(), expected)


def test_training_frames_are_resized_first(make_clips):
    clip, _ = make_clips(30, patch=30, size=(32, 32))[0]
    assert clip[0].any(dim=(0, 1)).all()  # no padded column


def test_each_needed_frame_is_decoded_once(make_clips, monkeypatch):
    clips = make_clips(30)
    decoded = record_decoding(monkeypatch)
    window = clips.draw_window(np.random.default_rng((3, 0, 0)))
    clips[0]
    assert len(decoded) == len(set(decoded)) == 2 * len(window)


def test_too_little_data_for_one_clip_is_refused(make_clips):
    with pytest.raises(ValueError, match="0 candidate windows"):
        make_clips(1)
    with pytest.raises(ValueError, match="larger rate"):
        make_clips(12, rate=0.01)
