"""Positions in consecutive frames to tracks: one-to-one assignment with a gate, gaps bridged."""

from collections import deque

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

RECENT = 5  # positions of a track from which its velocity is taken
STEADY = 3  # positions from which on a track has a velocity


class Track:
    """What is taken for one object.

    Attributes:
        first, last: indices of the first and last frame in which it was seen.
        count: frames in which it was seen.
        peak: the highest score of its detections so far, set by whoever has their scores.
        ended: whether it will not be seen any more.
        number: given by who keeps the track; None till then.
    """

    def __init__(self, frame, position):
        self.first = self.last = frame
        self.count, self.ended, self.number, self.peak = 1, False, None, 0.0
        self._recent = deque([(frame, position)], RECENT)

    def add(self, frame, position):
        """The track is seen at (row, column) in a later frame."""
        self.last = frame
        self.count += 1
        self._recent.append((frame, position))

    def predict(self, frame):
        """Where it should be in a later frame: on a straight line, at the pace of late."""
        (earlier, start), (last, position) = self._recent[0], self._recent[-1]
        if len(self._recent) < STEADY:
            return position
        return position + (position - start) * ((frame - last) / (last - earlier))


class Linker:
    """Links positions frame by frame.

    In each frame as many tracks as possible are seen again, each at one position within the gate
    of where it is predicted, and of all such assignments the one of the smallest total distance is
    taken. The gate of a track grows with the square root of the frames since it was seen. What is
    left over begins a track; one that was not seen for more than `gap` frames ends.

    Args:
        gate: pixels, from one frame to the next.
        gap: frames that a track may not be seen.
    """

    def __init__(self, gate, gap):
        self.gate, self.gap = gate, gap
        self.frame, self.active = -1, []

    def step(self, positions):
        """Takes the positions (n, 2) of the next frame, row and column: their tracks, a list."""
        self.frame += 1
        positions = np.asarray(positions, dtype=float).reshape(-1, 2)
        tracks = [None] * len(positions)
        if self.active and len(positions):
            predicted = np.array([track.predict(self.frame) for track in self.active])
            elapsed = np.array([self.frame - track.last for track in self.active])
            for row, column in assign(predicted, positions, self.gate * np.sqrt(elapsed)):
                tracks[column] = self.active[row]
                tracks[column].add(self.frame, positions[column])
        for index, track in enumerate(tracks):
            if track is None:
                tracks[index] = Track(self.frame, positions[index])
                self.active.append(tracks[index])
        # A track not seen for `gap` frames may still be seen in the next one.
        self._end(lambda track: self.frame - track.last > self.gap)
        return tracks

    def finish(self):
        """No frame follows."""
        self._end(lambda track: True)

    def _end(self, over):
        for track in self.active:
            track.ended = over(track)
        self.active = [track for track in self.active if not track.ended]


def assign(predicted, positions, gates):
    """One-to-one pairs within gates: as many as possible, of the smallest total distance.

    Args:
        predicted: (m, 2).
        positions: (n, 2).
        gates: (m,) the largest distance from each of `predicted`.

    Returns:
        List of (index into `predicted`, index into `positions`).
    """
    near = cKDTree(positions).query_ball_point(predicted, gates)
    rows = np.repeat(np.arange(len(predicted)), [len(each) for each in near])
    columns = np.array([index for each in near for index in each], dtype=int)
    # What is not connected through gates is decided apart: the matrices stay small.
    size = len(predicted) + len(positions)
    edges = coo_array((np.ones(len(rows)), (rows, len(predicted) + columns)), shape=(size, size))
    _, group = connected_components(edges, directed=False)
    order = np.argsort(group[rows], kind="stable")
    starts = np.flatnonzero(np.diff(group[rows][order], prepend=-1))
    pairs = []
    for members in np.split(order, starts[1:]) if len(order) else ():
        own_rows, row_places = np.unique(rows[members], return_inverse=True)
        own_columns, column_places = np.unique(columns[members], return_inverse=True)
        distances = np.hypot(*(predicted[rows[members]] - positions[columns[members]]).T)
        # A pair outside its gate costs more than all others together.
        costs = np.full((len(own_rows), len(own_columns)), distances.sum() + 1)
        costs[row_places, column_places] = distances
        allowed = np.zeros(costs.shape, bool)
        allowed[row_places, column_places] = True
        pairs += [
            (int(own_rows[row]), int(own_columns[column]))
            for row, column in zip(*linear_sum_assignment(costs), strict=True)
            if allowed[row, column]
        ]
    return pairs
