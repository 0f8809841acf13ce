"""Extended objects that move through a clip and are no targets, such as vehicles on a road."""

import numpy as np

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


def _box(distances, half, edge):
    """1 within `half` of the middle, 0 beyond, with an edge that rises over `edge` pixels."""
    return np.clip((half - np.abs(distances)) / edge + 0.5, 0, 1).astype(np.float32)
