"""Clips of a moving camera: frames are laid on each other, scored, and the scores moved back."""

import math

import numpy as np
import torch

LARGEST_GROWTH = 0.5  # of the canvas beyond a frame at each side, as a share of that side
SEEN_SHARE = 0.25  # of a clip's frames in which a pixel must be in view to be scored
UNSEEN = -math.inf  # the logit of a pixel that is not
LOWEST = -87.0  # of the others: their scores are above 0 in float32


class Stabiliser:
    """Runs a network on registered clips.

    Every frame of a clip is moved by whole pixels onto the middle one, on a canvas that holds them
    all. Where a frame shows nothing of the canvas it gets the mean of those that do: no pulse. The
    logits are moved back, frame by frame. A pixel of the scene that was in view in less than a
    quarter of the clip's frames is unseen: its score is 0, which no other score is. Frames of zeros
    are padding, and stay.

    Args:
        follow: callable(frames (T, H, W)) -> shifts (T, 2) that lay them on the middle one, and
            which are known (T,): `models.registration.follow_view`.

    Attributes:
        largest: (rows, columns) that a frame was moved by at most.
        path, steps: pixels that the view moved from frame to frame of the clips, in so many steps.
        lost: frames of clips, of these steps, whose shift is not known.
        unseen, pixels: how many had no score, of how many.
    """

    def __init__(self, follow):
        self.follow = follow
        self.largest = np.zeros(2, int)
        self.path, self.steps, self.lost, self.unseen, self.pixels = 0.0, 0, 0, 0, 0

    def run(self, clips, run):
        """Logits (B, n, H, W) of the last n frames of clips (B, 1, T, H, W) of a moving camera.

        Args:
            clips: normalised frames.
            run: what gives the logits of clips of any size.
        """
        real = clips[:, 0].flatten(2).any(2).cpu().numpy()  # (B, T)
        shifts = np.stack([self._shifts(*each) for each in zip(clips[:, 0], real, strict=True)])
        size = np.array(clips.shape[-2:])
        most = (LARGEST_GROWTH * size).astype(int)
        before = np.minimum(np.maximum(-shifts.min((0, 1)), 0), most)
        after = np.minimum(np.maximum(shifts.max((0, 1)), 0), most)
        canvas, views = self._lay(clips, real, shifts + before, size + before + after)
        logits = run(canvas)
        frames = range(clips.shape[2] - logits.shape[1], clips.shape[2])
        moved = logits.new_full((*logits.shape[:2], *size.tolist()), UNSEEN)
        for b, t, index in ((b, t, t - frames[0]) for b in range(len(clips)) for t in frames):
            source, target = _overlap(shifts[b, t] + before, size, canvas.shape[-2:])
            seen = logits[b, index][target].clamp_min(LOWEST)
            moved[b, index][source] = torch.where(views[b][target], seen, UNSEEN)
        return moved

    def count(self, scores):
        """Takes note of final scores."""
        self.pixels += scores.size
        self.unseen += int(np.count_nonzero(scores == 0))

    def _shifts(self, frames, real):
        """(T, 2) rows and columns to move each of the frames (T, H, W) by; 0 for padding."""
        shifts = np.zeros((len(frames), 2), int)
        found = np.flatnonzero(real)
        if len(found) < 2:
            return shifts
        shifts[found], known = self.follow(frames[found].float().cpu().numpy())
        self.largest = np.maximum(self.largest, np.abs(shifts).max(0))
        self.path += float(np.hypot(*np.diff(shifts[found], axis=0).T).sum())
        self.steps += len(found) - 1
        self.lost += int(np.count_nonzero(~known))
        return shifts

    def _lay(self, clips, real, places, size):
        """The clips on a canvas of this size, each frame at its place, (B, 1, T, H', W').

        And which of its pixels were in view often enough, (B, H', W') bool.
        """
        canvas = clips.new_zeros((*clips.shape[:3], *size.tolist()))
        views = torch.zeros((len(clips), *size.tolist()), dtype=torch.bool, device=clips.device)
        for b in range(len(clips)):
            seen = torch.zeros(canvas.shape[2:], dtype=torch.bool, device=clips.device)
            for t in np.flatnonzero(real[b]):
                source, target = _overlap(places[b, t], clips.shape[-2:], size)
                canvas[b, 0, t][target] = clips[b, 0, t][source]
                seen[t][target] = True
            count = seen.sum(0)
            mean = canvas[b, 0].sum(0) / count.clamp_min(1)
            for t in np.flatnonzero(real[b]):
                canvas[b, 0, t] = torch.where(seen[t], canvas[b, 0, t], mean)
            views[b] = count >= SEEN_SHARE * real[b].sum()
        return canvas, views

    def share(self, group):
        """Joins what several processes found."""
        sums = self.path, self.steps, self.lost, self.unseen, self.pixels
        largest, *sums = zip(*group.gather([(self.largest, *sums)]), strict=True)
        self.largest = np.max(largest, axis=0)
        self.path, self.steps, self.lost, self.unseen, self.pixels = map(sum, sums)

    def line(self):
        """What was found, in words."""
        rows, columns = self.largest
        lost = 100 * self.lost / max(self.steps, 1)
        words = f"; {lost:.2f} % of the frames fit no other: they are laid as those beside them"
        return (
            f"stabilised: frames moved by up to {rows} rows and {columns} columns, on average "
            f"{self.path / max(self.steps, 1):.2f} px from one to the next; "
            f"{100 * self.unseen / max(self.pixels, 1):.2f} % of the pixels unseen, with score 0"
            f"{words if self.lost else ''}"
        )


def _overlap(place, size, canvas):
    """Slices of a frame of this size, and of where they lie on a canvas, for its corner there."""
    pairs = list(zip(place, size, canvas, strict=True))
    source = tuple(slice(max(0, -p), max(0, min(side, whole - p))) for p, side, whole in pairs)
    target = tuple(slice(max(0, p), max(0, min(whole, side + p))) for p, side, whole in pairs)
    return tuple(map(_plain, source)), tuple(map(_plain, target))


def _plain(part):
    return slice(int(part.start), int(part.stop))
