"""Times scoring: ours beside the definition applied threshold by threshold.

    python -m tests.benchmarks.bench_scoring

Frames have scores as a detector gives them: a background around 1e-6 with a heavy upper tail, and
a blob at each target. Both count the 27 thresholds under both protocols; ours and the definition
take turns, and processor time is measured (both use one thread), so that whatever else the machine
does hits both alike.
"""

import argparse
import time

import numpy as np
from scipy import ndimage

from utils.metrics import EIGHT_CONNECTED, THRESHOLDS, ScoredFrames
from utils.protocols import choose

SIZES = ((100, 150), (200, 300), (480, 720))
TARGETS = (0, 1, 3, 10)


def make_frames(rng, frames, height, width, targets):
    """Scores (n, H, W) float32 and centroid masks with `targets` single pixels a frame."""
    logits = rng.normal(-14, 3.5, (frames, height, width)).astype(np.float32)
    centroids = np.zeros(logits.shape, dtype=np.uint8)
    for frame in range(frames):
        for _ in range(targets):
            row, column = rng.integers(5, height - 5), rng.integers(5, width - 5)
            centroids[frame, row, column] = 1
            logits[frame, row - 1 : row + 2, column - 1 : column + 2] += rng.uniform(8, 20)
    return 1 / (1 + np.exp(-logits)), centroids


def ours(scores, centroids):
    """(targets, detected, false alarms) of each protocol."""
    frames = ScoredFrames(scores, centroids)
    curves = [protocol.count(frames) for protocol in choose()]
    return [(curve.targets, curve.detected, curve.false_alarm_pixels) for curve in curves]


def definition(scores, centroids):
    """The same, threshold by threshold, each from its own labelling of the centroid mask."""
    shape = (len(choose()), len(THRESHOLDS))
    targets = 0
    detected, alarms = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for frame, centroid in zip(scores, centroids, strict=True):
        for index, threshold in enumerate(THRESHOLDS):
            positive = frame >= np.float32(threshold)
            labels, count = ndimage.label(centroid, EIGHT_CONNECTED)
            pixels = np.argwhere(labels)
            owners = labels[labels > 0]
            for protocol, (hit, guard) in enumerate((p.hit, p.guard) for p in choose()):
                unguarded = positive.copy()
                found = set()
                for (i, j), owner in zip(pixels, owners, strict=True):
                    if positive[_square(i, j, hit)].any():
                        found.add(owner)
                    unguarded[_square(i, j, guard)] = False
                detected[protocol, index] += len(found)
                alarms[protocol, index] += np.count_nonzero(unguarded)
        targets += count
    return [(targets, *counts) for counts in zip(detected, alarms, strict=True)]


def _square(row, column, radius):
    return (
        slice(row - radius, row + radius + 1),
        slice(column - radius, column + radius + 1),
    )


def measure(scores, centroids, rounds):
    """Processor seconds a frame of (ours, definition): medians of rounds that take turns."""
    check = ours(scores, centroids), definition(scores[:2], centroids[:2])
    for mine, defined in zip(ours(scores[:2], centroids[:2]), check[1], strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(mine, defined, strict=True))
    seconds = np.empty((rounds + 1, 2))
    few = min(len(scores), 4)
    for index in range(rounds + 1):
        start = time.process_time()
        ours(scores, centroids)
        middle = time.process_time()
        definition(scores[:few], centroids[:few])
        seconds[index] = (middle - start) / len(scores), (time.process_time() - middle) / few
    return np.median(seconds[1:], axis=0)  # the first warms up


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=40, help="frames of a sequence")
    parser.add_argument("--rounds", type=int, default=9, help="measurements; the median is told")
    args = parser.parse_args(argv)
    rng = np.random.default_rng(46)
    print("   frame    targets   ours ms   definition ms   times faster")
    for height, width in SIZES:
        for targets in TARGETS:
            frames = make_frames(rng, args.frames, height, width, targets)
            mine, defined = measure(*frames, args.rounds) * 1e3
            print(
                f"{height:4}x{width:<4} {targets:8}   {mine:8.3f}   {defined:12.2f}   "
                f"{defined / mine:10.0f}x"
            )


if __name__ == "__main__":
    main()
