"""What a test writes: metrics.json, eval.txt in the published format, the closing summary."""

import math
import re
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from utils.files import hold, renewed, write_text
from utils.protocols import MAIN, PROTOCOLS
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

HELD = ".in_use"  # of a folder: held by the test that writes there
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


def header(tested, dataset, threshold_eval):
    """The first keys of metrics.json: what was tested, on what, at which threshold of the IoU.

    Args:
        tested: `Tested`.
        dataset: its name.
    """
    return {
        "run": tested.run,
        "model": tested.name,
        "dataset": dataset,
        "seqlen": tested.detector.seqlen,
        "threshold_eval": threshold_eval,
        "stabilised": tested.stabilise,
    }


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

    Files of numbers, tracks and pages are one, each epoch's of its own; pictures and other tables
    are by folder.

    Args:
        path: `PurePosixPath`, relative to the folder of the results.
    """
    name = path.parts[0]
    page = re.fullmatch(r"(?:eval|metrics|report|detections|tracks)(_epoch-\d+)?(?:\.\w+)?", name)
    return name if page is None else f"results{page[1] or ''}"


@contextmanager
def results_in(folder, active=True):
    """Within it a test writes its results to a folder: see `utils.files.renewed`.

    Raises:
        ValueError: another process does so.
    """
    make_folder(folder)
    held = _held(folder) if active else nullcontext()
    with held, renewed(folder, part_of_results, active) as paths:
        yield paths


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

    Args:
        path: the file.
        metrics: from `summarise`.
        protocol: `utils.protocols.Protocol`.
    """
    counted = metrics["protocols"][protocol.name]
    lines = ["---- EVALUATION----"]
    for name, sequence in counted["sequences"].items():
        lines += [f"{name} results:\n", *_threshold_lines(protocol, sequence)]
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
        "frames": timing.frames,
        "frames_per_second": timing.frames / timing.total if timing.total else None,
    }


def _timing_words(timing):
    steps = (f"{step} {timing[f'{step}_seconds']:.1f} s" for step in STEPS)
    return (
        f"{timing['frames']} frames in {timing['total_seconds']:.1f} s, "
        f"{timing['frames_per_second'] or 0:.1f} frames/s: {', '.join(steps)}, side by side"
    )
