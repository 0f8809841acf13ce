"""What moves or comes and goes in a clip and is no target: vehicles on a road, waves on water."""

import numpy as np
from scipy import ndimage

WIDTHS = (12.0, 36.0)  # pixels; hardly any mask of a target is as wide
SHAPES = (0.3, 0.8)  # height over width
FASTEST = 1.2  # pixels a frame along columns
SLOPE = 0.3  # of the path: rows over columns, at most
CONTRASTS = (0.15, 2.5)  # standard deviations of the data set
DARKER = 0.25  # share of the objects that are darker than the clip
MOST_PARTS = 6  # beside the body, each of a level of its own
PART_SIZES = (0.15, 0.5)  # of the body's, along each axis
PART_LEVELS = (-0.5, 1.8)  # of the body's contrast
EDGES = (1.0, 2.0)  # pixels over which an edge rises, as a lens makes it

LIVES = (0.7, 4.0)  # frames, a standard deviation in time of what a crest looks like
HEIGHTS = (0.5, 1.2)  # pixels, the same along rows
LENGTHS = (0.8, 4.0)  # and along columns
CRESTS = (-1.0, 1.5)  # standard deviations of a wave from which on it is seen
WAVES = (0.03, 0.4)  # of the data set, for one of a wave
TRAVEL = 0.5  # pixels a frame along columns, at most


def paste_mover(clip, seed):
    """Lets a body of several parts move at a steady speed through a clip, in place.

    A part is a box with soft edges; what it covers has the clip's mean level and its own contrast.

    Args:
        clip: (n, H, W) float32, normalised.
        seed: of what it looks like and where it moves.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    frames, *sides = clip.shape
    width = rng.uniform(*WIDTHS)
    size = np.array([width * rng.uniform(*SHAPES), width])
    contrast = np.exp(rng.uniform(*np.log(CONTRASTS))) * (-1 if rng.random() < DARKER else 1)
    speed = FASTEST * rng.uniform(-1, 1) * np.array([SLOPE * rng.uniform(-1, 1), 1])
    edge = rng.uniform(*EDGES)
    times = np.arange(frames) - frames * rng.random()
    path = rng.random(2) * sides + times[:, None] * speed  # (n, 2)
    mean = clip.mean(dtype=np.float64)
    parts = [(np.zeros(2), size, 1.0)]
    for _ in range(rng.integers(1, MOST_PARTS + 1)):
        own = size * rng.uniform(*PART_SIZES, 2)
        offset = (size - own) * rng.uniform(-0.5, 0.5, 2)
        parts.append((offset, own, rng.uniform(*PART_LEVELS)))
    for offset, own, level in parts:
        rows, columns = (
            _box(np.arange(side) - place[:, None], length / 2, edge)
            for side, place, length in zip(sides, (path + offset).T, own, strict=True)
        )
        covered = rows[:, :, None] * columns[:, None, :]
        clip += covered * (np.float32(mean + level * contrast) - clip)


def add_waves(clip, seed):
    """Adds the crests of waves, which travel, come and go, to a clip, in place.

    They are normal noise, smoothed in time and space, above a level.

    Args:
        clip: (n, H, W) float32, normalised.
        seed: of the waves.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    sizes = [rng.uniform(*bounds) for bounds in (LIVES, HEIGHTS, LENGTHS)]
    noise = rng.standard_normal(clip.shape, np.float32)
    waves = ndimage.gaussian_filter(noise, sizes, mode="wrap")
    crests = np.maximum(waves / max(waves.std(), 1e-6) - np.float32(rng.uniform(*CRESTS)), 0)
    strength = np.float32(np.exp(rng.uniform(*np.log(WAVES))))
    speed = rng.uniform(-TRAVEL, TRAVEL)
    for moment, (frame, added) in enumerate(zip(clip, crests, strict=True)):
        frame += strength * np.roll(added, round(speed * moment), axis=1)


def _box(distances, half, edge):
    """1 within `half` of the middle, 0 beyond, with an edge that rises over `edge` pixels."""
    return np.clip((half - np.abs(distances)) / edge + 0.5, 0, 1).astype(np.float32)
