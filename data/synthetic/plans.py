"""What is settled about each sequence before it is rendered: size, scene, level, wanted SNR."""

import dataclasses

import numpy as np

from data.synthetic.scenes import BACKGROUNDS

GENERATED = "synthetic.json"  # in a finished folder: what it was generated from
GENERATION = 2  # raise it when the same seed no longer gives the same bytes
LOW_SNR_RANGE = (0.9, 2.8)  # wanted; what is measured scatters by a few percent
HIGH_SNR_RANGE = (3.4, 9.4)
LEVEL_RANGE = (80.0, 130.0)  # mean grey level of a sequence; NUDT-MIRSDT's mean is 105.4


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
