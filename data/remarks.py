"""What is said about data that can be read but may not be what was meant: one line of each kind."""

import warnings

FAR_OFF = 8.0  # standard deviations between a mean of grey levels and the mean in use
TOO_WIDE, TOO_NARROW = 20.0, 0.01  # of the standard deviation in use


class DataWarning(UserWarning):
    """Data that are read, though they may not be what was meant."""


class Remarks:
    """Warnings about one data set: of each kind the first, which names its file."""

    def __init__(self):
        self.made = set()

    def make(self, kind, message):
        """Warns, unless a remark of this kind was made before.

        Args:
            kind: any word, the same for remarks that say the same of another file.
            message: one line: the file, and what was seen.
        """
        if kind not in self.made:
            self.made.add(kind)
            warnings.warn(message, DataWarning, stacklevel=2)

    def check_levels(self, frames, mean, std, place):
        """Remarks on grey levels that lie far from the mean and std that they are normalised with.

        Args:
            frames: (n, H, W) or (H, W).
            mean, std: in use.
            place: the first frame's, for the message.
        """
        own, spread = float(frames.mean(dtype="float64")), float(frames.std(dtype="float64"))
        if spread == 0:
            self.make(
                "flat",
                f"{place}: all pixels have the grey level {own:.4g}; expected a scene",
            )
        wide = spread > TOO_WIDE * std or 0 < spread < TOO_NARROW * std
        if wide or abs(own - mean) > FAR_OFF * std:
            self.make(
                "levels",
                f"{place}: grey levels around {own:.4g} with a standard deviation of {spread:.3g}, "
                f"far from the mean {mean:.4g} and std {std:.4g} that they are normalised with; "
                "give --mean and --std, or --normalise-as",
            )
