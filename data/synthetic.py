"""Writes synthetic infrared sequences with small moving targets, in NUDT-MIRSDT's layout.

    python -m data.synthetic --output datasets/synthetic --preset small --seed 46

gives, with masks of 0 and 255 and one pixel per target in `masks_centroid`,

    <output>/Sequence1/{images,masks,masks_centroid}/00001.png ...
    <output>/train.txt, test.txt    one line per frame: Sequence1/images/00001.png
    <output>/snr.csv                one row per sequence: sequence, split, snr, ...
    <output>/synthetic.json         preset and seed; written last, it marks a finished generation

A frame x at time t is what a staring sensor on an unsteady platform records:

    x_t = quantise(g (V_t scene + a sum_k targets_k,t) + o + n_t),

where V_t looks at a scene larger than the frame, blurred by optics and pixel, after slow drift and
per-frame jitter; n is white in time; gain g and offset o are fixed patterns of pixels and columns.
Targets share the platform's jitter. The one factor a sets the sequence's signal-to-noise ratio.

**SNR.** The mean over all frames and visible targets of C / sigma. The peak contrast C is what the
target adds, in grey levels, at its brightest pixel. sigma is the standard deviation of the frame
without targets (but with its noise) in the 21 x 21 pixels around that pixel, cut at the frame's
border, without the targets' masks dilated by 5 x 5. Both are taken from the 8-bit frames with and
without targets, so the value recorded in snr.csv holds what quantisation and clipping left.
A sequence has low SNR if it is at most 3.

**Masks.** A pixel belongs to a target if the target adds at least half of what it adds at its
brightest pixel in that frame; at most the nine brightest, connected to the brightest, and only
while the target's true position lies within the frame.

The same seed and preset give the same bytes, whatever the number of workers. Positions are
(row, column) in pixels, times are in frames.
"""

import argparse
import csv
import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import fft, ndimage
from tqdm import tqdm

GENERATION = 1  # raise it when the same seed no longer gives the same bytes
LOW_SNR = 3.0  # a sequence at or below is of the low-SNR subset
LOW_SNR_RANGE = (0.9, 2.8)  # wanted; what is measured scatters by a few percent
HIGH_SNR_RANGE = (3.4, 9.4)
SNR_TOLERANCE = 0.05  # relative, between wanted and measured

LEVEL_RANGE = (80.0, 130.0)  # mean grey level of a sequence; NUDT-MIRSDT's mean is 105.4
SUPERSAMPLING = 2  # scene samples per pixel and axis
OPTICS_SIGMA = 0.65  # Gaussian point spread function, pixels
SOURCE_SIGMA_RANGE = (0.3, 1.0)  # pixels; geometric mean of a target's two axes
NOISE_RANGE = (1.0, 3.0)  # standard deviation of the temporal noise, grey levels
DRIFT_RANGE = (0.0, 0.05)  # constant part of the platform's motion, pixels per frame
JITTER_RANGE = (0.03, 0.15)  # standard deviation per frame and axis, pixels
SPEED_RANGE = (0.2, 2.0)  # pixels per frame, in the frame without jitter
SPEED_CHANGE = 0.06  # relative, over a target's stay
SEPARATION = 14.0  # smallest distance of two targets, pixels
PATCH = 7  # a target adds to pixels at most this far from its position
LARGEST_MASK = 9  # pixels
NEIGHBOURHOOD = 10  # half-width of the window of the local background
MASK_DILATION = 5  # width of the square that keeps the target out of its background


@dataclasses.dataclass(frozen=True)
class Preset:
    """Size of a data set: sequences per split, how many of them have low SNR, and their shape."""

    train: int
    train_low: int
    test: int
    test_low: int
    frames: int
    heights: tuple[int, int]  # inclusive
    widths: tuple[int, int]


PRESETS = {
    "small": Preset(12, 4, 6, 2, frames=60, heights=(128, 144), widths=(144, 176)),
    "full": Preset(80, 27, 20, 8, frames=100, heights=(200, 300), widths=(300, 480)),
}


@dataclasses.dataclass(frozen=True)
class SequencePlan:
    """What is settled about one sequence before it is rendered."""

    name: str
    split: str
    background: str
    frames: int
    height: int
    width: int
    snr: float  # wanted
    level: float  # mean grey level
    contrast: float  # standard deviation of the scene, grey levels
    seed: np.random.SeedSequence


@dataclasses.dataclass(frozen=True)
class Target:
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


@dataclasses.dataclass(frozen=True)
class Sequence:
    """A rendered sequence; all stacks (T, H, W) uint8, masks and centroids in {0, 1}."""

    plan: SequencePlan
    frames: np.ndarray
    clean: np.ndarray  # the same frames, noise included, without targets
    masks: np.ndarray
    centroids: np.ndarray
    targets: list[Target]
    snr: float  # measured
    record: dict  # further columns of snr.csv


# --------------------------------------------------------------------------------------
# Scenes. Arrays are (H, W), or (2, H, W) for a scene that evolves from the first state to the
# second; in units of the scene's own contrast, at SUPERSAMPLING samples per pixel.


def power_law_field(rng, shape, beta, outer_scale, stretch=1.0, angle=0.0):
    """Gaussian field with power spectrum 1 / (k^2 + 1/outer_scale^2)^(beta/2), mean 0, std 1.

    Args:
        rng: numpy Generator.
        shape: (H, W).
        beta: spectral exponent; clouds have 3 to 4.
        outer_scale: samples; structures much larger than this are not favoured any more.
        stretch: structures are this much longer along `angle` (0 is horizontal) than across.

    Returns:
        (H, W) float32, cut from a larger periodic field, so that opposite edges do not match.
    """
    size = [fft.next_fast_len(int(1.3 * n) + 8, real=True) for n in shape]
    ky = fft.fftfreq(size[0]).astype(np.float32)[:, None]
    kx = fft.rfftfreq(size[1]).astype(np.float32)[None, :]
    along = kx * np.cos(angle) + ky * np.sin(angle)
    across = ky * np.cos(angle) - kx * np.sin(angle)
    k2 = (along * np.sqrt(stretch)) ** 2 + (across / np.sqrt(stretch)) ** 2
    amplitude = (k2 + 1.0 / outer_scale**2) ** np.float32(-beta / 4)
    amplitude[0, 0] = 0
    spectrum = fft.rfft2(rng.standard_normal(size, dtype=np.float32)) * amplitude
    field = fft.irfft2(spectrum, s=size)[: shape[0], : shape[1]]
    return standardise(field)


def evolving_field(rng, shape, beta, outer_scale, change, stretch=1.0, angle=0.0):
    """Two states (2, H, W) of a power-law field, with correlation cos(change) between them."""
    first, other = (
        power_law_field(rng, shape, beta, outer_scale, stretch, angle) for _ in range(2)
    )
    return np.stack([first, np.cos(change) * first + np.sin(change) * other]).astype(np.float32)


def standardise(field):
    """The field with mean 0 and standard deviation 1."""
    return ((field - field.mean()) / max(float(field.std()), 1e-6)).astype(np.float32)


def smoothstep(x, low, high):
    """0 below `low`, 1 above `high`, smooth in between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def grid(shape):
    """Row and column coordinates, (H, 1) and (1, W) float32."""
    return (
        np.arange(shape[0], dtype=np.float32)[:, None],
        np.arange(shape[1], dtype=np.float32)[None, :],
    )


def sky_scene(rng, shape):
    """Clear sky: warmer towards the ground, with thin veils."""
    rows, columns = grid(shape)
    tilt = rng.uniform(-0.4, 0.4)
    gradient = (rows - tilt * columns) / shape[0]
    veils = evolving_field(
        rng, shape, 3.0, shape[1] / 4, 0.08, rng.uniform(1.5, 4), rng.uniform(-0.4, 0.4)
    )
    return 2.0 * gradient + rng.uniform(0.5, 1.0) * veils


def cloud_scene(rng, shape):
    """Broken clouds with bright lit edges over a sky that is warmer towards the ground."""
    rows, _ = grid(shape)
    shape_field = evolving_field(
        rng, shape, rng.uniform(3.4, 4.0), shape[0] / 2, 0.05, rng.uniform(1, 2)
    )
    cover = rng.uniform(-0.6, 0.5)
    density = smoothstep(shape_field, cover, cover + rng.uniform(0.8, 1.6))
    sun = rng.uniform(0, 2 * np.pi)
    slope = np.cos(sun) * np.gradient(shape_field, axis=-1) + np.sin(sun) * np.gradient(
        shape_field, axis=-2
    )
    slope = ndimage.gaussian_filter(slope, (0, 2, 2))
    light = np.tanh(slope / (2 * slope.std()))
    billows = power_law_field(rng, shape, 2.6, shape[0] / 5)
    rim = 4 * density * (1 - density)
    sky = rng.uniform(0.3, 0.9) * rows / shape[0]
    return sky + density * (1.6 + 0.45 * light + 0.25 * billows) + rim * (0.25 + 0.5 * light)


def ground_scene(rng, shape):
    """Fields of different temperature and texture, hedges between them, roads, warm spots."""
    rows, columns = grid(shape)
    warp = 5 * SUPERSAMPLING * power_law_field(rng, shape, 3, shape[0] / 4)
    levels, border, roughness = parcels(rng, rows + warp, columns + warp[::-1], shape)
    fine = power_law_field(rng, shape, 1.6, 30)
    relief = power_law_field(rng, shape, 2.8, shape[0] / 3)
    scene = levels + roughness * fine + 0.5 * relief
    scene -= rng.uniform(0.2, 0.9) * smoothstep(-border, -3 * SUPERSAMPLING, 0) * (0.6 + 0.4 * fine)
    for _ in range(rng.integers(1, 4)):
        on_road = road(rng, rows, columns, shape)
        scene += on_road * (rng.choice([-1.0, 1.0, 1.0]) * rng.uniform(0.8, 1.8) - 0.6 * scene)
    for radius in (0.7, 1.5):
        scene += warm_spots(rng, shape, radius * SUPERSAMPLING)
    return scene


def parcels(rng, rows, columns, shape):
    """Fields around random sites, with straight borders: the nearest site in the city-block norm.

    Returns:
        Level per pixel, distance to the parcel's border in samples, and roughness; each (H, W).
    """
    angle = rng.uniform(0, np.pi)
    u = rows * np.cos(angle) + columns * np.sin(angle)
    v = columns * np.cos(angle) - rows * np.sin(angle)
    nearest = np.full(shape, np.inf, np.float32)
    second = nearest.copy()
    level, roughness = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for _ in range(rng.integers(14, 36)):
        row, column = rng.uniform(-0.1, 1.1, 2) * shape
        site_u = row * np.cos(angle) + column * np.sin(angle)
        site_v = column * np.cos(angle) - row * np.sin(angle)
        distance = np.maximum(np.abs(u - site_u), 1.6 * np.abs(v - site_v)).astype(np.float32)
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        nearest = np.where(closer, distance, nearest)
        level[closer] = rng.normal(0, 0.8)
        roughness[closer] = rng.uniform(0.05, 0.3)
    return level, (second - nearest) / 2, roughness


def road(rng, rows, columns, shape):
    """1 on a gently winding road across the scene, 0 off it, (H, W)."""
    angle = rng.uniform(0, np.pi)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    row, column = rng.uniform(0.2, 0.8, 2) * shape
    middle = row * np.cos(angle) - column * np.sin(angle)
    length = rng.uniform(0.15, 0.4) * shape[1]
    bend = rng.uniform(0, 0.25) * length
    distance = np.abs(across - middle - bend * np.sin(along / length + rng.uniform(0, 6.28)))
    half = rng.uniform(0.6, 2.0) * SUPERSAMPLING
    return 1 - smoothstep(distance, half - 1, half + 1)


def warm_spots(rng, shape, radius):
    """Trees, sheds and the like: isolated blobs of both signs, (H, W)."""
    count = rng.poisson(30)
    spots = np.zeros(shape, np.float32)
    where = rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)
    spots[where] = rng.normal(0.2, 0.7, count) * 2 * np.pi * radius**2
    return ndimage.gaussian_filter(spots, radius)


def sea_scene(rng, shape):
    """Swell and wind waves with glints, flatter towards the distance at the top."""
    rows, _ = grid(shape)
    angle = rng.uniform(-0.5, 0.5)
    wind = evolving_field(rng, shape, 2.4, 40, 0.15, rng.uniform(2, 4), angle)
    swell = evolving_field(rng, shape, 3.4, 90, 0.1, rng.uniform(3, 6), angle)
    calm = power_law_field(rng, shape, 3, shape[1] / 2, 3)  # slicks and gusts
    near = 0.35 + 0.65 * rows / shape[0]
    waves = near * (0.55 + 0.25 * np.tanh(calm)) * (0.7 * wind + 0.5 * swell)
    glints = near * np.exp(1.1 * np.clip(wind + 0.4 * calm, -3, 2.5)) * 0.06
    return rng.uniform(-1.2, 1.2) * rows / shape[0] + 0.4 * calm + waves + glints


def horizon_scene(rng, shape):
    """Sky with clouds over ridges, the nearer the rougher, each behind a little less haze."""
    rows, columns = grid(shape)
    middle = rng.uniform(0.35, 0.65) * shape[0]
    sky = rng.uniform(0.3, 1.0) * rows / shape[0]
    field = evolving_field(rng, shape, 3.0, shape[1] / 4, 0.05, rng.uniform(2, 4))
    cover = rng.uniform(-0.8, 0.4)
    scene = sky + rng.uniform(0.7, 1.3) * smoothstep(field, cover, cover + 1.5)
    warm = rng.choice([-1.0, 1.0, 1.0]) * rng.uniform(1.0, 1.8)  # ground against sky
    relief = power_law_field(rng, shape, 2.6, shape[0] / 4, 2)
    fine = power_law_field(rng, shape, 1.7, 30, 1.5)
    ridges = rng.integers(1, 4)
    for k in range(ridges):
        nearness = (k + 1) / ridges
        profile = power_law_field(rng, (64, shape[1]), 4.0, shape[1] / 3)[32]
        edge = middle + (0.15 * k + rng.uniform(0.01, 0.06) * profile) * shape[0]
        ground = rng.normal(0, 0.15) + warm * nearness + nearness * (0.35 * relief + 0.12 * fine)
        scene = scene + smoothstep(rows, edge - 1.5, edge + 1.5) * (ground + 0.6 - scene)
    return scene


BACKGROUNDS = {  # name: scene, range of its standard deviation in grey levels
    "clouds": (cloud_scene, (23.0, 33.0)),
    "ground": (ground_scene, (20.0, 30.0)),
    "horizon": (horizon_scene, (28.0, 40.0)),
    "sea": (sea_scene, (16.0, 26.0)),
    "sky": (sky_scene, (12.0, 22.0)),
}


# --------------------------------------------------------------------------------------
# Platform, view and sensor.


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


# --------------------------------------------------------------------------------------
# Targets.


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
    return Target(
        path=path,
        exposures=exposures + jitter[:, None, :],
        brightness=brightness * rng.uniform(0.8, 1.25),
        sigmas=(size * np.sqrt(elongation), size / np.sqrt(elongation)),
        angle=rng.uniform(0, np.pi),
    )


def draw_targets(rng, frames, height, width, jitter):
    """One to three targets, each in the frame for a fifth of the sequence, never close together."""
    wanted, targets = rng.integers(1, 4), []
    for _ in range(1000):
        target = draw_target(rng, frames, height, width, jitter)
        inside = np.all((target.path > -0.5) & (target.path < (height - 0.5, width - 0.5)), axis=1)
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
        corner = np.rint(exposures.mean(axis=0)).astype(int) - PATCH
        reach = np.arange(2 * PATCH + 1)[:, None] + sub
        dr = corner[0] + reach[None] - exposures[:, 0, None, None]  # (E, P, 3)
        dc = corner[1] + reach[None] - exposures[:, 1, None, None]
        dr, dc = dr[:, :, :, None, None], dc[:, None, None, :, :]
        exponent = (c * dr + s * dc) ** 2 / var_a + (c * dc - s * dr) ** 2 / var_b
        values = brightness * np.exp(-exponent / 2).mean(axis=(0, 2, 4))
        top, left = np.maximum(-corner, 0)
        bottom, right = np.minimum(2 * PATCH + 1, (height, width) - corner)
        if top < bottom and left < right:
            rows = slice(int(corner[0] + top), int(corner[0] + bottom))
            columns = slice(int(corner[1] + left), int(corner[1] + right))
            visible = top <= PATCH < bottom and left <= PATCH < right
            yield footprint(frame, rows, columns, values[top:bottom, left:right], visible)


def footprint(frame, rows, columns, values, visible):
    """Masks a target's patch; see the module's docstring for which pixels belong to the target."""
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


# --------------------------------------------------------------------------------------
# Sequences and data sets.


def plan_sequences(preset, seed):
    """The plans of all sequences, training split first.

    Background kinds, mean levels and SNRs are stratified within each split, so that even a small
    split has every kind (five sequences or more), dark and bright, dim and clear ones.
    """
    planner, *seeds = np.random.SeedSequence(seed).spawn(1 + preset.train + preset.test)
    rng = np.random.default_rng(planner)
    plans = []
    for split, count, low in (
        ("train", preset.train, preset.train_low),
        ("test", preset.test, preset.test_low),
    ):
        snrs = [*spread(rng, low, LOW_SNR_RANGE), *spread(rng, count - low, HIGH_SNR_RANGE)]
        order = rng.permutation(count)
        backgrounds = rng.permutation(np.resize(rng.permutation(list(BACKGROUNDS)), count))
        levels = spread(rng, count, LEVEL_RANGE)
        for i in range(count):
            number = len(plans) + 1
            _, contrast = BACKGROUNDS[backgrounds[i]]
            plans.append(
                SequencePlan(
                    name=f"Sequence{number}",
                    split=split,
                    background=str(backgrounds[i]),
                    frames=preset.frames,
                    height=int(rng.integers(*preset.heights, endpoint=True)),
                    width=int(rng.integers(*preset.widths, endpoint=True)),
                    snr=float(snrs[order[i]]),
                    level=float(levels[i]),
                    contrast=float(rng.uniform(*contrast)),
                    seed=seeds[number - 1],
                )
            )
    return plans


def spread(rng, count, limits):
    """`count` values, one at random in each of as many equal parts of the range, shuffled."""
    low, high = limits
    return low + (high - low) * (rng.permutation(count) + rng.uniform(0, 1, count)) / max(count, 1)


def render_sequence(plan):
    """Renders a planned sequence.

    Targets are drawn anew where clipping at 255 keeps them from the wanted SNR (a tight spread of
    bright clutter around a bright target); a high SNR is then lowered step by step.

    Returns:
        Sequence whose measured SNR is within SNR_TOLERANCE of the wanted one and on the same side
        of LOW_SNR.
    """
    rng = np.random.default_rng(plan.seed)
    drift, jitter = draw_platform(rng, plan.frames)
    # What the camera does to the scene is opposite to what it does to the targets' positions.
    background = render_background(rng, plan, drift - jitter)
    gain, additive, sigma = draw_sensor(rng, background.shape)
    background = gain * background + additive
    clean = quantise(background)
    for attempt in range(40):
        easing = 0.9 ** max(attempt - 2, 0) if plan.snr > LOW_SNR else 1.0
        wanted = HIGH_SNR_RANGE[0] + (plan.snr - HIGH_SNR_RANGE[0]) * easing
        targets = draw_targets(rng, plan.frames, plan.height, plan.width, jitter)
        footprints = [f for target in targets for f in render_target(target, *clean.shape[1:])]
        frames, masks, centroids, snr = add_targets(background, clean, gain, footprints, wanted)
        if abs(snr - wanted) <= SNR_TOLERANCE * wanted and (snr <= LOW_SNR) == (wanted <= LOW_SNR):
            break
    else:
        raise RuntimeError(f"{plan.name}: no targets reach SNR {wanted:.2f}, the last {snr:.2f}")
    record = {
        "background": plan.background,
        "frames": plan.frames,
        "height": plan.height,
        "width": plan.width,
        "targets": len(targets),
        "target_frames": int(centroids.sum()),
        "noise": round(sigma, 3),
        "jitter": round(float(jitter.std()), 3),
    }
    return Sequence(plan, frames, clean, masks, centroids, targets, snr, record)


def add_targets(background, clean, gain, footprints, wanted):
    """Adds targets with the one amplitude that gives the wanted SNR.

    Args:
        background: (T, H, W) float32 grey levels, noise included; clean: the same, quantised.
        gain: (H, W) of the sensor.
        footprints: of all targets.
        wanted: SNR before quantisation and clipping.

    Returns:
        frames, masks, centroids (T, H, W) uint8, and the SNR measured on them.
    """
    masks, centroids = np.zeros_like(clean), np.zeros_like(clean)
    visible = [f for f in footprints if f.mask.any()]
    for f in visible:
        masks[f.frame, f.rows, f.columns] |= f.mask
        centroids[f.frame][f.centroid] = 1
    dilated = ndimage.maximum_filter(masks, size=(1, MASK_DILATION, MASK_DILATION)) > 0
    stds = np.array([local_background_std(clean, dilated, f) for f in visible])
    peaks = np.array([f.values.max() * gain[f.peak] for f in visible])
    amplitude = np.float32(wanted / np.mean(peaks / stds))
    lit = background.copy()
    for f in footprints:
        window = f.rows, f.columns
        lit[f.frame][window] += amplitude * f.values * gain[window]
    frames = quantise(lit)
    contrasts = [float(frames[f.frame][f.peak]) - float(clean[f.frame][f.peak]) for f in visible]
    return frames, masks, centroids, float(np.mean(contrasts / stds))


def write_sequence(plan, folder):
    """Renders a sequence and writes its frames and masks below `folder`.

    Returns:
        Its row of snr.csv.
    """
    sequence = render_sequence(plan)
    for kind, stack in (
        ("images", sequence.frames),
        ("masks", 255 * sequence.masks),
        ("masks_centroid", 255 * sequence.centroids),
    ):
        path = Path(folder, plan.name, kind)
        path.mkdir(parents=True)
        for i, image in enumerate(stack, start=1):
            Image.fromarray(image).save(path / f"{i:05d}.png", compress_level=1)
    snr = f"{sequence.snr:.4f}"
    return {"sequence": plan.name, "split": plan.split, "snr": snr, **sequence.record}


def write_synthetic(output, preset="small", seed=46, workers=None, progress=True):
    """Writes a synthetic data set to the folder `output`.

    The folder appears under its name only when everything is in it; until then it is
    `<output>.partial-<pid>`. A folder that already holds the same generation is left as it is.

    Args:
        output: a folder that does not exist yet, or is empty.
        preset: a name in PRESETS, or a Preset.
        seed: not negative.
        workers: processes; None for one per usable core. More than one starts fresh interpreters,
            so a script that calls this needs the usual `if __name__ == "__main__"`.
        progress: whether to show a progress bar on stderr.

    Raises:
        ValueError: unknown preset, or a seed or number of workers out of range.
        FileExistsError: `output` holds something else.
        OSError: the folder cannot be written, the disk is full, ...
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}: expected one of {', '.join(PRESETS)}")
        preset = PRESETS[preset]
    if seed < 0:
        raise ValueError(f"seed {seed}: expected 0 or more")
    workers = usable_cores() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers {workers}: expected 1 or more")
    output = Path(output).resolve()  # behind a link, so that the folder can be renamed
    identity = {"generation": GENERATION, "seed": seed, "preset": dataclasses.asdict(preset)}
    identity = json.dumps(identity, indent=1) + "\n"
    if holds(output, identity):
        return
    partial = output.with_name(f"{output.name}.partial-{os.getpid()}")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.mkdir()
    try:
        plans = plan_sequences(preset, seed)
        rows = write_sequences(plans, partial, workers, progress)
        write_lists(plans, rows, partial)
        (partial / "synthetic.json").write_text(identity)
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def usable_cores():
    """Cores this process may run on; all of the machine's where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def holds(output, identity):
    """Whether `output` is a complete generation of this identity; False if it is free to write.

    Raises:
        FileExistsError: it holds something else.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    marker = output / "synthetic.json"
    if marker.is_file() and marker.read_text(errors="replace") == identity:
        listed = "".join((output / f"{split}.txt").read_text() for split in ("train", "test"))
        if (output / "snr.csv").is_file() and all(
            (output / line.replace("/images/", f"/{kind}/")).is_file()
            for line in listed.split()
            for kind in ("images", "masks", "masks_centroid")
        ):
            return True
    raise FileExistsError(
        f"{output} exists and is not a complete generation of this preset and seed: "
        "remove it or choose another folder"
    )


def write_sequences(plans, folder, workers, progress):
    """Writes all sequences, in as many processes as there are workers.

    Returns:
        Their rows of snr.csv, in the order of the plans.
    """
    bar = tqdm(total=len(plans), unit="sequence", disable=not progress)
    if workers == 1:
        rows = []
        with bar:
            for plan in plans:
                rows.append(write_sequence(plan, folder))
                bar.update()
        return rows
    pool = ProcessPoolExecutor(
        min(workers, len(plans)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),  # the parent answers Ctrl-C
    )
    with bar:
        try:
            futures = [pool.submit(write_sequence, plan, folder) for plan in plans]
            for future in as_completed(futures):
                future.result()
                bar.update()
        finally:
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


def write_lists(plans, rows, folder):
    """Writes train.txt, test.txt and snr.csv."""
    for split in ("train", "test"):
        lines = [
            f"{plan.name}/images/{i:05d}.png\n"
            for plan in plans
            if plan.split == split
            for i in range(1, plan.frames + 1)
        ]
        (folder / f"{split}.txt").write_text("".join(lines))
    with open(folder / "snr.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def parse_args(argv=None):
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data.synthetic",
        description="Write synthetic infrared sequences with small targets, as NUDT-MIRSDT.",
    )
    parser.add_argument("--output", required=True, help="folder to write; must not exist yet")
    parser.add_argument("--preset", default="small", help=f"one of {', '.join(PRESETS)} [small]")
    parser.add_argument("--seed", type=int, default=46, help="[46]")
    parser.add_argument("--workers", type=int, help="processes [one per core]")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    try:
        write_synthetic(args.output, args.preset, args.seed, args.workers)
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: a worker was killed
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("error: interrupted, nothing written", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
