"""What a staring infrared sensor on an unsteady platform makes of a scene."""

import numpy as np
from scipy import ndimage

from data.synthetic.scenes import BACKGROUNDS, SUPERSAMPLING, standardise

OPTICS_SIGMA = 0.65  # Gaussian point spread function, pixels
NOISE_RANGE = (1.0, 3.0)  # standard deviation of the temporal noise, grey levels
DRIFT_RANGE = (0.0, 0.05)  # constant part of the platform's motion, pixels per frame
JITTER_RANGE = (0.03, 0.15)  # standard deviation per frame and axis, pixels


def draw_platform(rng, frames):
    """Pointing of the platform at each frame.

    Returns:
        drift (T, 2): constant velocity plus slow wander of a few pixels.
        jitter (T, 2): Gaussian, correlated from frame to frame by up to 0.5.
    """
    t = np.arange(frames)[:, None]
    heading, speed = rng.uniform(0, 2 * np.pi), rng.uniform(*DRIFT_RANGE)
    drift = t * speed * np.array([np.sin(heading), np.cos(heading)])
    for _ in range(2):
        period, phase = rng.uniform(80, 250), rng.uniform(0, 2 * np.pi, 2)
        drift = drift + rng.uniform(0.1, 0.8) * np.sin(2 * np.pi * t / period + phase)
    sigma, correlation = rng.uniform(*JITTER_RANGE), rng.uniform(0, 0.5)
    jitter = rng.normal(0, sigma, (frames, 2))
    for i in range(1, frames):
        jitter[i] = correlation * jitter[i - 1] + np.sqrt(1 - correlation**2) * jitter[i]
    return drift, jitter


def spline_view(coefficients, row, column, height, width):
    """Samples a scene with one sample per pixel, from a sub-pixel corner.

    Args:
        coefficients: cubic B-spline coefficients of the scene, SUPERSAMPLING samples per pixel.
        row, column: the frame's first pixel, in scene samples; at least 1 from the scene's edge.

    Returns:
        (height, width) float32. A translation is separable: four taps down, four across.
    """
    view = coefficients
    for axis, start, length in ((0, row, height), (1, column, width)):
        first, f = int(np.floor(start)), start - np.floor(start)
        taps = (
            (1 - f) ** 3 / 6,
            (3 * f**3 - 6 * f**2 + 4) / 6,
            (-3 * f**3 + 3 * f**2 + 3 * f + 1) / 6,
            f**3 / 6,
        )
        stop = first + (length - 1) * SUPERSAMPLING + 1
        pieces = [slice(first - 1 + k, stop - 1 + k, SUPERSAMPLING) for k in range(4)]
        if axis == 1:
            pieces = [(slice(None), piece) for piece in pieces]
        view = sum(np.float32(tap) * view[piece] for tap, piece in zip(taps, pieces, strict=True))
    return view


def render_background(rng, plan, offsets):
    """The scene as the optics show it: (T, H, W) float32 in grey levels, without noise.

    Args:
        offsets: (T, 2) pointing, drift and jitter together, in pixels.
    """
    corner = 3 - offsets.min(axis=0)
    margin = np.ceil(offsets.max(axis=0) + corner).astype(int) + 3
    shape = tuple(int(n) * SUPERSAMPLING for n in (plan.height, plan.width) + margin)
    scene, _ = BACKGROUNDS[plan.background]
    states = standardise(scene(rng, shape))
    states = 2.8 * np.tanh(states.reshape(-1, *shape) / 2.8)  # no pixel near 0 or 255
    states = [plan.level + plan.contrast * optics(state) for state in states]
    coefficients = [ndimage.spline_filter(s, order=3, output=np.float32) for s in states]
    out = np.empty((plan.frames, plan.height, plan.width), np.float32)
    for t, offset in enumerate(offsets):
        position = (corner + offset) * SUPERSAMPLING
        views = [spline_view(c, *position, plan.height, plan.width) for c in coefficients]
        late = t / max(plan.frames - 1, 1)
        out[t] = views[0] + late * (views[-1] - views[0])
    return out


def optics(scene):
    """Blurs by the point spread function and by the pixel's square; (H, W) in scene samples."""
    blurred = ndimage.gaussian_filter(scene, OPTICS_SIGMA * SUPERSAMPLING)
    return ndimage.uniform_filter(blurred, SUPERSAMPLING)


def draw_sensor(rng, shape):
    """Gain and additive noise of a sensor for frames of shape (T, H, W).

    Returns:
        gain (H, W), around 1; additive (T, H, W), the fixed offsets and the temporal noise, in
        grey levels; sigma, the standard deviation of the temporal noise.
    """
    _, height, width = shape
    sigma = rng.uniform(*NOISE_RANGE)
    gain = 1 + rng.normal(0, rng.uniform(0.002, 0.008), (height, width))
    gain = gain + rng.normal(0, 0.002, (1, width))
    offset = rng.normal(0, rng.uniform(0.2, 1.0), (height, width))
    offset = offset + rng.normal(0, rng.uniform(0.1, 0.6), (1, width))
    additive = rng.standard_normal(shape, dtype=np.float32)
    additive *= np.float32(sigma)
    additive += offset.astype(np.float32)
    return gain.astype(np.float32), additive, sigma


def quantise(x):
    """Grey levels rounded and clipped to 8 bits."""
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)
