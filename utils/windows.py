"""Sliding windows over a sequence, and the way back: cut and stitch."""

import numpy as np


def window_overlap(seqlen):
    """Frames that consecutive test windows share: int(0.1 T)."""
    return int(0.1 * seqlen)


def window_starts(frames, seqlen):
    """First frames of the windows that cover a sequence at test time.

    The stride is T - int(0.1 T); there are ceil((N - overlap) / stride) windows and the last is
    moved back to end at the last frame: 0, 36, 60 for N = 100, T = 40. A sequence of at most T
    frames has one window, which starts at 0 and may reach past its end.

    Raises:
        ValueError: `frames` or `seqlen` is below 1.
    """
    if frames < 1 or seqlen < 1:
        raise ValueError(f"{frames} frames in windows of {seqlen}: expected at least 1 of each")
    stride = seqlen - window_overlap(seqlen)
    starts = range(0, max(frames - window_overlap(seqlen), 1), stride)
    return [max(min(start, frames - seqlen), 0) for start in starts]


def cut(sequence, start, seqlen):
    """The frames [start, start + seqlen) that exist, as a view: (n <= seqlen, ...)."""
    return sequence[start : start + seqlen]


def stitch(windows, starts, frames):
    """Joins the scores of overlapping windows; frames seen twice take the larger score.

    Args:
        windows: scores (T, H, W) of each window, all of one size.
        starts: first frame of each window.
        frames: N, the length of the sequence; scores past its end (padding) are dropped.

    Returns:
        (N, H, W) scores.
    """
    joined = None
    for scores, start in zip(windows, starts, strict=True):
        if joined is None:
            joined = np.zeros((frames, *scores.shape[1:]), scores.dtype)
        stop = min(start + len(scores), frames)
        np.maximum(joined[start:stop], scores[: stop - start], out=joined[start:stop])
    return joined
