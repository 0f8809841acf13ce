"""What is written of a test while its sequences pass by in blocks: pictures, detections, exports.

However long a sequence is, a writer keeps a bounded part of it.
"""

import sys
import warnings
from functools import partial

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.files import remove_files, short_name, write_whole
from utils.metrics import find_targets
from utils.protocols.components import measure
from utils.report.aside import Aside
from utils.report.detections import centroid_lines, find_detections, table_head, table_rows
from utils.report.figures import draw_surface
from utils.report.marks import mark_frames
from utils.report.metrics_file import levels_text, normalisation_entry
from utils.report.overlay import Overlay
from utils.run_dir import make_folder

EXPORTS = ("centroids",)


class Writer:
    """Base of the writers: what happens to them, in order."""

    def add(self, block):
        """Takes the next `utils.evaluation.ScoredBlock` of the sequence that is under way."""

    def end(self, sequence):
        """The sequence has no more blocks."""

    def abandon(self):
        """The sequence under way, if any, ends early: what was written of it is taken back."""

    def share(self, group):
        """The test has no more sequences: the main process gets what all have collected.

        Args:
            group: the `utils.process.Group` whose processes shared the sequences.
        """

    def close(self):
        """Puts files in their places that are there whole or not at all: the paths of what was
        written. Comes last, and on the main process only.
        """
        return []


class ScoreMaps(Writer):
    """Writes `<folder>/<sequence>/<frame>.png`: 8-bit grey images, white for score 1.

    Args:
        folder: where to.
        unlabelled_only: leave out sequences that have masks.

    Attributes:
        count: sequences that were written, of all processes once they have shared.
    """

    def __init__(self, folder, unlabelled_only=False):
        self.folder, self.unlabelled_only = folder, unlabelled_only
        self.count, self.reached = 0, None  # the sequence under way, and where its maps end

    def add(self, block):
        if self.unlabelled_only and block.sequence.labelled:
            return
        folder = self.folder / short_name(block.sequence.name)
        if block.start == 0:
            make_folder(folder)
        self.reached = block.sequence, block.stop
        for number, scores in zip(block.numbers, block.scores, strict=True):
            levels = np.rint(np.clip(scores, 0, 1) * 255).astype(np.uint8)
            save = partial(Image.fromarray(levels).save, format="PNG", compress_level=1)
            write_whole(folder / f"{number:05d}.png", save, lasting=False)

    def end(self, sequence):
        self.count += not (self.unlabelled_only and sequence.labelled)
        self.reached = None

    def abandon(self):
        if self.reached is not None:
            sequence, stop = self.reached
            folder = self.folder / short_name(sequence.name)
            remove_files([folder / f"{number:05d}.png" for number in sequence.numbers[:stop]])

    def share(self, group):
        self.count = sum(group.gather([self.count]))

    def close(self):
        return [self.folder] if self.count else []


class Overlays(Writer):
    """Writes `<folder>/<sequence>.gif`: frames with marks; see `utils.report.overlay.Overlay`.

    Args:
        folder: where to.
        threshold: a pixel is positive if its score is at least this.
        protocol: `utils.protocols.Protocol` that tells false alarms from detections.
        unlabelled_only: leave out sequences that have masks.

    Attributes:
        count: sequences that were drawn, of all processes once they have shared.
    """

    def __init__(self, folder, threshold, protocol, unlabelled_only=False):
        self.folder, self.threshold, self.protocol = folder, threshold, protocol
        self.unlabelled_only = unlabelled_only
        self.overlay = None
        self.count = 0

    def add(self, block):
        if self.unlabelled_only and block.sequence.labelled:
            return
        if self.overlay is None:
            path = make_folder(self.folder) / f"{short_name(block.sequence.name)}.gif"
            self.overlay = Overlay(path, block)
        self.overlay.add(block, mark_frames(block, self.threshold, self.protocol))

    def end(self, sequence):
        if self.overlay is not None:
            self.overlay.close()
            self.overlay = None
            self.count += 1

    def abandon(self):
        if self.overlay is not None:
            self.overlay.drop()
            self.overlay = None

    def share(self, group):
        self.count = sum(group.gather([self.count]))

    def close(self):
        return [self.folder] if self.count else []


class Surfaces(Writer):
    """Writes `<folder>/<sequence>_<frame>.png`: the scores of a frame as a surface.

    Args:
        folder: where to.
        numbers: of the frames that are drawn, of every sequence that has them.
    """

    def __init__(self, folder, numbers):
        self.folder, self.numbers, self.drawn = folder, set(numbers), []
        self.paths = []  # of the sequence under way

    def add(self, block):
        for number, scores, centroids in zip(
            block.numbers,
            block.scores,
            np.zeros_like(block.scores) if block.centroids is None else block.centroids,
            strict=True,
        ):
            if number in self.numbers:
                name = block.sequence.name
                targets = measure(find_targets(centroids[None])).centroid
                path = make_folder(self.folder) / f"{short_name(name)}_{number:05d}.png"
                self.paths.append(path)
                draw_surface(path, scores, targets, f"Scores of {name}, frame {number}")
                self.drawn.append(number)

    def end(self, sequence):
        self.paths = []

    def abandon(self):
        del self.drawn[len(self.drawn) - len(self.paths) :]
        remove_files(self.paths)

    def share(self, group):
        self.drawn = group.gather(self.drawn)

    def close(self):
        missing = sorted(self.numbers - set(self.drawn))
        if missing:
            warnings.warn(f"--surface: no sequence has a frame {missing[0]}", stacklevel=1)
        return [self.folder] if self.drawn else []


class Detections(Writer):
    """Writes detections.csv and, on request, a text file of centroids for each sequence.

    Args:
        table: path of detections.csv, or None.
        threshold: a pixel is positive if its score is at least this.
        centroids: folder of the text files, or None.
        order: a key of `utils.report.detections.COORDINATE_ORDERS`, of the text files.

    Attributes:
        count: detections so far, of all processes once they have shared.

    Raises:
        OSError: a place cannot be written to; before any sequence.
    """

    def __init__(self, table, threshold, centroids=None, order="rowcol"):
        self.threshold, self.order = threshold, order
        self.path, self.table, self.centroids = table, None, None
        if table is not None:
            self.table = Aside(table)
            self.table.write(table_head().encode())
            self.ends = [self.table.size()]  # where the head and each sequence's rows end
        self.kept = 0  # detections of sequences that have ended
        if centroids is not None:
            self.centroids = make_folder(centroids)
        self.text = None
        self.count = 0

    def add(self, block):
        if self.table is None and self.centroids is None:
            return
        found = find_detections(block, self.threshold)
        self.count += len(found)
        if self.table is not None:
            self.table.write(_table_rows_of(block, found).encode())
        if self.centroids is not None:
            if self.text is None:
                self.text = Aside(self.centroids / f"{short_name(block.sequence.name)}.txt")
            self.text.write(centroid_lines(found, block.numbers, self.order).encode())

    def end(self, sequence):
        self.kept = self.count
        if self.table is not None:
            self.ends.append(self.table.size())
        if self.text is not None:
            self.text.keep()
            self.text = None

    def abandon(self):
        self.count = self.kept
        if self.table is not None:
            self.table.cut(self.ends[-1])
        if self.text is not None:
            self.text.drop()
            self.text = None

    def share(self, group):
        self.count = sum(group.gather([self.count]))
        if self.table is None or group.size == 1:
            return
        joined = Aside(self.path) if group.is_main else None
        if joined is not None:
            joined.write(table_head().encode())
        # The processes took the sequences in turns; they show one each at a time, to keep few rows
        # in memory.
        for turn in range(max(group.gather([len(self.ends) - 1]))):
            for rows in group.gather([self._rows(turn)]):
                if joined is not None:
                    joined.write(rows)
        self.table.drop()
        self.table = joined

    def _rows(self, sequence):
        """The rows of this process's n-th sequence, as bytes; none where there is none."""
        if sequence + 1 >= len(self.ends):
            return b""
        return self.table.read(self.ends[sequence], self.ends[sequence + 1])

    def close(self):
        if self.table is not None:
            self.table.keep()
        return [path for path in (self.path, self.centroids) if path is not None]


def _table_rows_of(block, found):
    names = block.sequence.file_names or ()
    files = dict(zip(block.numbers, names[block.start : block.stop], strict=False))
    return table_rows(block.sequence.name, found, files)


class Printed(Writer):
    """Prints the rows of detections.csv as they become final.

    Args:
        threshold: a pixel is positive if its score is at least this.
    """

    def __init__(self, threshold):
        self.threshold, self.begun = threshold, False

    def add(self, block):
        rows = _table_rows_of(block, find_detections(block, self.threshold))
        if not self.begun:
            rows, self.begun = table_head() + rows, True
        for row in rows.splitlines():
            tqdm.write(row, file=sys.stdout)  # not into a bar
        sys.stdout.flush()


def live_line(delay, frame_rate, patience):
    """Says when what is found in frames that arrive is final.

    Args:
        delay: frames after a frame, at most, until its detections are.
        frame_rate: frames a second.
        patience: frames more, at most, until its tracks are; None where none are sought.
    """
    line = f"Live: detections are final at most {delay} frames later, {delay / frame_rate:.1f} s "
    line += f"at {frame_rate:g} a second"
    if patience is not None:
        line += f"; tracks {patience} frames after them, {patience / frame_rate:.1f} s more; "
        line += "they are in files when the frames end"
    return line


class Normalisations(Writer):
    """Remembers the mean and standard deviation that each sequence was normalised with."""

    def __init__(self):
        self.found = {}

    def end(self, sequence):
        self.found[sequence.name] = sequence.normalisation

    def share(self, group):
        self.found = dict(group.gather(list(self.found.items())))

    def line(self):
        """The mean and deviation in words: of the one sequence, or the span of many."""
        return levels_text(*zip(*self.found.values(), strict=True))

    def entry(self):
        """The mean and deviation for metrics.json."""
        return normalisation_entry(self.found)
