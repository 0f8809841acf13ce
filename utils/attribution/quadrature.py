"""Where along its path a score's gradient is taken, and with what weight.

Along the path a target's score switches on within a narrow range, so that equidistant points may
miss it: the published 50 points give sums between 0.00002 and 2.7 times what they should.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

FIRST_CELLS = 4
# A cell is cut, before any gradient is taken, where the score changes by more than this part of all
# its changes along the path.
LARGEST_CHANGE = 1 / 16
NARROWEST = Fraction(1, FIRST_CELLS * 3**9)  # below it a change is a jump: no gradient shows it
KEPT_BYTES = 256 << 20  # of gradients that are kept in case that their cell is cut
SMALLEST_DIFFERENCE = 1e-6  # of scores, to which errors are related: rounding alone makes less


@dataclass
class Integral:
    """The integrated gradients of one target.

    Attributes:
        attribution: (T, H, W) float64.
        begin, end: the score at both ends of the path.
        points: gradients that were taken.
        spread: root of the sum of the squared errors of all parts of the path, by the difference of
            the scores; NaN where the parts are not known.
        jumps: the part of the difference that the score made in jumps, where it has no gradient.
    """

    attribution: np.ndarray
    begin: float
    end: float
    points: int
    spread: float = np.nan
    jumps: float = 0.0

    @property
    def difference(self):
        """What the attributions should add up to."""
        return self.end - self.begin

    @property
    def error(self):
        """The completeness error: (sum of the attributions - difference) / |difference|."""
        scale = max(abs(self.difference), SMALLEST_DIFFERENCE)
        return float((self.attribution.sum() - self.difference) / scale)


class Equidistant:
    """As many points as given, at equal distances and of equal weight.

    Args:
        points: their number.
        ends: whether the first and last are the ends of the path, as published, so that the weights
            are of neither rule and sums are right to O(1 / points) only; else all are the midpoints
            of equal parts.
    """

    def __init__(self, points, ends=True):
        if points < 2:
            raise ValueError(f"{points} points of a path: expected at least 2")
        self.points, self.ends = points, ends

    def integrate(self, path):
        """List of `Integral`, one for each target of a `ScorePath`."""
        n = self.points
        places = np.linspace(0, 1, n) if self.ends else (np.arange(n) + 0.5) / n
        targets = path.targets
        totals = [np.float64(0)] * targets
        for _, k, _, part in path.gradients(places, np.ones((n, targets), bool)):
            totals[k] = totals[k] + part.astype(np.float64) / n
        begin, end = path.scores([0, 1])
        return [Integral(totals[k], begin[k], end[k], n) for k in range(targets)]


class Adaptive:
    """Points where the score changes, until the sum of the attributions is what it should be.

    The path is cut into cells, the gradient taken in the middle of each and weighted by its width.
    What it should give, the difference of the scores at the cell's borders, is known from forward
    passes, so the error of every cell is known, too. The cells with the largest errors are cut in
    three, of which the middle one keeps its gradient, until both the error of the sum is at most
    `tolerance` times the difference between the ends, and the root of the summed squares of the
    cells' errors at most twice that: so errors are small, not only of opposite signs. A jump of the
    score, where it has no gradient, is cornered in a cell that is not cut any more.

    Args:
        tolerance: the completeness error at which it stops.
        most: gradients of one target at which it stops in any case.
    """

    def __init__(self, tolerance=0.01, most=256):
        self.tolerance, self.most = tolerance, most

    def integrate(self, path):
        """List of `Integral`, one for each target of a `ScorePath`; passes are shared."""
        known = Scores(path)
        all_cells = [Cells(k, self.tolerance) for k in range(path.targets)]
        open_cells = list(all_cells)
        while open_cells:  # forward passes only
            known.look_up(place for cells in open_cells for place in cells.borders())
            open_cells = [cells for cells in open_cells if cells.follow(known)]
        kept = KeptGradients()
        for cells in all_cells:
            cells.request_all()
        while any(cells.requests for cells in all_cells):
            self._take_gradients(path, all_cells, kept)
            for cells in all_cells:
                cells.judge(known)
            cut = [cells for cells in all_cells if not cells.finished(self.most)]
            known.look_up(place for cells in cut for place in cells.cut_worst())
            for cells in cut:
                cells.use(kept)
        return [cells.integral(known) for cells in all_cells]

    def _take_gradients(self, path, all_cells, kept):
        """Adds the requested gradients, each with its weight, to the targets' sums."""
        places = sorted({place for cells in all_cells for place in cells.requests})
        wanted = np.array([[place in cells.requests for cells in all_cells] for place in places])
        for i, k, slope, part in path.gradients([float(place) for place in places], wanted):
            all_cells[k].add(places[i], slope, part)
            kept.keep(k, places[i], part)


class Scores:
    """Scores along a path, each place run once: `scores[place]` is (K,)."""

    def __init__(self, path):
        self.path, self.found = path, {}

    def look_up(self, places):
        new = sorted(set(places) - self.found.keys())
        if new:
            scores = self.path.scores([float(place) for place in new])
            self.found.update(zip(new, scores, strict=True))

    def __getitem__(self, place):
        return self.found[place]


class KeptGradients:
    """Gradients by target and place, as many as fit into `KEPT_BYTES`."""

    def __init__(self):
        self.found, self.bytes = {}, 0

    def keep(self, k, place, part):
        if self.bytes + part.nbytes <= KEPT_BYTES and (k, place) not in self.found:
            self.found[k, place] = part
            self.bytes += part.nbytes


class Cells:
    """The cells of one target's path, and the sum over them.

    Places are fractions, so that those of several targets that are the same are seen to be.

    Attributes:
        requests: {place: weight} of the gradients that are to be added to the sum.
    """

    def __init__(self, k, tolerance):
        self.k, self.tolerance = k, tolerance
        self.cells = [
            (Fraction(i, FIRST_CELLS), Fraction(i + 1, FIRST_CELLS)) for i in range(FIRST_CELLS)
        ]
        self.requests, self.slopes, self.errors = {}, {}, {}
        self.total, self.points = 0.0, 0
        self.waiting = []  # cells that were cut and whose gradient is to be weighted anew

    def borders(self):
        return {place for cell in self.cells for place in cell}

    def follow(self, known):
        """Cuts the cells in which the score changes much; whether there were any."""
        changes = [abs(self._change(cell, known)) for cell in self.cells]
        limit = LARGEST_CHANGE * sum(changes)
        cells = []
        for cell, change in zip(self.cells, changes, strict=True):
            large = change > limit and cell[1] - cell[0] > NARROWEST
            cells += thirds(cell) if large else [cell]
        grown = len(cells) > len(self.cells)
        self.cells = cells
        return grown

    def request_all(self):
        for cell in self.cells:
            self.requests[middle(cell)] = width(cell)

    def add(self, place, slope, part):
        """Takes a requested gradient."""
        self.total = self.total + float(self.requests.pop(place)) * part.astype(np.float64)
        self.slopes[place] = slope
        self.points += 1

    def judge(self, known):
        """Finds the error of every cell that has none yet, and what the whole has to reach."""
        for cell in self.cells:
            if cell not in self.errors:
                given = float(width(cell)) * self.slopes[middle(cell)]
                self.errors[cell] = given - self._change(cell, known)
        begin, end = known[Fraction(0)][self.k], known[Fraction(1)][self.k]
        self.difference = max(abs(end - begin), SMALLEST_DIFFERENCE)

    def finished(self, most):
        # What happens in a cell that cannot be cut is a jump: no point would change it.
        errors = np.array([self.errors[cell] for cell in self._can_be_cut()])
        limit = self.tolerance * self.difference
        good = abs(errors.sum()) <= limit and np.sqrt((errors**2).sum()) <= 2 * limit
        return good or self.points >= most

    def cut_worst(self):
        """Cuts the cells that make half of the squared error; the places of the new borders."""
        worst = sorted(self._can_be_cut(), key=lambda cell: -abs(self.errors[cell]))
        left = 0.5 * sum(self.errors[cell] ** 2 for cell in worst)
        places = []
        for cell in worst:
            if left < 0:
                break
            left -= self.errors.pop(cell) ** 2
            self.cells.remove(cell)
            parts = thirds(cell)
            self.cells += parts
            places += [place for part in parts for place in part]
            self.requests[middle(parts[0])] = width(parts[0])
            self.requests[middle(parts[2])] = width(parts[2])
            self.waiting.append((cell, parts[1]))
        return places

    def use(self, kept):
        """Gives the gradients of cut cells the weight of the middle third: from those kept, if
        they are, else they are requested again."""
        for cell, third in self.waiting:
            weight = width(third) - width(cell)
            part = kept.found.get((self.k, middle(cell)))
            if part is None:
                self.requests[middle(cell)] = weight
            else:
                self.total = self.total + float(weight) * part.astype(np.float64)
        self.waiting = []

    def integral(self, known):
        errors = np.array(list(self.errors.values()))
        jumps = sum(-self.errors[cell] for cell in self.cells if width(cell) <= NARROWEST)
        return Integral(
            self.total,
            known[Fraction(0)][self.k],
            known[Fraction(1)][self.k],
            self.points,
            float(np.sqrt((errors**2).sum()) / self.difference),
            float(jumps / self.difference),
        )

    def _can_be_cut(self):
        return [cell for cell in self.cells if width(cell) > NARROWEST]

    def _change(self, cell, known):
        return known[cell[1]][self.k] - known[cell[0]][self.k]


def width(cell):
    return cell[1] - cell[0]


def middle(cell):
    return (cell[0] + cell[1]) / 2


def thirds(cell):
    low, high = cell
    part = (high - low) / 3
    return [(low, low + part), (low + part, high - part), (high - part, high)]
