"""Small moving targets of synthetic infrared sequences: paths, rendering, masks, contrast."""

import dataclasses

import numpy as np
from scipy import ndimage

from data.synthetic.sensor import OPTICS_SIGMA

SOURCE_SIGMA_RANGE = (0.3, 1.0)  # pixels; geometric mean of a target's two axes
SPEED_RANGE = (0.2, 2.0)  # pixels per frame, in the frame without jitter
SPEED_CHANGE = 0.06  # relative, over a target's stay
SEPARATION = 14.0  # smallest distance of two targets, pixels
PATCH_REACH = 7  # a target adds to pixels at most this far from its position
LARGEST_MASK = 9  # pixels
NEIGHBOURHOOD = 10  # half-width of the window of the local background


@dataclasses.dataclass(frozen=True)
class MovingTarget:
    """A moving source. Positions are true sub-pixel positions, jitter included."""

    path: np.ndarray  # (T, 2) mid-exposure, without jitter
    exposures: np.ndarray  # (T, E, 2) at E instants of the exposure, with jitter
    brightness: np.ndarray  # (T,), around 1
    sigmas: tuple[float, float]  # of the source, pixels, along its axes
    angle: float


@dataclasses.dataclass(frozen=True)
class Footprint:
    """What one target of amplitude 1 adds to one frame, cut at the frame's border."""

    frame: int
    rows: slice
    columns: slice
    values: np.ndarray
    mask: np.ndarray  # bool, as values; empty where the target is outside the frame
    peak: tuple[int, int]  # brightest pixel, in the frame
    centroid: tuple[int, int]  # a pixel of the mask, in the frame


def draw_path(rng, frames, height, width):
    """A smooth path, through the frame at some time: enters, crosses, turns or leaves.

    Returns:
        times (N,) from one frame before the first to one after the last, positions (N, 2).
    """
    times = np.arange(-1, frames + 1.01, 0.1)
    low, high = SPEED_RANGE[0] * (1 + SPEED_CHANGE), SPEED_RANGE[1] * (1 - SPEED_CHANGE)
    speed = np.exp(rng.uniform(np.log(low), np.log(high)))
    law = rng.choice(["enter", "cross", "turn", "leave"])
    curvature = 0.0  # radians per frame
    if law == "turn":
        point, heading = rng.uniform(0.15, 0.85, 2) * (height, width), rng.uniform(0, 2 * np.pi)
        moment = rng.uniform(0.2, 0.8) * frames
        curvature = rng.choice([-1, 1]) * rng.uniform(0.3, 1.5) * np.pi / max(frames, 40)
    elif law == "cross":
        point, _ = border_point(rng, height, width)
        other, _ = border_point(rng, height, width)
        heading = np.arctan2(*(other - point))
        stay = np.hypot(*(other - point)) / speed
        moment = rng.uniform(0, max(frames - stay, 0.2 * frames))
    else:
        point, inward = border_point(rng, height, width)
        heading = inward + rng.uniform(-1, 1)
        curvature = rng.normal(0, 0.2 * np.pi / max(frames, 40))
        moment = rng.uniform(0.05, 0.5) * frames
        if law == "leave":
            heading, moment = heading + np.pi, frames - moment
    phase, period = rng.uniform(0, 2 * np.pi), rng.uniform(50, 150)
    speeds = speed * (1 + SPEED_CHANGE * np.sin(2 * np.pi * times / period + phase))
    headings = heading + curvature * (times - moment)
    steps = 0.1 * speeds[:, None] * np.stack([np.sin(headings), np.cos(headings)], axis=1)
    positions = np.cumsum(steps, axis=0)
    at_moment = [np.interp(moment, times, p) for p in positions.T]
    return times, positions - at_moment + point


def border_point(rng, height, width):
    """A point on the frame's border, and the heading (radians from +column to +row) inwards."""
    side = rng.integers(4)
    row, column = rng.uniform(0.1, 0.9, 2) * (height - 1, width - 1)
    point = [(row, -0.5), (-0.5, column), (row, width - 0.5), (height - 0.5, column)][side]
    return np.array(point), side * np.pi / 2


def draw_target(rng, frames, height, width, jitter):
    """A target on a random path, with smoothly changing brightness and slight flicker."""
    times, positions = draw_path(rng, frames, height, width)
    t = np.arange(frames)
    exposure = rng.uniform(0.2, 0.8)  # of the frame's time
    instants = t[:, None] + exposure * np.linspace(-0.4, 0.4, 5)
    path = np.stack([np.interp(t, times, p) for p in positions.T], axis=-1)
    exposures = np.stack([np.interp(instants, times, p) for p in positions.T], axis=-1)
    period, phase = rng.uniform(25, 120), rng.uniform(0, 2 * np.pi)
    brightness = 1 + rng.uniform(0, 0.3) * np.sin(2 * np.pi * t / period + phase)
    brightness += np.clip(rng.normal(0, rng.uniform(0, 0.05), frames), -0.1, 0.1)
    size, elongation = rng.uniform(*SOURCE_SIGMA_RANGE), rng.uniform(1, 1.6)
    return MovingTarget(
        path=path,
        exposures=exposures + jitter[:, None, :],
        brightness=brightness * rng.uniform(0.8, 1.25),
        sigmas=(size * np.sqrt(elongation), size / np.sqrt(elongation)),
        angle=rng.uniform(0, np.pi),
    )


def draw_targets(rng, frames, height, width, jitter):
    """One to three targets, each in the frame for a fifth of the sequence, never close together."""
    wanted, targets = rng.integers(1, 4), []
    # A path between two points of one side lies on the border, in the frame by rounding alone.
    low, high = -0.5 + 1e-6, np.array([height, width]) - 0.5 - 1e-6
    for _ in range(1000):
        target = draw_target(rng, frames, height, width, jitter)
        inside = np.all((target.path > low) & (target.path < high), axis=1)
        apart = all(
            np.hypot(*(target.path - other.path).T).min() >= SEPARATION for other in targets
        )
        if apart and inside.sum() >= max(1, frames // 5):
            targets.append(target)
        if len(targets) == wanted:
            break
    assert targets
    return targets


def render_target(target, height, width):
    """Footprints of a target of amplitude 1, one per frame in which it adds anything.

    The source is an elliptic Gaussian, convolved with the point spread function, averaged over the
    exposure (motion blur) and over each pixel's square.
    """
    sub = (np.arange(3) - 1) / 3  # the pixel's square, 3 x 3 samples
    c, s = np.cos(target.angle), np.sin(target.angle)
    var_a, var_b = (sigma**2 + OPTICS_SIGMA**2 for sigma in target.sigmas)
    for frame, (exposures, brightness) in enumerate(
        zip(target.exposures, target.brightness, strict=True)
    ):
        corner = np.rint(exposures.mean(axis=0)).astype(int) - PATCH_REACH
        reach = np.arange(2 * PATCH_REACH + 1)[:, None] + sub
        dr = corner[0] + reach[None] - exposures[:, 0, None, None]  # (E, P, 3)
        dc = corner[1] + reach[None] - exposures[:, 1, None, None]
        dr, dc = dr[:, :, :, None, None], dc[:, None, None, :, :]
        exponent = (c * dr + s * dc) ** 2 / var_a + (c * dc - s * dr) ** 2 / var_b
        values = brightness * np.exp(-exponent / 2).mean(axis=(0, 2, 4))
        top, left = np.maximum(-corner, 0)
        bottom, right = np.minimum(2 * PATCH_REACH + 1, (height, width) - corner)
        if top < bottom and left < right:
            rows = slice(int(corner[0] + top), int(corner[0] + bottom))
            columns = slice(int(corner[1] + left), int(corner[1] + right))
            visible = top <= PATCH_REACH < bottom and left <= PATCH_REACH < right
            yield footprint(frame, rows, columns, values[top:bottom, left:right], visible)


def footprint(frame, rows, columns, values, visible):
    """Masks a target's patch; see `data.synthetic.__main__` for which pixels these are."""
    peak = np.unravel_index(np.argmax(values), values.shape)
    mask = np.zeros(values.shape, bool)
    centroid = peak
    if visible:
        ninth = np.sort(values, axis=None)[-LARGEST_MASK:][0]
        labels, _ = ndimage.label(
            values >= max(ninth, values[peak] / 2), structure=np.ones((3, 3), int)
        )
        mask = labels == labels[peak]
        pixels = np.argwhere(mask)
        offsets = pixels - pixels.mean(axis=0)
        centroid = pixels[np.argmin((offsets**2).sum(axis=1))]
    corner = np.array([rows.start, columns.start])
    peak, centroid = (tuple(int(v) for v in corner + p) for p in (peak, centroid))
    return Footprint(frame, rows, columns, values.astype(np.float32), mask, peak, centroid)


def local_background_std(clean, dilated, footprint):
    """Standard deviation around a target's brightest pixel, of the frame without targets.

    Args:
        clean: (T, H, W) uint8 frames without targets.
        dilated: (T, H, W) bool, the targets' dilated masks, left out.
    """
    row, column = footprint.peak
    window = (
        footprint.frame,
        slice(max(row - NEIGHBOURHOOD, 0), row + NEIGHBOURHOOD + 1),
        slice(max(column - NEIGHBOURHOOD, 0), column + NEIGHBOURHOOD + 1),
    )
    return float(clean[window][~dilated[window]].std())
