"""A video of each sequence with its marks, and the trails of its tracks."""

from collections import deque
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import ImageDraw, ImageFont

from utils.files import short_name
from utils.metrics import ScoredFrames
from utils.protocols import OPERATING_POINT
from utils.report.aside import Aside
from utils.report.marks import DETECTION, mark_frames
from utils.report.overlay import (
    COLOURS,
    draw_frame,
    enlargement,
    frames_at_score_size,
    grey_limits,
    with_legend,
)
from utils.report.writers import Writer
from utils.run_dir import make_folder
from utils.tracks.linking import Linker
from utils.tracks.writer import linked_frames

TRAIL = 30  # frames of a track's past that are drawn
TRAIL_COLOUR = (255, 215, 90)


class _Picture(NamedTuple):
    """A frame (H, W) that waits until it is known which of its tracks are kept; its number."""

    grey: np.ndarray
    number: int
    found: object


class _Sequence:
    """One sequence under way."""

    def __init__(self, block, file, video, options):
        self.file, self.video, self.limits = file, video, grey_limits(block.frames)
        self.scale = enlargement(*block.scores.shape[1:])
        self.linker = Linker(options.gate, options.gap)
        self.waiting = deque()
        self.trails = {}  # by track, its places so far: (frame, row, column)
        self.numbers = {}  # by track, in the order in which they are first drawn


class OverlayVideos(Writer):
    """Writes `<folder>/<sequence>.mp4`: every frame with its marks, and trails of the tracks.

    Detections that belong to no track that is kept are not drawn and find no target. A frame is
    drawn when that is known of all its detections, as `TrackOptions` says.

    Args:
        folder: where to.
        threshold: a pixel is positive if its score is at least this.
        protocol: `utils.protocols.Protocol` that tells false alarms from detections.
        options: `utils.tracks.options.TrackOptions`.
        open_video: callable(binary file, frames a second), which gives what has `add(picture)` and
            `close()`: `data.formats.encoder.VideoFile`.

    Attributes:
        count: videos that were written, of all processes once they have shared.
    """

    def __init__(self, folder, threshold, protocol, options, open_video):
        self.folder, self.threshold, self.protocol = folder, threshold, protocol
        self.options, self.open_video = options, open_video
        self.sequence, self.count = None, 0

    def add(self, block):
        if self.sequence is None:
            file = Aside(make_folder(self.folder) / f"{short_name(block.sequence.name)}.mp4")
            video = self.open_video(file.file, self.options.rate_of(block.sequence))
            self.sequence = _Sequence(block, file, video, self.options)
        found = linked_frames(block, self.threshold, self.options, self.sequence.linker)
        grey = frames_at_score_size(block, slice(None))
        for picture in map(_Picture, grey.copy(), block.numbers, found):
            self.sequence.waiting.append(picture)
            self._release(block.sequence.name)

    def _release(self, name):
        sequence, latest = self.sequence, self.sequence.linker.frame
        while sequence.waiting and self.options.decides(sequence.waiting[0].found, latest):
            sequence.video.add(np.asarray(self._draw(sequence.waiting.popleft(), name)))

    def _draw(self, picture, name):
        """The page of a frame whose tracks are decided."""
        sequence, frame = self.sequence, picture.found
        kept = [*map(self.options.keeps, frame.tracks)]
        scores = np.zeros((1, *frame.shape), np.float32)
        scores.ravel()[frame.pixels[np.array(kept, bool)[frame.owner]]] = 1
        truth = [None, None]
        if frame.truth is not None:
            truth = [np.zeros(scores.shape, np.uint8) for _ in range(2)]
            for labels, pixels in zip(truth, frame.truth, strict=True):
                labels.ravel()[pixels] = 1
        marked = mark_frames(ScoredFrames(scores, *truth), OPERATING_POINT, self.protocol)
        page = draw_frame(picture.grey, marked.marks[0], sequence.limits, sequence.scale)
        self._add_trails(ImageDraw.Draw(page), frame, kept)
        counts, kinds = f"{marked.detections[0]} detections", (DETECTION,)
        if frame.truth is not None:
            found = marked.targets[0] - marked.missed[0]
            counts, kinds = f"{found} of {marked.targets[0]} targets", COLOURS
        return with_legend(page, f"{name}  {picture.number}", counts, kinds)

    def _add_trails(self, pen, frame, kept):
        """Draws where the tracks were in the last frames, and their numbers where they are."""
        trails, scale = self.sequence.trails, self.sequence.scale
        font = ImageFont.load_default(12)
        pen.fontmode = "1"  # one colour, which a video's compression keeps better
        for track, keep, box in zip(frame.tracks, kept, frame.boxes.tolist(), strict=True):
            if keep:
                place = (frame.index, (box[0] + box[1]) / 2, (box[2] + box[3]) / 2)
                trails.setdefault(track, deque(maxlen=TRAIL)).append(place)
        for track in [
            track for track, trail in trails.items() if trail[-1][0] < frame.index - TRAIL
        ]:
            del trails[track]
        for track, trail in trails.items():
            number = self.sequence.numbers.setdefault(track, len(self.sequence.numbers) + 1)
            recent = [place for place in trail if place[0] > frame.index - TRAIL]
            line = [((x + 0.5) * scale, (y + 0.5) * scale) for _, y, x in recent]
            if len(line) > 1:
                pen.line(line, fill=TRAIL_COLOUR, width=1)
            if recent and recent[-1][0] == frame.index:
                at = line[-1][0] + 8, line[-1][1] - 18
                pen.text(at, str(number), fill=TRAIL_COLOUR, font=font)

    def end(self, sequence):
        if self.sequence is None:
            return
        self.sequence.linker.finish()
        self._release(sequence.name)
        self.sequence.video.close()
        self.sequence.file.keep()
        self.sequence = None
        self.count += 1

    def abandon(self):
        if self.sequence is not None:
            with suppress(OSError):  # an encoder that is left open complains
                self.sequence.video.close()
            self.sequence.file.drop()
            self.sequence = None

    def share(self, group):
        self.count = sum(group.gather([self.count]))

    def close(self):
        return [self.folder] if self.count else []
