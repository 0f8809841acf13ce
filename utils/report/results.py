"""What a test writes: eval.txt in the published format, metrics.json, the closing summary."""

import json
import math
from datetime import datetime
from pathlib import Path

from utils.files import write_text
from utils.metrics import THRESHOLDS
from utils.protocols import PROTOCOLS
from utils.report.published import PROTOCOL_NOTE, comparison_note, is_comparable, published_row

SUBSET_TITLES = {"low_snr": "Low SNR", "high_snr": "High SNR", "all": "Final"}
OPERATING_POINT = THRESHOLDS.index(0.5)
STEPS = ("reading", "network", "scoring", "output")


def summarise(evaluation, subsets, run, model, dataset, seqlen, threshold_eval):
    """The contents of metrics.json.

    Args:
        evaluation: `utils.evaluation.Evaluation`.
        subsets: {"low_snr": names, "high_snr": names}, or {}.
        run, model, dataset, seqlen, threshold_eval: as the file records them.

    Returns:
        A dict of plain values; counts are integers, arrays run over `thresholds`, a ratio
        without denominator is None.
    """
    everything = [result.name for result in evaluation.sequences]
    return {
        "run": run,
        "model": model,
        "dataset": dataset,
        "seqlen": seqlen,
        "threshold_eval": threshold_eval,
        "thresholds": list(THRESHOLDS),
        "iou": evaluation.iou(),
        "protocols": {
            protocol: {
                "sequences": {
                    result.name: {"frames": result.frames, **_counts(result.curves[protocol])}
                    for result in evaluation.sequences
                },
                "subsets": {
                    subset: {
                        "sequences": list(names),
                        **_with_ratios(evaluation.curve(protocol, names)),
                    }
                    for subset, names in {**subsets, "all": everything}.items()
                },
            }
            for protocol in PROTOCOLS
        },
        "timing": timing_block(evaluation.timing),
    }


def write_metrics(path, metrics):
    """Writes metrics.json whole or not at all."""
    write_text(path, json.dumps(metrics, indent=1, allow_nan=False) + "\n")


def read_metrics(path):
    """Reads a metrics.json.

    Raises:
        ValueError: it is not one.
    """
    try:
        metrics = json.loads(Path(path).read_text("utf-8"))
        metrics["protocols"], metrics["thresholds"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a metrics.json of test.py ({error})") from error
    return metrics


def write_eval(path, metrics, protocol):
    """Writes eval.txt in the published format, under one protocol.

    Args:
        path: the file.
        metrics: from `summarise`.
        protocol: a key of `PROTOCOLS`.
    """
    counts = metrics["protocols"][protocol]
    lines = ["---- EVALUATION----"]
    for name, sequence in counts["sequences"].items():
        lines += [f"{name} results:\n", *_threshold_lines(sequence)]
    for subset in ("low_snr", "high_snr", "all"):
        if subset in counts["subsets"]:
            summed = counts["subsets"][subset]
            auc = math.nan if summed["auc"] is None else summed["auc"]
            lines += [f"{SUBSET_TITLES[subset]} results:\tAUC:{auc:.5f}\n"]
            lines += _threshold_lines(summed)
    lines.append(f"Eval avg class IoU of prediction: {metrics['iou']:.6f}")
    stamp = f"{datetime.now():%Y-%m-%d %H:%M:%S,%f}"[:-3]
    write_text(path, "".join(f"{stamp} - Model - INFO - {line}\n" for line in lines))


def summary_lines(metrics):
    """The closing summary for the terminal, at most nine lines: both protocols, published rows."""
    lines = [
        f"{metrics['model']} on {metrics['dataset']}, threshold 0.5, "
        f"IoU at {metrics['threshold_eval']}: {metrics['iou']:.4f}   (Pd in %, Fa in 1e-5)"
    ]
    comparable, compared = is_comparable(metrics), False
    for protocol, counts in metrics["protocols"].items():
        hit, guard = PROTOCOLS[protocol]
        for subset in ("low_snr", "high_snr", "all"):
            if subset not in counts["subsets"]:
                continue
            summed = counts["subsets"][subset]
            line = (
                f"  hit {hit}, guard {guard}  {subset.replace('_', ' '):8}  "
                f"Pd {_scaled(summed['pd'], 100)}  Fa {_scaled(summed['fa'], 1e5)}  "
                f"AUC {_number(summed['auc'], 4)}"
            )
            row = published_row(metrics["dataset"], subset, metrics["model"])
            if row is not None and row.protocol == protocol and comparable:
                line += f"   published: Pd {row.pd:.2f}  Fa {row.fa:.2f}  AUC {row.auc:.4f}"
                compared = True
            lines.append(line)
    lines.append(f"  {PROTOCOL_NOTE if compared else comparison_note(metrics)}")
    lines.append(f"  {timing_line(metrics['timing'])}")
    return lines


def timing_line(timing):
    """Where the time went, in one line; `timing` is that of `summarise`."""
    steps = (f"{step} {timing[f'{step}_seconds']:.1f} s" for step in STEPS)
    return (
        f"{timing['frames']} frames in {timing['total_seconds']:.1f} s, "
        f"{timing['frames_per_second'] or 0:.1f} frames/s: {', '.join(steps)}, side by side"
    )


def timing_block(timing):
    """The timing block of metrics.json from `utils.evaluation.Timing`."""
    return {
        **{f"{step}_seconds": getattr(timing, step) for step in (*STEPS, "total")},
        "frames": timing.frames,
        "frames_per_second": timing.frames / timing.total if timing.total else None,
    }


def _counts(curve):
    return {
        "pixels": int(curve.pixels),
        "targets": int(curve.targets),
        "detected": curve.detected.tolist(),
        "false_alarm_pixels": curve.false_alarm_pixels.tolist(),
    }


def _with_ratios(curve):
    return {
        **_counts(curve),
        "pd": [_finite(value) for value in curve.pd()],
        "fa": [_finite(value) for value in curve.fa()],
        "auc": _finite(curve.auc()),
    }


def _threshold_lines(counts):
    targets, pixels = counts["targets"], counts["pixels"]
    lines = []
    rows = zip(THRESHOLDS, counts["detected"], counts["false_alarm_pixels"], strict=True)
    for threshold, detected, alarms in rows:
        pd = detected / targets if targets else math.nan
        lines.append(
            f"Th_Seg = {threshold:e}:\tPD:[{detected}/{targets}, {pd:.5f}]\t"
            f"FA:[{alarms}, {alarms / pixels:e}]\n"
        )
    return lines


def _finite(value):
    return float(value) if math.isfinite(value) else None


def _scaled(values, factor):
    value = values[OPERATING_POINT]
    return _number(None if value is None else value * factor, 2)


def _number(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"
