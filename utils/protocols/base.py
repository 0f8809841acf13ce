"""What every protocol is: a rule for counting, and the counts that it adds up."""

from copy import copy

import numpy as np

from utils.metrics import THRESHOLDS

OPERATING_POINT = 0.5  # the threshold of the published tables


class Protocol:
    """A rule for counting, and what is made of the counts.

    Counts are integers; those of several blocks, sequences or processes are added with `+` and
    divided once, by `figures`. A protocol is a frozen dataclass, and what its docstring says above
    "Attributes:" stands in the report. Where it counts `detected` or `false_alarm_pixels`, the
    report shows these beside `pd` and `fa`.

    Attributes:
        name: as on the command line and in metrics.json.
        title: for people.
        thresholds: score thresholds, ascending; one of them is `OPERATING_POINT`.
        columns: of its tables: (title, key of `figures`, factor, digits).
        counted: names of the counts that `rates` are made of; () where figures at one threshold
            are not made of the counts at that threshold.
    """

    name: str
    title: str
    thresholds = THRESHOLDS
    columns = ()
    counted = ()

    def count(self, block):
        """The counts of a block of frames with truth, a `utils.metrics.ScoredFrames`."""
        raise NotImplementedError

    def at(self, threshold):
        """This protocol, of one threshold alone."""
        one = copy(self)
        object.__setattr__(one, "thresholds", (threshold,))  # also of a frozen dataclass
        return one

    def restore(self, thresholds, counts):
        """The counts, as `count` gives them, of integers that were written.

        Args:
            thresholds: that they run over.
            counts: {name: integer, or list over the thresholds}.
        """
        return Counts(**counts)

    def figures(self, counts):
        """What is reported of the counts: plain numbers or lists over the thresholds, by key.

        A ratio without denominator is None.
        """
        raise NotImplementedError

    def rates(self, counts):
        """Figures at one threshold of many counts at once, such as of resampled sequences.

        Args:
            counts: {name: (n,) integers} of each of `counted`.

        Returns:
            {key of `figures`: list of n}; a ratio without denominator is None.
        """
        return self.figures(Counts(**counts))

    def found(self, block, threshold):
        """Which targets of a block, in the order of `block.targets()`, are detected: bool."""
        raise NotImplementedError

    def alarms(self, block, threshold):
        """Which pixels of a block are false alarms: (n, H, W) bool."""
        raise NotImplementedError


def count_marked(protocols, block):
    """The counts of a block by each protocol, at each threshold of what is marked there.

    See `ScoredFrames.marked_at`. {name: counts}.
    """
    counts, changed = {protocol.name: protocol.count(block) for protocol in protocols}, {}
    for threshold in sorted({t for protocol in protocols for t in protocol.thresholds}):
        marked = block.marked_at(threshold)
        if marked is block:
            continue
        for protocol in protocols:
            if threshold not in protocol.thresholds:
                continue
            if protocol not in changed:
                changed[protocol] = counts[protocol.name].as_dict()
            place = protocol.thresholds.index(threshold)
            for name, count in protocol.at(threshold).count(marked).as_dict().items():
                if isinstance(count, list):
                    changed[protocol][name][place] = count[0]
    for protocol, found in changed.items():
        counts[protocol.name] = protocol.restore(protocol.thresholds, found)
    return counts


class Counts:
    """Integers, or int64 arrays over the thresholds, by name; counts of the same names add up."""

    def __init__(self, **counts):
        self.counts = {name: np.asarray(count, dtype=np.int64) for name, count in counts.items()}

    def __getitem__(self, name):
        return self.counts[name]

    def __add__(self, other):
        assert self.counts.keys() == other.counts.keys()
        return Counts(**{name: count + other[name] for name, count in self.counts.items()})

    def as_dict(self):
        """The integers, as plain values for JSON."""
        return {name: count.tolist() for name, count in self.counts.items()}


def ratios(numerators, denominators):
    """A list of quotients of two arrays, or of an array and a number; None where it is 0 / 0."""
    pairs = np.broadcast_arrays(np.atleast_1d(numerators), denominators)
    return [n / d if d else None for n, d in zip(*(each.tolist() for each in pairs), strict=True)]


def operating_point(thresholds):
    """The place of the threshold 0.5 in a grid.

    Raises:
        ValueError: the grid has no such threshold.
    """
    return list(thresholds).index(OPERATING_POINT)
