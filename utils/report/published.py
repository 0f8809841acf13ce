"""The published rows that a run can stand beside (paper, tables of results)."""

from dataclasses import dataclass
from typing import NamedTuple

from utils.protocols import MAIN, PROTOCOLS
from utils.report.metrics_file import SUBSETS


@dataclass(frozen=True)
class PublishedRow:
    """Pd in 1e-2, Fa in 1e-5, at threshold 0.5, under the named protocol; AUC.

    The protocol is None where no counts are public that would tell it.
    """

    model: str
    protocol: str | None
    pd: float
    fa: float
    auc: float


NOISE = "NUDT-MIRSDT-Noise"

# {(data set, subset): rows}. Each row was scored under the protocol that its released counts show;
# of STDMANet and Res-U+RFR there are none.
PUBLISHED = {
    ("NUDT-MIRSDT", "low_snr"): (
        PublishedRow("Res-UNet+DTUM", "hit1_guard4", 91.68, 2.37, 0.9921),
        PublishedRow("STDMANet", None, 92.82, 2.88, 0.9860),
        PublishedRow("Res-U+RFR", None, 64.65, 24.09, 0.8698),
        PublishedRow("DeepPro", "hit2_guard5", 95.84, 0.52, 0.9952),
        PublishedRow("DeepPro-Plus", "hit1_guard4", 99.24, 1.65, 0.9955),
    ),
    ("NUDT-MIRSDT", "all"): (
        PublishedRow("Res-UNet+DTUM", "hit1_guard4", 97.46, 3.00, 0.9967),
        PublishedRow("STDMANet", None, 96.59, 3.40, 0.9908),
        PublishedRow("Res-U+RFR", None, 88.61, 11.58, 0.9502),
        PublishedRow("DeepPro", "hit2_guard5", 98.50, 0.72, 0.9973),
        PublishedRow("DeepPro-Plus", "hit1_guard4", 99.71, 2.69, 0.9978),
    ),
    (NOISE, "all"): (
        PublishedRow("Res-UNet+DTUM", "hit1_guard4", 43.90, 4.86, 0.9413),
        PublishedRow("STDMANet", None, 51.65, 1.95, 0.8766),
        PublishedRow("Res-U+RFR", None, 35.11, 464.92, 0.8655),
        PublishedRow("DeepPro", "hit2_guard5", 59.17, 1.76, 0.9638),
        PublishedRow("DeepPro-Plus", "hit1_guard4", 76.23, 1.69, 0.9171),
    ),
}


class PublishedCost(NamedTuple):
    """The efficiency columns: KiB of parameters, G multiply-accumulates at 480x720, frames/s."""

    kib: float
    gmac: float
    frames_per_second: float


PUBLISHED_COST = {
    "Res-UNet+DTUM": PublishedCost(1165, 54.0, 25.39),
    "STDMANet": PublishedCost(46404, 503.8, 5.16),
    "Res-U+RFR": PublishedCost(3980, 48.2, 34.77),
    "DeepPro": PublishedCost(192, 5.3, 155.40),
    "DeepPro-Plus": PublishedCost(277, 20.5, 185.22),
}

# What has to be said beside a model's own numbers and the quoted ones.
MODEL_NOTES = {
    "Res-UNet+DTUM": "Res-UNet+DTUM was published with its AUC over 50 thresholds, DeepPro over "
    "27: its released counts give .9921 (low SNR) and .9967 (all) over 50, .9904 and .9961 over "
    "27.",
    "STDMANet": "STDMANet here is a reconstruction: no code of its authors is public. Its size and "
    "its operations are the published ones within 1 %, its results are our own.",
    "Res-U+RFR": "* Res-U+RFR: the published 3980 KB and 48.2 G are not reproducible from its "
    "released code, which has 4000.21 KiB and 40.07 G (40.33 with BatchNorm).",
}
RECONSTRUCTIONS = ("STDMANet",)
NOT_REPRODUCIBLE = ("Res-U+RFR",)  # their published size and operations: marked *

# Targets of the published test list: other numbers mean other data.
PUBLISHED_TARGETS = {"all": 1729, "low_snr": 529}

# Why the published DeepPro row has a lower Fa than the others.
PROTOCOL_NOTE = (
    "The published DeepPro row was scored with hit 2, guard 5 (121 protected pixels a target), "
    "those of Res-UNet+DTUM and DeepPro-Plus with hit 1, guard 4 (81): on hit 1, guard 4 its Fa on "
    "NUDT-MIRSDT is 2.17e-5, not 0.72e-5. Of the other rows no counts are public, which would tell."
)
AUC_NOTE = "AUC is dominated by thresholds below 1e-5, so that it ranks detectors poorly."


def model_title(model):
    """A model's name, marked where it is a reconstruction of what was published."""
    return f"{model} (reconstruction)" if model in RECONSTRUCTIONS else model


def protocol_title(row):
    """The title of a published row's protocol, or that it is not known."""
    return "not known" if row.protocol is None else PROTOCOLS[row.protocol].title


def published_rows(dataset, subset):
    """Published rows of a data set's subset; every noise version of NUDT-MIRSDT has the same."""
    if dataset != "NUDT-MIRSDT" and "NUDT-MIRSDT" in dataset:
        dataset = NOISE
    return PUBLISHED.get((dataset, subset), ())


def published_row(dataset, subset, model):
    """The published row of `model`, or None."""
    rows = published_rows(dataset, subset)
    return next((row for row in rows if row.model == model), None)


class Comparison(NamedTuple):
    """Whether a run may stand beside the published rows, and why, in one sentence."""

    comparable: bool
    note: str


def compare_targets(metrics):
    """Whether a metrics.json counts the targets of the published rows: a `Comparison`."""
    dataset = metrics["dataset"]
    subsets = metrics["protocols"][MAIN]["subsets"]
    if not published_rows(dataset, "all"):
        return Comparison(False, f"There are no published rows for {dataset}.")
    for subset, expected in PUBLISHED_TARGETS.items():
        found = subsets[subset]["targets"] if subset in subsets else expected
        if found != expected:
            return Comparison(
                False,
                f"Not comparable: the published rows are of {expected} targets "
                f"({SUBSETS[subset]}), this run is of {found}: another data set.",
            )
    return Comparison(
        True,
        "Comparable are rows of the same protocol; the number of targets is the published one.",
    )
