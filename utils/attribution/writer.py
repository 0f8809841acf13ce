"""Writes, for some targets of each sequence, what their scores are due to, and the sum of it all.

`<folder>/<sequence>/<frame>.png`, `.npz` and `.mat` for each target (`<frame>_2` and so on for more
than one in a frame), `attribution.csv` with a line for each, `influence.npz` and `influence.png`
for all together.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.io import savemat
from tqdm import tqdm

from utils.attribution.explain import Explainer
from utils.attribution.figures import draw_attribution, draw_influence
from utils.attribution.maps import Influence, frame_influence, normalised_map
from utils.attribution.paths import PATHS
from utils.attribution.quadrature import Adaptive, Equidistant
from utils.attribution.scores import Passes, check_filter
from utils.attribution.summary import attribution_lines, row_of
from utils.attribution.targets import Choice, find_candidates
from utils.command_line import fraction, one_line, positive, word_or_pixel
from utils.files import csv_text, short_name, write_text, write_whole
from utils.report.page import Section
from utils.report.writers import Writer
from utils.run_dir import make_folder

AXES = (
    "attribution: (frame, row, column) of the excerpt whose first row and column are top and left, "
    "in frames of size (rows, columns), zero elsewhere; numbers: of the frames; pixels: (n, 2) row "
    "and column in the frames; deletion ... random_insertion: over shares 0, 0.1 ... 1"
)
INFLUENCE_AXES = (
    "sums, shares, counts: (attributed frame, reference frame) of a clip, counted from 0; "
    "influence, share: (offsets), reference less attributed frame"
)
SHOWN = 6  # figures of targets on the report's page


@dataclass(frozen=True)
class AttributionOptions:
    """How much is attributed, and how.

    Attributes:
        what: "targets", "alarms", or (frame number, row, column): see `find_candidates`.
        frames: most frames of a sequence.
        targets: most targets of a frame.
        path: of `utils.attribution.paths.PATHS`.
        points: of the published quadrature; None: as many as `tolerance` takes.
        tolerance: the completeness error.
    """

    what: str | tuple = "targets"
    frames: int = 1
    targets: int = 8
    path: str = "zero"
    points: int | None = None
    tolerance: float = 0.01

    def quadrature(self):
        return Adaptive(self.tolerance) if self.points is None else Equidistant(self.points)


def attribution_options(given):
    """The `AttributionOptions` of a command's parsed arguments."""
    names = ("of", "frames", "targets", "path", "points", "error")
    return AttributionOptions(*(getattr(given, f"attribution_{name}") for name in names))


def add_attribution_options(add):
    """Declares the options of a command that become `AttributionOptions`.

    Args:
        add: `argparse.ArgumentParser.add_argument`.
    """
    add(
        "--attribution",
        action="store_true",
        help="write to attribution/ what the scores of targets are due to: integrated gradients of "
        "some targets of each sequence, figures, and whether interventions agree",
    )
    add(
        "--attribution-of",
        type=word_or_pixel("targets", "alarms"),
        default="targets",
        metavar="WHAT",
        help="targets (detections where there are no masks), alarms: false ones, or one pixel: "
        "FRAME,ROW,COLUMN",
    )
    add("--attribution-frames", type=positive(int), default=1, help="most frames of a sequence")
    add("--attribution-targets", type=positive(int), default=8, help="most targets of a frame")
    add(
        "--attribution-path",
        choices=PATHS,
        default="zero",
        help="where the path to the clip starts: at the data set's mean level, at the blurred mean "
        "of time, or at black",
    )
    add(
        "--attribution-error",
        type=fraction,
        default=0.01,
        help="completeness error at which no more points of the path are added",
    )
    add(
        "--attribution-points",
        type=positive(int),
        help="so many equidistant points with both ends, as published, whatever the error",
    )


class Attributions(Writer):
    """Attributes targets of the sequences once all have been scanned; see the module.

    While the scan runs it notes which targets, see `utils.attribution.targets.Choice`; `share`
    attributes them, each process those of its own sequences, and brings together what all found.

    Args:
        folder: where to; made if missing.
        detector: any that can be differentiated, in evaluation mode.
        device: where it is.
        threshold: a pixel is a detection if its score is at least this.
        options: `AttributionOptions`.
        protocol: `utils.protocols.Protocol` that tells false alarms.

    Raises:
        ValueError: the detector has no gradient, or one point is no path.

    Attributes:
        rows: list of dicts, a line of attribution.csv each.
        influence: `utils.attribution.maps.Influence` of all.
        failures: lines, one for each sequence whose targets could not be attributed.
        stopped: what ended it early, Ctrl-C or a full disk for example, or None.
    """

    def __init__(self, folder, detector, device, threshold, options=None, protocol=None):
        check_filter(detector)
        self.folder = make_folder(Path(folder))
        self.detector, self.threshold, self.protocol = detector, threshold, protocol
        self.options = options or AttributionOptions()
        self.quadrature = self.options.quadrature()
        self.choice, self.pending = None, []
        self.rows, self.influence = [], Influence(detector.seqlen)
        self.passes, self.without, self.failures = Passes(), 0, []
        self.stopped = None

    def add(self, block):
        options = self.options
        if self.choice is None:
            self.choice = Choice(options.frames, options.targets, self.threshold)
        found = find_candidates(block, options.what, self.threshold, self.protocol)
        found = [target.scaled(block.scores.shape[1:], block.frames.shape[1:]) for target in found]
        self.choice.add(block.start, len(block.sequence), found)

    def end(self, sequence):
        if self.choice is not None:
            self.pending.append((sequence, self.choice.chosen()))
        self.choice = None

    def share(self, group):
        total = sum(len(targets) for _, targets in self.pending)
        explainer = Explainer(self.detector, self.options.path, self.quadrature)
        quiet = None if group.is_main else True
        ends = BaseException if group.size == 1 else Exception  # others would wait for this process
        with tqdm(total=total, desc="Attributing", unit="target", disable=quiet) as bar:
            for sequence, targets in self.pending:
                try:
                    self._attribute(explainer, sequence, targets, bar)
                except ValueError as error:  # the test's results are not lost for it
                    self.failures.append(f"{sequence.name}: {error}")
                except ends as error:  # nor for this: it is raised after they are written
                    self.failures.append(f"{sequence.name} and later ones: {one_line(error)}")
                    self.stopped = error
                    break
        self.without = sum(group.gather([sum(not targets for _, targets in self.pending)]))
        self.pending = []
        self.rows, self.failures = group.gather(self.rows), group.gather(self.failures)
        self.influence = sum(group.gather([self.influence]), Influence(self.detector.seqlen))
        self.passes = sum(group.gather([explainer.passes]), Passes())

    def _attribute(self, explainer, sequence, targets, bar):
        written = {}
        for found in explainer.explain(sequence, targets):
            count = written[found.number] = written.get(found.number, 0) + 1
            name = f"{found.number:05d}{'' if count == 1 else f'_{count}'}"
            place = make_folder(self.folder / short_name(sequence.name))
            save_arrays(place / f"{name}.npz", found)
            content = {"map_attribution": normalised_map(found.whole())}
            save = partial(savemat, mdict=content, do_compression=True)
            write_whole(place / f"{name}.mat", save, lasting=False)
            draw_attribution(place / f"{name}.png", found)
            self.influence.add(found.integral.attribution, found.target.frame, found.real)
            self.rows.append(row_of(found, f"{place.name}/{name}", self.threshold))
            bar.update()

    def close(self):
        if not self.rows:
            return [self.folder]
        table = [self.rows[0].keys(), *(row.values() for row in self.rows)]
        write_text(self.folder / "attribution.csv", csv_text(table))
        offsets, influence, share, counts = self.influence.curve()
        save_npz(
            self.folder / "influence.npz",
            axes=INFLUENCE_AXES,
            sums=self.influence.sums,
            shares=self.influence.shares,
            counts=self.influence.counts,
            offsets=offsets,
            influence=influence,
            share=share,
            attributions=counts,
        )
        curves = {f"mean of {len(self.rows)} targets": [(offsets, influence)]}
        draw_influence(self.folder / "influence.png", curves, "Influence of reference frames")
        return [self.folder]

    def end_as_stopped(self):
        """Raises what stopped the attribution early, if anything did, once results are written."""
        if self.stopped is not None:
            raise self.stopped

    def attribution_lines(self):
        """For the terminal."""
        lines = attribution_lines(self.rows, self.passes, self.without, self.options.what)
        return lines + [f"    not attributed: {line}" for line in self.failures]

    def as_dict(self):
        """For metrics.json: the summary's figures and the curve of `Influence`; None if nothing
        was attributed."""
        if not self.rows:
            return None
        offsets, influence, share, counts = self.influence.curve()
        return {
            "targets": self.rows,
            "forward_passes": self.passes.forward,
            "backward_passes": self.passes.backward,
            "offsets": offsets.tolist(),
            "influence": influence.tolist(),
            "share": share.tolist(),
            "attributions": counts.tolist(),
        }

    def section(self):
        """The `Section` of the report; after `close`."""
        figures = [
            (self.folder / f"{row['file']}.png", f"{row['sequence']}, frame {row['frame']}")
            for row in self.rows[:SHOWN]
        ]
        if self.rows:
            figures.insert(0, (self.folder / "influence.png", "Influence of reference frames"))
        return Section("What the scores are due to", self.attribution_lines(), figures)


def save_npz(path, **arrays):
    """Writes arrays to a compressed .npz, whole or not at all."""
    write_whole(path, partial(np.savez_compressed, **arrays), lasting=False)


def save_arrays(path, found):
    """Writes an `Attribution` as npz; its entry `axes` says what the axes are."""
    made = found.intervention
    curves = ("deletion", "insertion", "random_deletion", "random_insertion")
    save_npz(
        path,
        axes=AXES,
        attribution=found.integral.attribution.astype(np.float32),
        numbers=found.numbers,
        frame=found.number,
        pixels=found.target.pixels + (found.top, found.left),
        top=found.top,
        left=found.left,
        size=np.array(found.size),
        score=found.integral.end,
        start_score=found.integral.begin,
        influence=frame_influence(found.integral.attribution),
        **({} if made is None else {name: getattr(made, name) for name in curves}),
    )
