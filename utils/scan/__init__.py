"""Scans: frames of a sequence go in, in order; final scores come out, in blocks.

Which scan a detector needs follows from what it promises (`models.detector.Detector`): `open_scan`
chooses. How clips are cut, joined, padded and put on a canvas, and who keeps a recurrent state, is
known here and nowhere else. The same object runs a file, a folder, a long video or a live camera:

    scan = open_scan(detector, network, device)
    scan.begin(mean, std)
    for frame in camera:
        for start, scores in scan.push(frame): ...
    for start, scores in scan.finish(): ...

Blocks follow each other without gaps, and what they hold does not change any more. A scan keeps a
bounded number of frames, however long the sequence.
"""

from utils.scan.clips import (
    ClipNetwork,
    normalised,
    padded_size,
    run_clip,
    window_overlap,
    window_starts,
)
from utils.scan.queue import Queue
from utils.scan.scans import (
    MOST_NARROW,
    Block,
    LastFrame,
    Recurrent,
    Scan,
    Streamed,
    Windows,
    open_scan,
)
from utils.scan.stabilise import Stabiliser

__all__ = [
    "MOST_NARROW",
    "Block",
    "ClipNetwork",
    "LastFrame",
    "Queue",
    "Recurrent",
    "Scan",
    "Stabiliser",
    "Streamed",
    "Windows",
    "normalised",
    "open_scan",
    "padded_size",
    "run_clip",
    "window_overlap",
    "window_starts",
]
