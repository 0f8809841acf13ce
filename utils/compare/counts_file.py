"""Published files of counts: Pd and Fa at every threshold of every sequence, as text."""

import re
import warnings
from pathlib import Path

from utils.evaluation import add_up
from utils.protocols import OPERATING_POINT, PROTOCOLS, find_by_guard, find_guarding_alike
from utils.report.metrics_file import LARGEST_COUNT, read_metrics
from utils.report.published import PUBLISHED_TARGETS
from utils.report.results import EVAL_TITLES, PROTOCOL_MARK

COUNTS_LINE = re.compile(
    r"Th_Seg = (?P<threshold>\S+):\s*PD:\[(?P<detected>\d+)/(?P<targets>\d+), \S+\]\s*"
    r"FA:\[(?P<alarms>\d+), (?P<fa>\S+)\]"
)
# A sequence may be named as it likes: what is behind its name is the line's end, or figures.
COUNTS_TITLE = re.compile(
    r"(?:[-\d]+ [:,\d]+ - \w+ - \w+ - )?(?P<title>.+?)(?P<gap> ?)results:"
    r"(?P<figures>(?:\t[^\t]*)*)\s*"
)
COUNTS_IOU = re.compile(r"IoU of prediction: (?P<iou>\S+)")
FA_ROUNDING = 0.5e-6  # Fa is written with six decimals


def read_counts(path):
    """A published file of counts in the form of metrics.json.

    Such are the files beside the released weights of DTUM and DeepPro, and eval.txt: for each
    sequence and subset a title, then a line for each threshold with detected / targets and
    false-alarm pixels. Thresholds are the file's own. The number of pixels is the one integer that
    gives the written Fa for all of them. The protocol is the one that the file names, see
    `utils.report.results.write_eval`; of one that names none, that of the same counts in the
    metrics.json beside it. Where there is neither, the radii follow from the threshold 0, where
    every unguarded pixel is a false alarm: that is a guess, since a larger target of a smaller
    guard protects as many, and a warning says so.

    Returns:
        A dict as from `utils.report.metrics_file.read_metrics`; "model" and "dataset" are None, and
        "iou" too where the file has none. Which sequences low and high SNR are of is not told.

    Raises:
        ValueError: it is no such file, its parts differ in thresholds, its totals are not the sums
            of its sequences, or its protocol is not known or not told.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as text ({error})") from error
    try:
        named, sequences, subsets = _parts(text.splitlines())
        if named is not None and named not in PROTOCOLS:
            raise ValueError(f"counted by {named}, which is not known here")
        if named is not None and not (
            sequences and {"detected", "false_alarm_pixels"} <= set(PROTOCOLS[named].counted)
        ):
            raise ValueError(
                f"counted by {named}, of which it holds no counts; expected the metrics.json"
            )
        if not sequences:
            raise ValueError("no line such as 'Th_Seg = 5.0e-01: PD:[9/10, 0.9] FA:[3, 1.0e-05]'")
        named = named or _named_beside(Path(path), sequences)
        protocol = _guessed(path, sequences) if named is None else PROTOCOLS[named]
        counted = _count(protocol, sequences, subsets)
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
    """What a file holds, in order: (name of its protocol or None, sequences, subsets).

    The latter two are {title: matches of its lines}; Seq47, before which a space would stand in our
    own files, is written out as Sequence47. Subsets come last, whatever sequences are named,
    and where one has figures in its title all have.
    """
    named, parts = None, []
    for line in lines:
        if line.startswith(PROTOCOL_MARK):
            named = line.removeprefix(PROTOCOL_MARK).strip()
        elif found := COUNTS_TITLE.fullmatch(line):
            title = found["title"]
            title = title if found["gap"] else re.sub(r"^Seq(?=\d)", "Sequence", title)
            parts.append((title, bool(found["figures"]), []))
        elif parts and (found := COUNTS_LINE.search(line)):
            parts[-1][-1].append(found)
    parts = [part for part in parts if part[-1]]
    subsets, figures = {}, bool(parts) and parts[-1][1]
    for subset, title in reversed(EVAL_TITLES.items()):
        if len(parts) > 1 and parts[-1][:2] == (title, figures):
            subsets[subset] = parts.pop()[-1]
    return named, {title: found for title, _, found in parts}, subsets


def _integers(lines, pixels):
    """The counts of the lines of a sequence or subset, by name as in metrics.json."""
    counts = {
        "targets": int(lines[0]["targets"]),
        "pixels": pixels,
        "detected": [int(line["detected"]) for line in lines],
        "false_alarm_pixels": [int(line["alarms"]) for line in lines],
    }
    most = max(counts["targets"], pixels, *counts["detected"], *counts["false_alarm_pixels"])
    if most > LARGEST_COUNT:
        raise ValueError(f"a count of {len(str(most))} digits; expected at most {LARGEST_COUNT}")
    return counts


def _named_beside(path, sequences):
    """The protocol that has the same counts in the metrics.json beside an eval.txt, or None."""
    beside = path.with_name(re.sub(r"^eval", "metrics", path.stem) + ".json")
    if beside.stem == path.stem or not beside.is_file():
        return None
    try:
        metrics = read_metrics(beside)
    except ValueError:
        return None
    found = {name: _integers(lines, 0) for name, lines in sequences.items()}
    same = [
        name
        for name, counted in metrics["protocols"].items()
        if name in PROTOCOLS
        and counted["sequences"].keys() == found.keys()
        and all(
            counted["sequences"][each].get(key) == value
            for each, own in found.items()
            for key, value in own.items()
            if key != "pixels"
        )
    ]
    return same[0] if len(same) == 1 else None


def _guessed(path, sequences):
    """The radius protocol that guards as many pixels as are no false alarms at threshold 0."""
    first = next(iter(sequences.values()))
    thresholds = [float(line["threshold"]) for line in first]
    if 0 not in thresholds:
        raise ValueError(
            "no protocol is named, and the threshold 0, which tells the radii, is missing"
        )
    at_zero, guarded, targets = thresholds.index(0), 0, 0
    for name, lines in sequences.items():
        if len(lines) != len(first):
            raise ValueError(f"{name} has other thresholds than the first sequence")
        guarded += pixels_of(lines) - int(lines[at_zero]["alarms"])
        targets += int(lines[at_zero]["targets"])
    area = guarded / max(targets, 1)
    protocol = find_by_guard(area)
    # The published counts are known to be of targets of one pixel.
    if targets != PUBLISHED_TARGETS["all"]:
        for other, side in find_guarding_alike(protocol, area):
            warnings.warn(
                f"{path}: names no protocol; with {area:.1f} pixels guarded for each target it is "
                f"taken for {protocol.title}, with targets of one pixel. If they were of about "
                f"{side}x{side} pixels it is {other.title}: compare the metrics.json of the test",
                stacklevel=2,
            )
    return protocol


def _count(protocol, sequences, subsets):
    """The `protocols` of a metrics.json: of one protocol."""
    first = next(iter(sequences.values()))
    thresholds = [float(line["threshold"]) for line in first]
    for name, lines in (*sequences.items(), *subsets.items()):
        if [float(line["threshold"]) for line in lines] != thresholds:
            raise ValueError(f"{name} has other thresholds than the first sequence")
        if len({line["targets"] for line in lines}) > 1:
            raise ValueError(f"{name} has another number of targets at another threshold")

    def restored(lines, pixels):
        return protocol.restore(thresholds, _integers(lines, pixels))

    def entry(counts):
        return {**counts.as_dict(), **protocol.figures(counts)}

    counted = {name: restored(lines, pixels_of(lines)) for name, lines in sequences.items()}
    total = add_up(counted.values())
    whole = total.as_dict()
    if "all" in subsets and restored(subsets["all"], whole["pixels"]).as_dict() != whole:
        raise ValueError("the counts of all are not the sum of the sequences'")
    totals = {
        subset: entry(total if subset == "all" else restored(lines, pixels_of(lines)))
        for subset, lines in subsets.items()
    }
    totals["all"] = entry(total) | {"sequences": list(sequences)}
    return {
        protocol.name: {
            "thresholds": thresholds,
            "sequences": {name: entry(found) for name, found in counted.items()},
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
        raise ValueError(
            "no false alarm at any threshold: the number of pixels is not told; expected the "
            "metrics.json of such a test"
        )
    number = round((low + high) / 2)
    if not low - 0.5 <= number <= high + 0.5:
        raise ValueError("false-alarm pixels and Fa do not belong together")
    return number
