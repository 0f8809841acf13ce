"""Which detections make a track, and which tracks are kept."""

from dataclasses import dataclass

import numpy as np

from utils.command_line import fraction, not_negative, positive

WAIT = 100  # frames that one waits for its tracks to be decided
MOST = 10**6  # pixels or frames a second
USUAL_RATE = 30.0  # frames a second, where nothing tells
LEAST_RATE = 0.01  # frames a second: lower ones a video cannot tell from none


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
        mark_reach: pixels that the marks of a detection reach from its centroid, see
            `utils.tracks.reach`; the others count as not positive. None: no limit.
        gate: pixels that a target may be from where it is predicted in the next frame.
        gap: frames that it may not be seen.
        frame_rate: frames a second of the footage, for videos and what is counted per minute; None:
            what is known of a sequence, else `USUAL_RATE`.

    Raises:
        ValueError: a value out of its range.
    """

    min_area: int = 1
    min_track: int = 1
    min_score: float = 0.0
    mark_reach: float | None = None
    gate: float = 5.0
    gap: int = 5
    frame_rate: float | None = None

    def __post_init__(self):
        limits = {"min_area": 1, "min_track": 1, "gap": 0}
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)}: expected {least} or more")
        if not 0 < self.gate <= MOST:
            raise ValueError(f"--gate {self.gate}: expected a number above 0, at most {MOST:,}")
        if self.frame_rate is not None and not LEAST_RATE <= self.frame_rate <= MOST:
            raise ValueError(
                f"--frame_rate {self.frame_rate}: expected frames a second, from {LEAST_RATE} to "
                f"{MOST:,}"
            )
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"--min_score {self.min_score}: expected a score, from 0 to 1")
        if self.mark_reach is not None and not self.mark_reach >= 0:
            raise ValueError(f"--mark_reach {self.mark_reach}: expected 0 or more pixels")

    def rate_of(self, sequence):
        """Frames a second of a `data.sequences.TestSequence`, which may leave out some."""
        own = getattr(sequence, "frame_rate", None)
        if self.frame_rate is None and own and LEAST_RATE <= own <= MOST:
            return own
        return (self.frame_rate or USUAL_RATE) / getattr(sequence, "stride", 1)

    @property
    def patience(self):
        """Frames that one waits at most, after a frame's detections, until its tracks are known."""
        return max(WAIT, self.min_track * (self.gap + 1))

    def keeps(self, track):
        """Whether a track is kept, by what was seen of it so far."""
        least = float(np.float32(self.min_score))  # scores are of that type
        return track.count >= self.min_track and track.peak >= least

    def decides(self, frame, latest):
        """Whether it is known which tracks of a `_Frame` are kept, once frame `latest` was seen."""
        known = (track.ended or self.keeps(track) for track in frame.tracks)
        return latest - frame.index >= self.patience or all(known)


def add_track_options(add):
    """Declares the options of a command that become `TrackOptions`.

    Args:
        add: `argparse.ArgumentParser.add_argument`.
    """
    own = "; the included run for footage has its own if not given"
    add("--min_track", type=positive(int), help="write tracks seen in this many frames or more")
    words = "keep a track only if its highest score reaches this; what is seen of it more than "
    words += f"{WAIT} frames before that is left out, and told"
    add("--min_score", type=fraction, help=words + own)
    words = "pixels from the centroid of a detection that its marks reach at most, where they are "
    words += "counted and drawn; a second number is for those of tracks"
    number = not_negative(float)
    add("--mark_reach", type=number, nargs="+", metavar="PIXELS", help=words + own)
    words = "of tracks: pixels of a detection, at least (default: 1)"
    add("--min_area", type=positive(int), help=words + own)
    words = "frames a second of the footage; if not given its own where it tells, else "
    add("--frame_rate", type=positive(float), help=f"{words}{USUAL_RATE:g}")


def wants_tracks(given):
    """Whether the options of a command ask for tracks."""
    return given.min_track is not None or given.overlay_video


def check_track_options(refuse, given):
    """Refuses what would be ignored of the options `given`: calls `refuse` with a line."""
    without = "without tracks; expected --min_track N or --overlay_video beside it"
    for name in ("min_area", "min_score"):
        if getattr(given, name) is not None and not wants_tracks(given):
            refuse(f"--{name} {without}")
    reach = given.mark_reach or ()
    if len(reach) > 2:
        refuse("--mark_reach with more than two numbers; expected one, or a second of tracks")
    if len(reach) == 2 and not wants_tracks(given):
        refuse(f"--mark_reach with a second number {without}")


def track_options(given):
    """`TrackOptions` of a command's options, of which all but the frame rate may be None."""
    return TrackOptions(
        given.min_area or 1,
        given.min_track or 1,
        given.min_score or 0.0,
        given.mark_reach[-1] if given.mark_reach else None,
        frame_rate=given.frame_rate,
    )
