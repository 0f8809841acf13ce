"""The strong noise of NUDT-MIRSDT-HiNo, and the law that its variance follows.

    x' = (1 + g) x + o + n, rounded and clipped to the frame's type:

n is normal with standard deviation sigma, new in every pixel and frame; gain g and offset o have a
value for each pixel. The generator of the published set is not public. What is known of it are its
parameters (sigma 8, gain 0.15, offset 1.3) and one frame, whose variance is 8.18^2 + (0.090 I)^2 at
grey level I. A gain uniform on +-0.15, of standard deviation 0.15 / sqrt 3 = 0.087, fits that; a
normal one of 0.15 does not. The offset is taken as normal: sqrt(8^2 + 1.3^2) = 8.10.

Whether the published gain and offset are a fixed pattern, the same in all frames of a sequence, or
drawn for each frame is not known: both are offered.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

PATTERNS = ("fixed", "per-frame")
DISTRIBUTIONS = {  # of the gain: how it is drawn, its standard deviation for parameter 1
    "uniform": (lambda rng, shape: rng.random(shape, np.float32) * 2 - 1, 1 / math.sqrt(3)),
    "normal": (lambda rng, shape: rng.standard_normal(shape, np.float32), 1.0),
}
RECIPE = 1  # raise it when the same seed no longer gives the same bytes
ROUNDING = 1 / 12  # variance that rounding to whole grey levels adds
_REACH = 4  # standard deviations from a grey level to the ends of the range: nothing is clipped


@dataclass(frozen=True)
class StrongNoise:
    """The noise; see the module's docstring.

    Attributes:
        sigma: standard deviation of n, grey levels of the frames as they are, of 8 bits or of 16.
        gain: parameter of g: half-width if uniform, standard deviation if normal.
        offset: standard deviation of o, grey levels.
        pattern: of g and o: "fixed" over a sequence, or drawn "per-frame".
        distribution: of g: a key of `DISTRIBUTIONS`.
        seed: not negative.

    Raises:
        ValueError: a value out of its range.
    """

    sigma: float = 8.0
    gain: float = 0.15
    offset: float = 1.3
    pattern: str = "fixed"
    distribution: str = "uniform"
    seed: int = 46

    def __post_init__(self):
        for name in ("sigma", "gain", "offset"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} {value}: expected a finite number, 0 or more")
        if self.pattern not in PATTERNS:
            raise ValueError(f"pattern {self.pattern!r}: expected one of {', '.join(PATTERNS)}")
        if self.distribution not in DISTRIBUTIONS:
            expected = ", ".join(DISTRIBUTIONS)
            raise ValueError(f"distribution {self.distribution!r}: expected one of {expected}")
        if self.seed < 0:
            raise ValueError(f"seed {self.seed}: expected 0 or more")

    def folder_name(self, dataset):
        """The folder of a data set's noisy version, named as the published one.

        What differs from the published parameters, as far as they are known, is added.
        """
        usual = StrongNoise()
        name = f"{dataset}-Noise{float(self.sigma)}_FJY(g{self.gain:g}-o{self.offset:g})"
        added = [each for each in ("pattern", "distribution") if self._differs(usual, each)]
        name += "".join(f"_{getattr(self, each)}" for each in added)
        return name + (f"_seed{self.seed}" if self._differs(usual, "seed") else "")

    def _differs(self, usual, name):
        return getattr(self, name) != getattr(usual, name)

    def add_to(self, frame, sequence, index):
        """The noisy version of a frame (H, W) uint8 or uint16, of the same type.

        Depends on nothing but the arguments and the noise's own values.

        Args:
            frame: the clean grey levels.
            sequence: what the sequence is called; another name gives other noise.
            index: of the frame in the sequence, from 0.

        Raises:
            ValueError: the grey levels are not of 8 or 16 bits.
        """
        if frame.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"grey levels of type {frame.dtype}; expected 8 or 16 bits")
        rng = _generator(self.seed, sequence, 1 + index)
        if self.pattern == "fixed":
            factor, offset = _fixed_pattern(self, sequence, frame.shape)
        else:
            factor, offset = self.draw_pattern(rng, frame.shape)
        noise = rng.standard_normal(frame.shape, np.float32) * np.float32(self.sigma)
        noisy = frame * factor + offset + noise
        return np.clip(np.rint(noisy), 0, np.iinfo(frame.dtype).max).astype(frame.dtype)

    def draw_pattern(self, rng, shape):
        """1 + g and o, each (H, W) float32."""
        draw, _ = DISTRIBUTIONS[self.distribution]
        factor = 1 + np.float32(self.gain) * draw(rng, shape)
        return factor, np.float32(self.offset) * rng.standard_normal(shape, np.float32)

    def law(self):
        """The law that the variance follows where nothing is clipped: `VarianceLaw`."""
        _, spread = DISTRIBUTIONS[self.distribution]
        additive = math.sqrt(self.sigma**2 + self.offset**2 + ROUNDING)
        return VarianceLaw(additive, self.gain * spread)


def _generator(seed, sequence, *more):
    """A generator of its own for what is named."""
    name = int.from_bytes(hashlib.sha256(sequence.encode()).digest()[:8], "big")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, name, *more))))


@lru_cache(maxsize=16)  # threads work on frames of a few sequences at a time
def _fixed_pattern(noise, sequence, shape):
    return noise.draw_pattern(_generator(noise.seed, sequence, 0), shape)


@dataclass(frozen=True)
class VarianceLaw:
    """Variance of the noise at grey level I: additive^2 + (gain I)^2; gain None: not known."""

    additive: float
    gain: float | None

    def variance(self, levels):
        """The variance at these grey levels."""
        return self.additive**2 + ((self.gain or 0) * levels) ** 2

    def __str__(self):
        additive = f"{self.additive:.2f}^2"
        return additive if self.gain is None else f"{additive} + ({self.gain:.4f} I)^2"


PUBLISHED_LAW = VarianceLaw(8.18, 0.090)  # of the one published frame


class LawFit:
    """Fits a `VarianceLaw` to clean and noisy grey levels, by weighted least squares.

    The squared difference is regressed on 1 and I^2, with the weights that the expected law gives.
    Grey levels so near to an end of the range that noise may be clipped are left out.

    Args:
        expected: `VarianceLaw`, for the weights.
        sums: six weighted sums, of a fit whose data were taken elsewhere.
    """

    def __init__(self, expected, sums=None):
        self.expected = expected
        self.sums = np.zeros(6) if sums is None else sums

    def add(self, clean, noisy):
        """Takes a frame (H, W) and its noisy version."""
        levels = clean.astype(np.float64)
        variance = self.expected.variance(levels)
        reach = _REACH * np.sqrt(variance)
        inside = (levels - reach >= 0) & (levels + reach <= np.iinfo(clean.dtype).max)
        levels, weights = levels[inside], 1 / variance[inside] ** 2
        squares, powers = (noisy[inside] - levels) ** 2, levels**2
        terms = np.ones_like(powers), powers, powers**2, squares, squares * powers
        self.sums[:5] += [float((weights * term).sum()) for term in terms]
        self.sums[5] += len(levels)
        return self

    def __add__(self, other):
        return LawFit(self.expected, self.sums + other.sums)

    def law(self):
        """The `VarianceLaw` of all frames; None where all grey levels are too near to the ends.

        Its gain is None where the grey levels are too much alike to tell the two parts apart.
        """
        ones, powers, fourth, squares, products, count = self.sums
        if count == 0:
            return None
        spread = ones * fourth - powers**2
        if spread < 1e-6 * ones * fourth:
            return VarianceLaw(math.sqrt(squares / ones), None)
        slope = (ones * products - powers * squares) / spread
        constant = (squares - slope * powers) / ones
        return VarianceLaw(math.sqrt(max(constant, 0)), math.sqrt(max(slope, 0)))
