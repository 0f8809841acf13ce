"""Published files of counts: Pd and Fa at every threshold of every sequence, as text."""

import re
from pathlib import Path

from utils.metrics import PdFaCurve
from utils.protocols import OPERATING_POINT, find_by_guard
from utils.report.results import EVAL_TITLES

COUNTS_LINE = re.compile(
    r"Th_Seg = (?P<threshold>\S+):\s*PD:\[(?P<detected>\d+)/(?P<targets>\d+), \S+\]\s*"
    r"FA:\[(?P<alarms>\d+), (?P<fa>\S+)\]"
)
COUNTS_TITLE = re.compile(r"^(?:.* - )?(?P<title>[^-:]+?) ?results:")
COUNTS_IOU = re.compile(r"IoU of prediction: (?P<iou>\S+)")
FA_ROUNDING = 0.5e-6  # Fa is written with six decimals


def read_counts(path):
    """A published file of counts in the form of metrics.json.

    Such are the files beside the released weights of DTUM and DeepPro, and eval.txt: for each
    sequence and subset a title, then a line for each threshold with detected / targets and
    false-alarm pixels. Thresholds are the file's own. The number of pixels is the one integer that
    gives the written Fa for all of them. The radii follow from the threshold 0, where every
    unguarded pixel is a false alarm.

    Returns:
        A dict as from `utils.report.metrics_file.read_metrics`; "model" and "dataset" are None, and
        "iou" too where the file has none. Which sequences low and high SNR are of is not told.

    Raises:
        ValueError: it is no such file, its parts differ in thresholds, its totals are not the sums
            of its sequences, or no known radii guard so many pixels.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as text ({error})") from error
    try:
        parts = _parts(text.splitlines())
        titles = {title: subset for subset, title in EVAL_TITLES.items()}
        subsets = {titles[name]: lines for name, lines in parts.items() if name in titles}
        sequences = {name: lines for name, lines in parts.items() if name not in titles}
        if not sequences:
            raise ValueError("no line such as 'Th_Seg = 5.0e-01: PD:[9/10, 0.9] FA:[3, 1.0e-05]'")
        counted = _count(sequences, subsets)
    except ValueError as error:
        raise ValueError(f"{path}: not a file of published counts: {error}") from error
    iou = COUNTS_IOU.search(text)
    (protocol,) = counted.values()
    return {
        "run": Path(path).stem,
        "model": None,
        "dataset": None,
        "threshold_eval": OPERATING_POINT,
        "thresholds": protocol["thresholds"],
        "iou": None if iou is None else float(iou["iou"]),
        "protocols": counted,
    }


def _parts(lines):
    """{title: matches of its lines}, in order; Seq47 is written out as Sequence47."""
    parts, title = {}, None
    for line in lines:
        if found := COUNTS_TITLE.match(line):
            title = re.sub(r"^Seq(?=\d)", "Sequence", found["title"])
        elif found := COUNTS_LINE.search(line):
            parts.setdefault(title, []).append(found)
    return parts


def _count(sequences, subsets):
    """The `protocols` of a metrics.json: of one protocol."""
    first = next(iter(sequences.values()))
    thresholds = [float(line["threshold"]) for line in first]
    for name, lines in (*sequences.items(), *subsets.items()):
        if [float(line["threshold"]) for line in lines] != thresholds:
            raise ValueError(f"{name} has other thresholds than the first sequence")
        if len({line["targets"] for line in lines}) > 1:
            raise ValueError(f"{name} has another number of targets at another threshold")
    if 0 not in thresholds:
        raise ValueError("the threshold 0, which tells the radii, is missing")
    at_zero = thresholds.index(0)
    pixels = {name: pixels_of(lines) for name, lines in sequences.items()}
    alarms, targets = (
        sum(int(lines[at_zero][key]) for lines in sequences.values())
        for key in ("alarms", "targets")
    )
    protocol = find_by_guard((sum(pixels.values()) - alarms) / max(targets, 1))

    def curve(lines, number):
        found = PdFaCurve(thresholds, protocol.hit, protocol.guard)
        found.targets, found.pixels = int(lines[0]["targets"]), number
        found.detected += [int(line["detected"]) for line in lines]
        found.false_alarm_pixels += [int(line["alarms"]) for line in lines]
        return found

    def entry(curve):
        return {**curve.as_dict(), **protocol.figures(curve)}

    curves = {name: curve(lines, pixels[name]) for name, lines in sequences.items()}
    total = sum(curves.values(), PdFaCurve(thresholds, protocol.hit, protocol.guard))
    if "all" in subsets and curve(subsets["all"], total.pixels).as_dict() != total.as_dict():
        raise ValueError("the counts of all are not the sum of the sequences'")
    totals = {
        subset: entry(total if subset == "all" else curve(lines, pixels_of(lines)))
        for subset, lines in subsets.items()
    }
    totals["all"] = entry(total) | {"sequences": list(sequences)}
    return {
        protocol.name: {
            "thresholds": thresholds,
            "sequences": {name: entry(found) for name, found in curves.items()},
            "subsets": totals,
        }
    }


def pixels_of(lines):
    """The number of pixels that the written Fa of some lines agree on."""
    low, high = 0.0, float("inf")
    for line in lines:
        mantissa, _, exponent = line["fa"].partition("e")
        digits, scale = float(mantissa), 10.0 ** int(exponent or 0)
        if digits > 0:
            low = max(low, int(line["alarms"]) / ((digits + FA_ROUNDING) * scale))
            high = min(high, int(line["alarms"]) / ((digits - FA_ROUNDING) * scale))
    if high == float("inf"):
        raise ValueError("no false alarm at any threshold: the number of pixels is not told")
    number = round((low + high) / 2)
    if not low - 0.5 <= number <= high + 0.5:
        raise ValueError("false-alarm pixels and Fa do not belong together")
    return number
