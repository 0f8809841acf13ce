"""Tracks of the detections of a test: written, and counted beside the targets' own.

A detection is an 8-connected component of the pixels of a frame with score >= threshold, of
`min_area` pixels or more. `utils.tracks.linking.Linker` links them; a track is kept if it was seen
often enough and with a score high enough, see `utils.tracks.options`. Pixels of other detections
count as not positive. The targets are linked in the same way: a target's track is found if the
detections of kept tracks find the target in at least half of its frames. A kept track is false if
more than half of its detections are false alarms by all their pixels. Targets and alarms are what
the protocol says.
"""

from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

from utils.files import csv_text, short_name, write_text
from utils.metrics import ScoredFrames
from utils.protocols import OPERATING_POINT, operating_point
from utils.report.aside import Aside
from utils.report.writers import Writer
from utils.run_dir import make_folder
from utils.tracks.linking import Linker
from utils.tracks.reach import near_pixels, score_centroids

_HALF = 0.5
_COLUMNS = ("sequence", "id", "first_frame", "last_frame", "detections", "mean_score", "false")


@dataclass
class TrackCounts:
    """Integers of some sequences; `protocol` are the protocol's counts of kept detections.

    Attributes:
        tracks: kept, of all sequences.
        left_out: detections of these that came too long before their track was known to be kept.
        targets, found, false: of sequences with truth: tracks of targets, those of them that were
            found, false tracks.
        frames: of these sequences, by frames a second.
    """

    tracks: int = 0
    left_out: int = 0
    targets: int = 0
    found: int = 0
    false: int = 0
    frames: Counter = field(default_factory=Counter)
    protocol: object = None

    @property
    def minutes(self):
        return sum(count / rate for rate, count in sorted(self.frames.items())) / 60

    def __add__(self, other):
        names = "tracks", "left_out", "targets", "found", "false", "frames"
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        both = [each.protocol for each in (self, other) if each.protocol is not None]
        protocol = sum(both[1:], both[0]) if both else None
        return TrackCounts(**sums, protocol=protocol)


@dataclass
class _Tally:
    """Of one track: its first frame that is written, its detections, the sum of their scores, how
    many are false alarms; of a target's track: the frames it was there, and was found in."""

    first: int = 0
    seen: int = 0
    score: float = 0.0
    marked: int = 0


@dataclass(frozen=True)
class _Frame:
    """A frame that waits until it is known which of its tracks are kept.

    Attributes:
        index: in its sequence.
        shape: (H, W).
        pixels: (n,) flat indices of the pixels of its detections that are marked.
        owner: (n,) the detection that each belongs to.
        boxes: (k, 4) first and last row, first and last column of each detection, marked or not.
        scores: (k,) their highest scores.
        tracks: their k tracks.
        truth: flat indices of the pixels of (centroids, masks); None without truth.
    """

    index: int
    shape: tuple
    pixels: np.ndarray
    owner: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    tracks: list
    truth: tuple | None


@dataclass
class _Sequence:
    """One sequence under way."""

    name: str
    linker: Linker
    target_linker: Linker
    file: Aside
    rate: float  # frames a second
    waiting: deque = field(default_factory=deque)
    kept: dict = field(default_factory=dict)  # track: _Tally
    targets: dict = field(default_factory=dict)  # track of a target: _Tally


class Tracks(Writer):
    """Writes tracks of a test and counts them.

    In the folder: `<sequence>.txt`, a line for each detection of a kept track in MOTChallenge form,
    `frame,id,left,top,width,height,score,-1,-1,-1`, frames and pixels from 1, by frame; and
    `tracks.csv`, a row for each track, with the frames' own numbers. A detection becomes final when
    it is known whether its track is kept; until then its frame waits, as `TrackOptions` says.

    Args:
        folder: where to.
        threshold: a pixel is positive if its score is at least this.
        protocol: `utils.protocols.Protocol` that tells targets found and false alarms.
        options: `TrackOptions`.

    Attributes:
        counts: `TrackCounts`, of all processes once they have shared.
    """

    def __init__(self, folder, threshold, protocol, options):
        self.folder, self.threshold = make_folder(folder), threshold
        self.protocol, self.options = protocol, options
        self.counts = TrackCounts()
        self.rows = []  # of tracks.csv: a list for each sequence
        self.sequence = None

    def add(self, block):
        options = self.options
        if self.sequence is None:
            linkers = (Linker(options.gate, options.gap) for _ in range(2))
            path = self.folder / f"{short_name(block.sequence.name)}.txt"
            rate = options.rate_of(block.sequence)
            self.sequence = _Sequence(block.sequence.name, *linkers, Aside(path), rate)
        linker, decided = self.sequence.linker, []
        for frame in linked_frames(block, self.threshold, options, linker):
            self.sequence.waiting.append(frame)
            decided += self._release()  # at once: a later frame must not change what is kept
        self._write(decided)

    def _release(self):
        """The first waiting frames of which all tracks are decided: (frame, which are kept)."""
        decided, waiting, latest = [], self.sequence.waiting, self.sequence.linker.frame
        while waiting and self.options.decides(waiting[0], latest):
            frame = waiting.popleft()
            decided.append((frame, np.array([*map(self.options.keeps, frame.tracks)], bool)))
        return decided

    def _write(self, decided):
        """Counts and writes what `_release` gave."""
        if not decided:
            return
        ready, kept = zip(*decided, strict=True)
        false = [np.zeros(len(frame.tracks), bool) for frame in ready]
        if ready[0].truth is not None:
            false = self._count(ready, kept)
        lines = []
        for frame, keep, wrong in zip(ready, kept, false, strict=True):
            for place in np.flatnonzero(keep).tolist():
                track = frame.tracks[place]
                if track.number is None:
                    track.number = len(self.sequence.kept) + 1
                tally = self.sequence.kept.setdefault(track, _Tally(frame.index))
                tally.seen += 1
                tally.score += float(frame.scores[place])
                tally.marked += int(wrong[place])
                top, bottom, left, right = frame.boxes[place].tolist()
                box = f"{left + 1},{top + 1},{right - left + 1},{bottom - top + 1}"
                score = f"{frame.scores[place]:.6g}"
                lines.append(f"{frame.index + 1},{track.number},{box},{score},-1,-1,-1\n")
        self.sequence.file.write("".join(lines).encode())

    def _count(self, ready, kept):
        """Counts frames with truth: for each, which of its detections are false alarms."""
        shape = len(ready), *ready[0].shape
        scores, truth = np.zeros(shape, np.float32), np.zeros((2, *shape), np.uint8)
        for place, (frame, keep) in enumerate(zip(ready, kept, strict=True)):
            scores[place].ravel()[frame.pixels[keep[frame.owner]]] = 1
            for labels, pixels in zip(truth, frame.truth, strict=True):
                labels[place].ravel()[pixels] = 1
        block = ScoredFrames(scores, *truth)
        frames = Counter({self.sequence.rate: len(ready)})
        self.counts += TrackCounts(frames=frames, protocol=self.protocol.count(block))
        self._link_targets(block)
        alarms = self.protocol.alarms(block, OPERATING_POINT)
        return [
            np.bincount(frame.owner, ~alarms[place].ravel()[frame.pixels], len(frame.tracks)) == 0
            for place, frame in enumerate(ready)
        ]

    def _link_targets(self, block):
        """Links the targets of frames, and remembers in which of them each was found."""
        targets, found = block.targets(), self.protocol.found(block, OPERATING_POINT)
        size = np.bincount(targets.owner, minlength=targets.count)
        frame, row, column = (
            np.bincount(targets.owner, each, targets.count) / size for each in targets.pixels.T
        )
        for index in range(len(block)):
            own = np.flatnonzero(frame == index)
            positions = np.stack([row[own], column[own]], axis=1)
            tracks = self.sequence.target_linker.step(positions)
            for track, hit in zip(tracks, found[own], strict=True):
                tally = self.sequence.targets.setdefault(track, _Tally())
                tally.seen += 1
                tally.marked += int(hit)

    def end(self, sequence):
        self.sequence.linker.finish()
        self._write(self._release())
        done, self.sequence = self.sequence, None
        done.file.keep()
        false = [tally.marked > _HALF * tally.seen for tally in done.kept.values()]
        found = [tally.marked >= _HALF * tally.seen for tally in done.targets.values()]
        late = sum(track.count - tally.seen for track, tally in done.kept.items())
        self.counts += TrackCounts(len(false), late, len(found), sum(found), sum(false))
        self.rows.append([])
        for (track, tally), wrong in zip(done.kept.items(), false, strict=True):
            ends = sequence.numbers[tally.first], sequence.numbers[track.last]
            mean = f"{tally.score / tally.seen:.6g}"
            verdict = int(wrong) if sequence.labelled else ""
            self.rows[-1].append((done.name, track.number, *ends, tally.seen, mean, verdict))

    def abandon(self):
        if self.sequence is not None:
            self.sequence.file.drop()
            self.sequence = None

    def share(self, group):
        self.counts = sum(group.gather([self.counts]), TrackCounts())
        self.rows = group.gather(self.rows)

    def close(self):
        rows = [row for rows in self.rows for row in rows]
        write_text(self.folder / "tracks.csv", csv_text([_COLUMNS, *rows]))
        return [self.folder]

    def figures(self):
        """What is reported, by name: options, integers, and the protocol's figures; plain values.

        Of the kept detections' pixels, at the threshold of the test.
        """
        counts, options = self.counts, self.options
        report = {name: getattr(options, name) for name in options.__dataclass_fields__}
        report |= {"threshold": self.threshold, "tracks": counts.tracks}
        report["left_out"] = counts.left_out
        if counts.frames:
            (rate, *others) = counts.frames
            report["frame_rate"] = rate
            if others:
                report["frame_rate"] = counts.frames.total() / counts.minutes / 60
            report |= {"target_tracks": counts.targets, "found_tracks": counts.found}
            report |= {
                "false_tracks": counts.false,
                "false_tracks_a_minute": counts.false / counts.minutes,
            }
            place = operating_point(self.protocol.thresholds)
            figures = self.protocol.figures(counts.protocol)
            report[self.protocol.name] = {
                key: figures[key][place]
                for _, key, *_ in self.protocol.columns
                if isinstance(figures[key], list)
            }
        return report

    def lines(self):
        """The figures in words: lines of text."""
        options, report = self.options, self.figures()
        frames = "a frame" if options.min_track == 1 else f"{options.min_track} frames"
        sure = f", their highest score {options.min_score:g} or more" if options.min_score else ""
        marked = options.mark_reach
        reach = "" if marked is None else f", marked up to {marked:g} px from their centroids"
        lines = [
            f"{report['tracks']} tracks of {frames} or more{sure}, of detections of "
            f"{options.min_area} pixels or more at threshold {self.threshold:g}{reach}; gate "
            f"{options.gate:g} px, gaps up to {options.gap} frames"
        ]
        if self.counts.left_out:
            lines.append(
                f"{self.counts.left_out} detections of these are left out: they came more than "
                f"{options.patience} frames before their track was known to be kept"
            )
        if self.counts.frames:
            own = report[self.protocol.name]
            pixels = "  ".join(
                f"{title} {'-' if own[key] is None else f'{own[key] * factor:.{digits}f}'}"
                for title, key, factor, digits in self.protocol.columns
                if key in own
            )
            if pixels:  # some protocols have no figure at one threshold
                lines.append(f"{self.protocol.title}  detections of tracks  {pixels}")
            rate = f"{report['false_tracks_a_minute']:.2f}"
            ends = {f"{pick(self.counts.frames):.6g}" for pick in (min, max)}
            lines.append(
                f"{report['found_tracks']} of {report['target_tracks']} targets' tracks found; "
                f"{rate} false tracks a minute at {' to '.join(sorted(ends, key=float))} frames a "
                "second"
            )
        return lines


def linked_frames(block, threshold, options, linker):
    """Yields the frames of a block as `_Frame`s, with their detections linked.

    Args:
        block: `utils.evaluation.ScoredBlock`.
        threshold: a pixel is positive if its score is at least this.
        options: `TrackOptions`.
        linker: `Linker`, which has seen the frames before.
    """
    found, size = block.components(threshold), block.scores.shape
    frames, rows, columns = found.pixels.T
    scores = block.scores[frames, rows, columns].astype(np.float64)
    middles = score_centroids(found, scores)
    near = np.ones(len(frames), bool)
    if options.mark_reach is not None:
        near = near_pixels(found, middles, options.mark_reach, size)
    bounds = np.searchsorted(frames, np.arange(len(block) + 1))
    for index, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
        part = slice(start, stop)
        members, owner, area = np.unique(found.owner[part], return_inverse=True, return_counts=True)
        large = area >= options.min_area
        chosen = large[owner]
        owner = (np.cumsum(large) - 1)[owner[chosen]]
        pixels, marked = (rows[part][chosen], columns[part][chosen]), near[part][chosen]
        boxes, peaks = _measure(*pixels, scores[part][chosen], owner)
        tracks = linker.step(middles[members[large]])
        for track, peak in zip(tracks, peaks.tolist(), strict=True):
            track.peak = max(track.peak, peak)
        pixels, owner = tuple(each[marked] for each in pixels), owner[marked]
        truth = None
        if block.centroids is not None:
            masks = block.masks if block.masks is not None else block.centroids
            truth = tuple(np.flatnonzero(each[index]) for each in (block.centroids, masks))
        shape = block.scores.shape[1:]
        yield _Frame(
            block.start + index,
            shape,
            np.ravel_multi_index(pixels, shape),
            owner,
            boxes,
            peaks,
            tracks,
            truth,
        )


def _measure(rows, columns, scores, owner):
    """Of detections, as pixels (n,) of each its owner: edges and highest scores.

    Returns:
        (k, 4) first and last row, first and last column; (k,).
    """
    count = int(owner.max(initial=-1)) + 1
    edges = np.zeros((count, 4), dtype=int)
    for place, (values, outermost) in enumerate(
        ((rows, np.minimum), (rows, np.maximum), (columns, np.minimum), (columns, np.maximum))
    ):
        edges[owner, place] = values  # some value, from which the outermost is sought
        outermost.at(edges[:, place], owner, values)
    peaks = np.zeros(count)
    np.maximum.at(peaks, owner, scores)
    return edges, peaks
