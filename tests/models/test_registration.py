"""Registration: frames cut from known places of a scene have to be laid back there."""

import numpy as np
import pytest
from scipy import ndimage

from models.registration import follow_view, lay_on

SIZE = 64, 80


@pytest.fixture
def scene(rng):
    """A scene of grey levels as large as many frames: of detail 0.7 or 3 pixels wide."""

    def make(detail):
        field = ndimage.gaussian_filter(rng.normal(size=(200, 900)), detail)
        return 100 + 25 * field / field.std()

    return make


def views(scene, places, rng, noise=1.0, size=SIZE):
    """Frames (T, H, W) of the scene with their corners at these places, and noise."""
    frames = [scene[r : r + size[0], c : c + size[1]] for r, c in places]
    frames = np.rint(np.stack(frames) + noise * rng.normal(size=(len(frames), *size)))
    return frames.astype(np.float32)


@pytest.mark.parametrize("detail", [0.7, 3])
@pytest.mark.parametrize("step", [0, 0.3, 1, 2, 4])
def test_a_pan_is_followed_also_where_it_leaves_the_middle_frame(scene, rng, detail, step):
    places = [(20 + t % 3, 30 + int(step * t)) for t in range(40)]
    shifts, known = follow_view(views(scene(detail), places, rng))
    expected = np.subtract(places, places[20])
    assert known.all()
    # A chain of frames may be a pixel off where noise hides less.
    assert np.abs(shifts - expected).max() <= (1 if detail == 3 and step == 4 else 0)


def test_a_shaking_view_is_followed(scene, rng):
    places = rng.integers(20, 33, (30, 2))
    shifts, known = follow_view(views(scene(1.5), places, rng))
    assert known.all() and np.array_equal(shifts, places - places[15])


@pytest.mark.parametrize("noise", [0, 0.01, 5])
def test_noise_alone_and_a_standing_scene_do_not_move(scene, rng, noise):
    still = views(scene(1.5), [(20, 30)] * 20, rng, noise)
    for frames in (still, 5 + noise * rng.normal(size=(20, *SIZE)), np.full((20, 5, 7), 3.0)):
        shifts, known = follow_view(frames.astype(np.float32))
        assert not shifts.any() and known.all()


@pytest.mark.parametrize(("size", "slope"), [(SIZE, 0), ((96, 96), 0.05), ((128, 160), 0)])
def test_a_bright_target_on_an_empty_sky_does_not_move_the_view(rng, size, slope):
    """Of levels that rise across the sky, by `slope` times the noise from pixel to pixel."""
    row, column = np.ogrid[: size[0], : size[1]]
    frames = rng.normal(size=(30, *size)) + slope * (row + column)
    for t, frame in enumerate(frames):
        frame += 60 * (np.hypot(row - 20 - t, column - 15 - 0.5 * t) <= 1.5)
    shifts, known = follow_view(frames.astype(np.float32))
    assert not shifts.any() and known.all()


def test_a_view_is_followed_by_a_horizon_alone(rng):
    """Without any texture above and below it."""
    ground = np.where(np.arange(90)[:, None] > 40 + rng.integers(-4, 5, 300), 40.0, 0.0)
    places = [(10, 60 + 2 * t) for t in range(30)]
    shifts, known = follow_view(views(ground, places, rng))
    assert known.all() and np.array_equal(shifts, np.subtract(places, places[15]))


def test_levels_that_rise_and_fall_do_not_count_as_motion(scene, rng):
    places = [(20, 30 + 2 * t) for t in range(20)]
    frames = views(scene(1.5), places, rng)
    frames += 40 * rng.normal(size=20).astype(np.float32)[:, None, None]
    shifts, known = follow_view(frames)
    assert known.all() and np.array_equal(shifts, np.subtract(places, places[10]))


@pytest.mark.parametrize("step", [1, 9])
def test_frames_that_fit_no_other_lie_as_those_beside_them(scene, rng, step):
    places = [(20, 30 + step * t) for t in range(20)]
    frames = views(scene(1.5), places, rng)
    frames[13:15] = views(scene(1.5), [(90, 600), (90, 700)], rng)
    shifts, known = follow_view(frames)
    expected = np.subtract(places, places[10])
    expected[13:15] = expected[12]
    assert np.flatnonzero(~known).tolist() == [13, 14]
    assert np.array_equal(shifts, expected)


def distance(frame, other, shift):
    """Mean difference apart from the levels, of the frame moved by the shift."""
    rows, columns = (np.arange(side) for side in other.shape)
    rows = rows[(rows - shift[0] >= 0) & (rows - shift[0] < len(rows))]
    columns = columns[(columns - shift[1] >= 0) & (columns - shift[1] < len(columns))]
    moved = frame[np.ix_(rows - shift[0], columns - shift[1])]
    apart = moved - other[np.ix_(rows, columns)]
    return np.abs(apart - apart.mean()).mean()


def test_what_is_found_is_within_a_pixel_of_the_nearest_of_all_shifts(scene, rng):
    """Against all shifts of up to 6 rows and 7 columns, tried one by one."""
    for _ in range(20):
        size, detail = (24, 28), rng.choice([0.7, 1.5])
        moves = rng.integers(-5, 6, 2)
        frame, other = views(scene(detail), [(50, 60), (50, 60) + moves], rng, 1, size)

        found, lies = lay_on(frame, other, np.zeros(2, int))
        every = [(i, j) for i in range(-6, 7) for j in range(-7, 8)]
        distances = [distance(frame, other, shift) for shift in every]
        assert every[np.argmin(distances)] == tuple(-moves)  # so trying finds what was done
        if lies:
            assert distance(frame, other, found) <= distance(frame, other, (0, 0))
            assert np.abs(found + moves).max() <= 1


def test_sizes_of_a_few_pixels(rng):
    for size in ((1, 1), (1, 33), (33, 1), (2, 3), (4, 4), (8, 8)):
        frames = rng.normal(size=(6, *size)).astype(np.float32)
        shifts, known = follow_view(frames)
        assert shifts.shape == (6, 2) and known.shape == (6,)
        assert (np.abs(shifts) <= 6 * np.array(size)).all()
