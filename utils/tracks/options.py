"""Which detections make a track, and which tracks are kept."""

from dataclasses import dataclass

import numpy as np

from utils.command_line import fraction, positive

WAIT = 100  # frames that one waits for its tracks to be decided


@dataclass(frozen=True)
class TrackOptions:
    """How detections become tracks.

    A target is faint in some frames, but seldom in all: a high `min_score` removes false tracks and
    loses few targets, where a high threshold would lose the faint frames of every target. A
    detection whose track is not kept WAIT frames later is left out for good (later still where
    `min_track` asks for it).

    Attributes:
        min_area: pixels of a detection, at least.
        min_track: frames in which a track was seen, at least.
        min_score: the highest score of a track, at least.
        gate: pixels that a target may be from where it is predicted in the next frame.
        gap: frames that it may not be seen.
        frame_rate: frames a second, for what is counted per minute.

    Raises:
        ValueError: a value out of its range.
    """

    min_area: int = 1
    min_track: int = 1
    min_score: float = 0.0
    gate: float = 5.0
    gap: int = 5
    frame_rate: float = 30.0

    def __post_init__(self):
        limits = {"min_area": 1, "min_track": 1, "gap": 0}
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)}: expected {least} or more")
        for name in ("gate", "frame_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"--{name} {getattr(self, name)}: expected a number above 0")
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"--min_score {self.min_score}: expected a score, from 0 to 1")

    def keeps(self, track):
        """Whether a track is kept, by what was seen of it so far."""
        least = float(np.float32(self.min_score))  # scores are of that type
        return track.count >= self.min_track and track.peak >= least

    def decides(self, frame, latest):
        """Whether it is known which tracks of a `_Frame` are kept, once frame `latest` was seen."""
        patience = max(WAIT, self.min_track * (self.gap + 1))
        known = (track.ended or self.keeps(track) for track in frame.tracks)
        return latest - frame.index >= patience or all(known)


def add_track_options(add):
    """Declares the options of a command that become `TrackOptions`.

    Args:
        add: `argparse.ArgumentParser.add_argument`.
    """
    add("--min_track", type=positive(int), help="write tracks seen in this many frames or more")
    words = (
        "keep a track only if its highest score reaches this; with --min_track the included run "
    )
    words += "for footage has its own if not given"
    add("--min_score", type=fraction, help=words)
    add("--min_area", type=positive(int), default=1, help="of tracks: pixels of a detection")
    add("--frame_rate", type=positive(float), default=30.0, help="of videos")


def check_track_options(refuse, min_track, min_score, overlay_video):
    """Refuses what would be ignored: `refuse` is called with a line that says what."""
    if min_score is not None and min_track is None and not overlay_video:
        refuse("--min_score without tracks; expected --min_track N or --overlay_video beside it")


def track_options(min_area, min_track, min_score, frame_rate):
    """`TrackOptions` of a command's options, of which `min_track` and `min_score` may be None."""
    return TrackOptions(min_area, min_track or 1, min_score or 0.0, frame_rate=frame_rate)
