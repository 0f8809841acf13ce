"""Renders a planned sequence: what the sensor sees, with and without targets, and the SNR.

The SNR and which pixels belong to a target are defined in `data.synthetic.__main__`.
"""

import dataclasses

import numpy as np
from scipy import ndimage

from data.lists import LOW_SNR_LIMIT
from data.synthetic.plans import HIGH_SNR_RANGE, SequencePlan
from data.synthetic.sensor import draw_platform, draw_sensor, quantise, render_background
from data.synthetic.targets import MovingTarget, draw_targets, local_background_std, render_target

SNR_TOLERANCE = 0.05  # relative, between wanted and measured
MASK_DILATION = 5  # width of the square that keeps the target out of its background


@dataclasses.dataclass(frozen=True)
class RenderedSequence:
    """A rendered sequence; all stacks (T, H, W) uint8, masks and centroids in {0, 1}."""

    plan: SequencePlan
    frames: np.ndarray
    clean: np.ndarray  # the same frames, noise included, without targets
    masks: np.ndarray
    centroids: np.ndarray
    targets: list[MovingTarget]
    snr: float  # measured
    record: dict  # further columns of snr.csv


def render_sequence(plan):
    """Renders a planned sequence.

    Targets are drawn anew where clipping at 255 keeps them from the wanted SNR (a tight spread of
    bright clutter around a bright target); a high SNR is then lowered step by step.

    Returns:
        RenderedSequence whose measured SNR is within SNR_TOLERANCE of the wanted one and on the
        same side of LOW_SNR_LIMIT.
    """
    rng = np.random.default_rng(plan.seed)
    drift, jitter = draw_platform(rng, plan.frames)
    # What the camera does to the scene is opposite to what it does to the targets' positions.
    background = render_background(rng, plan, drift - jitter)
    gain, additive, sigma = draw_sensor(rng, background.shape)
    background = gain * background + additive
    clean = quantise(background)
    for attempt in range(40):
        easing = 0.9 ** max(attempt - 2, 0) if plan.snr > LOW_SNR_LIMIT else 1.0
        wanted = HIGH_SNR_RANGE[0] + (plan.snr - HIGH_SNR_RANGE[0]) * easing
        targets = draw_targets(rng, plan.frames, plan.height, plan.width, jitter)
        footprints = [f for target in targets for f in render_target(target, *clean.shape[1:])]
        frames, masks, centroids, snr = add_targets(background, clean, gain, footprints, wanted)
        same_side = (snr <= LOW_SNR_LIMIT) == (wanted <= LOW_SNR_LIMIT)
        if same_side and abs(snr - wanted) <= SNR_TOLERANCE * wanted:
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
    return RenderedSequence(plan, frames, clean, masks, centroids, targets, snr, record)


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
