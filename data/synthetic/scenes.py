"""Scenes of synthetic infrared sequences: sky, clouds, ground, sea, horizons.

Arrays are (H, W), or (2, H, W) for a scene that evolves from the first state to the second; in
units of the scene's own contrast, at SUPERSAMPLING samples per pixel.
"""

import numpy as np
from scipy import fft, ndimage

SUPERSAMPLING = 2  # scene samples per pixel and axis


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
