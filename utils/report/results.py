"""What a test writes: metrics.json, eval.txt in the published format, the closing summary."""

import math
import os
import re
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from utils.command_line import one_line
from utils.files import hold, renewed, write_text
from utils.protocols import MAIN, OPERATING_POINT, PROTOCOLS
from utils.report.metrics_file import STEPS, SUBSETS, column_texts, shown_at, write_metrics
from utils.report.page import write_report
from utils.report.published import (
    PROTOCOL_NOTE,
    compare_targets,
    model_title,
    protocol_title,
    published_row,
)
from utils.run_dir import make_folder

RESULTS_PART = "results"
UNNUMBERED = ("visual", "attribution")  # folders of pictures
HELD = ".in_use"  # of a folder: held by the test that writes there
# In eval.txt before a protocol's name, on what is an empty line in the published files.
PROTOCOL_MARK = "# protocol "
EVAL_TITLES = {"low_snr": "Low SNR", "high_snr": "High SNR", "all": "Final"}  # as published


@dataclass
class Tested:
    """A detector to be tested.

    Attributes:
        run: name of its run, or of its file of weights.
        name: of the model.
        detector: the network as trained, in evaluation mode.
        folder: where its results go.
        normalisation: (mean, std) that its run was trained with on this data set in place of the
            data set's own, or None.
        stabilise: whether frames are laid on each other first.
    """

    run: str
    name: str
    detector: object
    folder: Path
    normalisation: tuple | None = None
    stabilise: bool = False


def header(tested, dataset, threshold_eval, normalisation=None, mark_reach=None):
    """The first keys of metrics.json: what was tested, on what, at which threshold of the IoU.

    Args:
        tested: `Tested`.
        dataset: its name.
        normalisation: from `utils.report.metrics_file.normalisation_entry`; None: not known.
        mark_reach: pixels that the marks of detections reach; None: all were marked.
    """
    known = {} if normalisation is None else {"normalisation": normalisation}
    return {
        "run": tested.run,
        "model": tested.name,
        "dataset": dataset,
        "seqlen": tested.detector.seqlen,
        "threshold_eval": threshold_eval,
        "stabilised": tested.stabilise,
        "mark_reach": mark_reach,
        **known,
    }


def figures_and_summary(evaluation, subsets, about):
    """(contents of metrics.json, lines for the terminal); where nothing has masks None, the time.

    Args:
        evaluation, subsets, about: as in `summarise`; of any sequences.
    """
    if not evaluation.sequences:
        return None, [f"  {timing_line(evaluation.timing)}"]
    metrics = summarise(evaluation, subsets, about)
    return metrics, summary_lines(metrics)


def summarise(evaluation, subsets, about):
    """The contents of metrics.json.

    Args:
        evaluation: `utils.evaluation.Evaluation`, of one sequence or more.
        subsets: {"low_snr": names, "high_snr": names}, or {}.
        about: from `header`.

    Returns:
        A dict of plain values; counts are integers, lists run over the protocol's `thresholds`,
        a ratio without denominator is None.
    """
    subsets = {**subsets, "all": [result.name for result in evaluation.sequences]}
    return {
        **about,
        "thresholds": list(PROTOCOLS[MAIN].thresholds),
        "iou": evaluation.iou(),
        "protocols": {
            protocol.name: _summarise_protocol(evaluation, protocol, subsets)
            for protocol in evaluation.protocols
        },
        "timing": timing_block(evaluation.timing),
    }


def _summarise_protocol(evaluation, protocol, subsets):
    def entry(counts):
        return {**counts.as_dict(), **protocol.figures(counts)}

    return {
        "thresholds": list(protocol.thresholds),
        "sequences": {
            result.name: {"frames": result.frames, **entry(result.counts[protocol.name])}
            for result in evaluation.sequences
        },
        "subsets": {
            subset: {"sequences": list(names), **entry(evaluation.counts(protocol.name, names))}
            for subset, names in subsets.items()
        },
    }


def part_of_results(path):
    """Which part of a test's results a file is of; see `utils.files.renewed`.

    All are one, each epoch's of its own: nothing old stands beside new numbers. Pictures, whose
    folders name no epoch, belong to the results of the best checkpoint, and go by themselves where
    only they are written anew.

    Args:
        path: `PurePosixPath`, relative to the folder of the results.
    """
    name = path.parts[0]
    if name in UNNUMBERED:
        return f"{RESULTS_PART}/{name}"
    epoch = re.search(r"_epoch-\d+(?=(\.\w+)?$)", name)
    return RESULTS_PART if epoch is None else f"{RESULTS_PART}{epoch[0]}"


@contextmanager
def results_in(folder, active=True, suffix=""):
    """Within it a test writes its results to a folder: see `utils.files.renewed`.

    After an error nothing is removed, but it is said that what is there is not of one test.

    Raises:
        ValueError: another process does so.
    """
    make_folder(folder)
    held = _held(folder) if active else nullcontext()
    with held, renewed(folder, part_of_results, active) as paths:
        try:
            yield paths
        except BaseException as error:
            if active and any(map(os.path.exists, paths)):
                names = {Path(os.path.relpath(path, folder)).parts[0] for path in paths}
                tell_early(folder, suffix, error, f"Files of it: {', '.join(sorted(names))}")
            raise


def tell_early(folder, suffix, error, *lines):
    """Says in unfinished<suffix>.txt that a test ended early, and what is of it; if there is room.

    The next test that ends in order removes it.
    """
    head = f"This test ended early: {one_line(error)}"
    others = "Other files here may be of an earlier test."
    with suppress(OSError):
        write_text(folder / f"unfinished{suffix}.txt", "\n".join([head, *lines, others, ""]))


def keep_finished(tested, suffix, names, evaluation, error, writers):
    """Writes what a test finished before an error, and says so: tables, tracks, pictures.

    Figures are not written: those of a part could be taken for those of the whole.

    Args:
        tested: `Tested`.
        suffix: of the names of its results.
        names: of all sequences.
        evaluation: `utils.evaluation.Evaluation` of those that were finished.
        error: that ended it; None where that was in another process.
        writers: that took them; each is closed, unless nothing was finished.
    """
    done = [result.name for result in evaluation.results]
    if not done:
        return
    missing = ", ".join(name for name in names if name not in done)
    written = [path for writer in writers for path in writer.close()]
    files = ", ".join(dict.fromkeys(path.name for path in written))
    line = f"  {len(done)} of {len(names)} sequences were finished; missing: {missing}. No figures "
    if not written:  # and what an earlier test wrote stays
        print(f"{line}are written of a part", flush=True)
        return
    print(f"{line}are written of a part, but to {tested.folder}: {files}", flush=True)
    error = error or "see the message of another process"
    tell_early(tested.folder, suffix, error, f"Finished: {', '.join(done)}", f"Missing: {missing}")


@contextmanager
def _held(folder):
    with (folder / HELD).open("a") as file:
        if not hold(file):
            raise ValueError(
                f"{folder}: another test writes its results there; wait for its end, or choose "
                "another folder with --output"
            )
        try:
            yield
        finally:
            with suppress(OSError):  # where open files cannot be removed it stays
                (folder / HELD).unlink()


def write_results(output, suffix, metrics, strips, protocol, more=()):
    """Writes eval<suffix>.txt, metrics<suffix>.json and report<suffix>.html; returns their paths.

    Args:
        output: the folder.
        suffix: of their names.
        metrics: from `summarise`.
        strips: from `utils.report.highlights.Highlights`.
        protocol: `utils.protocols.Protocol` of eval.txt, by which the strips were judged, too.
        more: `utils.report.page.Section`s to add to the report.
    """
    kinds = (("eval", "txt"), ("metrics", "json"), ("report", "html"))
    paths = [output / f"{stem}{suffix}.{kind}" for stem, kind in kinds]
    write_eval(paths[0], metrics, protocol)
    write_metrics(paths[1], metrics)
    write_report(paths[2], metrics, strips, protocol, more)
    return paths


def write_eval(path, metrics, protocol):
    """Writes eval.txt, under one protocol: in the published format where it counts as published.

    Behind the first title, where the published files have an empty line, the protocol's name
    stands: readers of titles and counts pass over it, and no line moves.

    Args:
        path: the file.
        metrics: from `summarise`.
        protocol: `utils.protocols.Protocol`.
    """
    counted = metrics["protocols"][protocol.name]
    lines = ["---- EVALUATION----"]
    for name, sequence in counted["sequences"].items():
        mark = f"\n{PROTOCOL_MARK}{protocol.name}" if len(lines) == 1 else "\n"
        lines += [f"{name} results:{mark}", *_threshold_lines(protocol, sequence)]
    for subset in (name for name in EVAL_TITLES if name in counted["subsets"]):
        entry = counted["subsets"][subset]
        single = [
            f"\t{title}:{_number(entry[key]):.5f}"
            for title, key, _, _ in protocol.columns
            if not isinstance(entry[key], list)
        ]
        lines += [f"{EVAL_TITLES[subset]} results:{''.join(single)}\n"]
        lines += _threshold_lines(protocol, entry)
    lines.append(f"Eval avg class IoU of prediction: {metrics['iou']:.6f}")
    stamp = f"{datetime.now():%Y-%m-%d %H:%M:%S,%f}"[:-3]
    write_text(path, "".join(f"{stamp} - Model - INFO - {line}\n" for line in lines))


def _threshold_lines(protocol, entry):
    """A line for each threshold: counts and ratios as published; of other protocols the figures."""
    published = {"targets", "pixels", "detected", "false_alarm_pixels"} <= entry.keys()
    grids = {title: entry[key] for title, key, *_ in protocol.columns}
    grids = {title: figures for title, figures in grids.items() if isinstance(figures, list)}
    if not grids:  # its columns sum up what runs over the thresholds
        lists = {key: each for key, each in entry.items() if isinstance(each, list)}
        grids = {key: each for key, each in lists.items() if key != "sequences"}
    lines = []
    for index, threshold in enumerate(protocol.thresholds):
        if published:
            found, alarms = (entry[key][index] for key in ("detected", "false_alarm_pixels"))
            targets, pixels = entry["targets"], entry["pixels"]
            pd = found / targets if targets else math.nan
            words = [f"PD:[{found}/{targets}, {pd:.5f}]", f"FA:[{alarms}, {alarms / pixels:e}]"]
        else:
            words = [f"{title}:[{_number(each[index]):g}]" for title, each in grids.items()]
        lines.append("\t".join([f"Th_Seg = {threshold:e}:", *words]) + "\n")
    return lines


def _number(figure):
    return math.nan if figure is None else figure


def summary_lines(metrics):
    """The closing summary for the terminal: a line for each protocol and subset, published rows."""
    columns = dict.fromkeys(c for name in metrics["protocols"] for c in PROTOCOLS[name].columns)
    lines = [
        f"{model_title(metrics['model'])} on {metrics['dataset']}, IoU at "
        f"{metrics['threshold_eval']}: {metrics['iou']:.4f}   ({shown_at(columns)})"
    ]
    reach = metrics.get("mark_reach")
    if reach is not None:
        lines.append(
            f"  detections marked up to {reach:g} px from their centroids (--mark_reach), at "
            f"thresholds below {OPERATING_POINT} as a whole"
        )
    comparison, beside = compare_targets(metrics), False
    width = max(len(PROTOCOLS[name].title) for name in metrics["protocols"])
    for name, counted in metrics["protocols"].items():
        protocol = PROTOCOLS[name]
        for subset in (subset for subset in SUBSETS if subset in counted["subsets"]):
            texts = column_texts(protocol, counted, counted["subsets"][subset])
            figures = "  ".join(f"{title} {text}" for title, text in texts)
            line = f"  {protocol.title:{width}}  {SUBSETS[subset]:8}  {figures}"
            row = published_row(metrics["dataset"], subset, metrics["model"])
            if row is not None and comparison.comparable and name == (row.protocol or MAIN):
                line += f"   published: Pd {row.pd:.2f}  Fa {row.fa:.2f}  AUC {row.auc:.4f}"
                line += "" if row.protocol else f" (protocol {protocol_title(row)})"
                beside = True
            lines.append(line)
    lines.append(f"  {PROTOCOL_NOTE if beside else comparison.note}")
    lines.append(f"  {_timing_words(metrics['timing'])}")
    return lines


def timing_line(timing):
    """Where the time went, in one line, from `utils.evaluation.Timing`."""
    return _timing_words(timing_block(timing))


def timing_block(timing):
    """The timing block of metrics.json from `utils.evaluation.Timing`."""
    return {
        **{f"{step}_seconds": getattr(timing, step) for step in (*STEPS, "total")},
        "sequences": timing.sequences,
        "frames": timing.frames,
        "frames_per_second": timing.frames / timing.total if timing.total else None,
    }


def _timing_words(timing):
    steps = (f"{step} {timing[f'{step}_seconds']:.1f} s" for step in STEPS)
    # Said of several: files that were meant as frames of one sequence may be one each.
    of = f" of {timing['sequences']} sequences" if timing["sequences"] > 1 else ""
    return (
        f"{timing['frames']} frames{of} in {timing['total_seconds']:.1f} s, "
        f"{timing['frames_per_second'] or 0:.1f} frames/s: {', '.join(steps)}, side by side"
    )
