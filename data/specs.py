"""The data sets: what differs between them, as rows of one table (FACTS: paper, section V)."""

import math
from dataclasses import dataclass, field, replace
from functools import partial

from data.footage import open_footage
from data.noise.writing import write_noisy_beside
from data.sequences import open_test_list
from data.synthetic.writing import write_synthetic

FOOTAGE = "Frames"  # the row of own footage
AUTO = "auto"  # in place of a data set's name: mean and std of the frames themselves
# Sequences of NUDT-MIRSDT, as published with it.
LOW_SNR = tuple(f"Sequence{n}" for n in (47, 56, 59, 76, 92, 101, 105, 119))
TEST_SEQUENCES = tuple(f"Sequence{n}" for n in (*range(85, 98), 47, 56, 59, 76, 101, 105, 119))
TRAIN_SEQUENCES = tuple(f"Sequence{n}" for n in range(1, 85) if n not in (47, 56, 59, 76))


@dataclass(frozen=True)
class Split:
    """Where one split of a data set lies; `{}` stands for the sequence's name.

    Attributes:
        list_file: the list, relative to the data set's folder; one entry a line, `<sequence>` or
            `<sequence>/<anything>`.
        images, masks: folders relative to the data set's folder (masks: to the first of
            `DatasetSpec.mask_roots` that has it).
        centroids: likewise, or None where a data set has no centroid masks.
        sequences: the sequences where the list file is missing; none: the list must exist.
        earlier: folder of files that hold the frames before each frame, where there are some.
    """

    list_file: str
    images: str
    masks: str
    centroids: str | None = None
    sequences: tuple[str, ...] = ()
    earlier: str | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """One data set.

    Attributes:
        name: as given on the command line and in the names of run folders.
        mean, std: of the grey levels; frames are fed as (x - mean) / std. None: those that
            `dataset.json` in the data set's folder records, see `data.record`; for own footage
            those of each sequence.
        train, test: the two splits; None where there are no lists, and nothing to train on.
        sample_rate: share of the training candidates that makes an epoch.
        first_frame: number of the first frame in what is written.
        train_size: (height, width) that training frames and masks are resized to, or None.
        test_size: (height, width) that test frames, not masks, are resized to, or None.
        mask_roots: folders, relative to the data set's, where masks are looked for, in order.
        low_snr: test sequences of the published low-SNR subset.
        snr_file: table with columns `sequence` and `snr`, where the subsets are defined by it:
            low means SNR <= 3.
        generate: writes the data set into a folder, where it can be made rather than obtained.
        lists_detections: tests write detections.csv.
        open: gives the `data.sequences.TestSequences`, called as `open_test_list`.
        source: where it comes from, for the message when it is missing.
    """

    name: str
    mean: float | None
    std: float | None
    train: Split | None
    test: Split | None
    source: str
    sample_rate: float = 0.1
    first_frame: int = 1
    train_size: tuple[int, int] | None = None
    test_size: tuple[int, int] | None = None
    mask_roots: tuple[str, ...] = (".",)
    low_snr: tuple[str, ...] = ()
    snr_file: str | None = None
    lists_detections: bool = False
    generate: object = field(default=None, compare=False)
    open: object = field(default=open_test_list, compare=False)


def _nudt_split(list_file, sequences=()):
    folders = "{}/images", "{}/masks", "{}/masks_centroid"
    return Split(list_file, *folders, sequences, earlier="{}/Mix")


_NUDT = DatasetSpec(
    name="NUDT-MIRSDT",
    mean=105.4025,
    std=26.6452,
    train=_nudt_split("train.txt", TRAIN_SEQUENCES),
    test=_nudt_split("test.txt", TEST_SEQUENCES),
    train_size=(256, 256),
    low_snr=LOW_SNR,
    source="github.com/TinaLRJ/Multi-frame-infrared-small-target-detection-DTUM",
)

_SYNTHETIC = DatasetSpec(
    name="Synthetic",
    mean=105.4025,
    std=26.6452,
    train=_nudt_split("train.txt"),
    test=_nudt_split("test.txt"),
    snr_file="snr.csv",
    generate=write_synthetic,
    source="python -m data.synthetic",
)


def _noise_version(clean, name, generate=None):
    """The row of a noise version: masks are the clean set's, beside it or beside its parent."""
    return replace(
        clean,
        name=name,
        mask_roots=(f"../{clean.name}", f"../../{clean.name}", "."),
        generate=generate,
        source=f"python -m data.noise --dataset {clean.name}",
    )


_NUDT_NOISE = replace(
    _noise_version(_NUDT, "NUDT-MIRSDT-HiNo"),
    source="github.com/TinaLRJ/DeepPro, with NUDT-MIRSDT beside it for the masks, "
    "or from python -m data.noise --dataset NUDT-MIRSDT",
)

DATASETS = {
    spec.name: spec
    for spec in (
        _NUDT,
        _NUDT_NOISE,
        DatasetSpec(
            name="IRDST-simulation",
            mean=106.8523,
            std=56.9243,
            train=Split("img_idx/train_IRDST-simulation.txt", "images/{}", "masks/{}"),
            test=Split("img_idx/test_IRDST-simulation.txt", "images/{}", "masks/{}"),
            sample_rate=0.03,
            source="the IRDST data set (Sun et al., RDIAN)",
        ),
        DatasetSpec(
            name="RGB-T",
            mean=85.0799,
            std=47.4845,
            train=Split("train.txt", "train2017/{}/01", "segmentations/{}"),
            test=Split("test.txt", "test2017/{}/01", "segmentations/{}"),
            sample_rate=0.05,
            first_frame=0,
            source="the RGBT-Tiny data set, thermal half",
        ),
        DatasetSpec(
            name="SatVideoIRSDT",
            mean=111.47,
            std=22.43,
            train=Split("train.txt", "train/{}/img", "train/{}/mask"),
            test=Split("val.txt", "val/{}/img", "val/{}/mask"),
            sample_rate=0.04,
            source="the SatVideoIRSDT challenge",
        ),
        DatasetSpec(
            name="IRSatVideo-LEO",
            mean=72.104,
            std=12.303,
            train=Split("annotations/train_sequences.txt", "images/{}", "masks/{}"),
            test=Split("annotations/val_sequences.txt", "images/{}", "masks/{}"),
            train_size=(512, 512),
            test_size=(512, 512),
            source="the IRSatVideo-LEO data set",
        ),
        _SYNTHETIC,
        _noise_version(_SYNTHETIC, "Synthetic-HiNo", partial(write_noisy_beside, _SYNTHETIC)),
        # What python -m data.convert writes; mean and std are recorded in its folder.
        DatasetSpec(
            name="Converted",
            mean=None,
            std=None,
            train=_nudt_split("train.txt"),
            test=_nudt_split("test.txt"),
            source="python -m data.convert",
        ),
        # Own footage: whatever is found at the path.
        DatasetSpec(
            name=FOOTAGE,
            mean=None,
            std=None,
            train=None,
            test=None,
            lists_detections=True,
            open=open_footage,
            source="your own footage",
        ),
    )
}


def get_spec(name):
    """The row of a data set.

    A name that contains NUDT-MIRSDT but is not it is a noise version of it; one that begins with
    the name of another data set with lists, then -Noise or -HiNo, is a noise version of that.

    Raises:
        ValueError: no data set has this name.
    """
    if name in DATASETS:
        return DATASETS[name]
    if _NUDT.name in name:
        return replace(_NUDT_NOISE, name=name)
    for clean in DATASETS.values():
        if clean.test is not None and name.startswith(
            (f"{clean.name}-Noise", f"{clean.name}-HiNo")
        ):
            return _noise_version(clean, name)
    raise ValueError(
        f"unknown data set {name!r}: expected one of {', '.join(DATASETS)}, a name that contains "
        f"{_NUDT.name} for a noise version of it, or NAME-Noise... for one of another"
    )


def choose_normalisation(mean, std, dataset, measure=None):
    """(mean, std) that the command line asks for; None if it leaves them to the data set.

    Args:
        mean, std: numbers, or None.
        dataset: the name of a data set, or None.
        measure: gives the (mean, std) that `AUTO` in place of a name asks for.

    Raises:
        ValueError: only one of mean and std is given, std is not positive, or the data set named
            has no values of its own.
    """
    if (mean is None) != (std is None):
        given, missing = ("--mean", "--std") if std is None else ("--std", "--mean")
        raise ValueError(f"{given} without {missing}; expected both or neither")
    if mean is not None and dataset is not None:
        raise ValueError("--mean and --std with --normalise-as; expected one or the other")
    if dataset == AUTO and measure is not None:
        return measure()
    if dataset is not None:
        spec = get_spec(dataset)
        if spec.mean is None:
            raise ValueError(
                f"--normalise-as {dataset}: its row has no mean and std; use --mean and --std"
            )
        mean, std = spec.mean, spec.std
    if mean is None:
        return None
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ValueError(f"--mean {mean} --std {std}: expected finite numbers, std above 0")
    return mean, std
