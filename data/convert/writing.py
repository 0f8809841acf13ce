"""Writes footage with labels as a data set in NUDT-MIRSDT's layout.

In the output folder:

    <sequence>/{images,masks,masks_centroid}/00001.png ...
    boxes/<sequence>.txt   the boxes as they were given, MOTChallenge, where there are any
    train.txt, test.txt    one line for each frame: <sequence>/images/00001.png
    dataset.json           mean and standard deviation of the training frames, strides, targets as a
                           test counts them, labels that share one with another, ...
    labels.html            some targets with box and mask, to look at
"""

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.convert.boxes import boxes_of_masks, choose_stride, median_speed
from data.convert.exports import write_mot
from data.convert.pictures import MOST_TILES, draw_tile, write_sheet
from data.convert.sources import BOX_FOLDER, LabelledFootage
from data.convert.targets import central_pixels, draw_targets_of
from data.cores import usable_cores
from data.record import write_record
from data.remarks import Remarks
from data.saving import in_order, new_folder, save_image, suffix_for

_READ = 16  # frames that are read at a time
SPLITS = ("train", "test")
TARGET_COUNTS = ("targets", "refined", "shared")  # as `data.convert.targets.DrawnTargets` has them


@dataclass(frozen=True)
class DatasetOptions:
    """How a data set is made of footage.

    Attributes:
        stride: every how manyth frame is kept, or "auto".
        share: of the sequences that go to the test list; of a single one, of its frames, the last.
        test_names: the sequences that go to the test list, in place of a share; or None.
        seed: of the draw of the test sequences.
        refine: whether masks are refined by the image; see `data.convert.targets`.
    """

    stride: int | str = 1
    share: float = 0.2
    test_names: tuple[str, ...] | None = None
    seed: int = 46
    refine: bool = True


@dataclass(frozen=True)
class Piece:
    """What becomes a sequence of the data set: every so manyth frame of one, or of a part of it.

    Attributes:
        name: of the new sequence.
        split: "train" or "test".
        footage: `data.convert.sources.LabelledFootage`.
        frames: range of the indices of its frames.
        speed: median, pixels per frame of the footage; None: not known.
    """

    name: str
    split: str
    footage: LabelledFootage
    frames: range
    speed: float | None

    def boxes(self):
        """Its boxes, their frames counted anew; None: it has masks."""
        if self.footage.boxes is None:
            return None
        places = {frame: index for index, frame in enumerate(self.frames)}
        boxes = self.footage.boxes
        return [replace(b, frame=places[b.frame]) for b in boxes if b.frame in places]

    def place(self, index):
        """Which frame of the footage one of its own is, for messages."""
        shape = self.footage.shape
        return f"frame {shape.numbers[self.frames[index]]} of {shape.name}"


def write_converted(footage, output, options, workers=None, progress=True):
    """Writes a data set.

    The folder appears under its name only when everything is in it: see `data.saving.new_folder`.

    Args:
        footage: list of `data.convert.sources.LabelledFootage`.
        output: a folder that does not exist yet, or is empty.
        options: `DatasetOptions`.
        workers: threads; None for one per usable core.
        progress: whether to show a progress bar on stderr.

    Returns:
        The record of the data set, a dict; see `data.record`.

    Raises:
        ValueError: frames cannot be read, or the split cannot be made.
        FileExistsError: `output` holds something.
        OSError: it cannot be written.
    """
    output = Path(output).resolve()  # behind a link, so that the folder can be renamed
    refuse_full(output)
    pieces = plan_pieces(footage, options)
    with new_folder(output) as folder:
        record = _write_pieces(pieces, folder, options, workers or usable_cores(), progress)
        _write_split_lists(pieces, folder)
    return record


def refuse_full(folder):
    """Raises:
    FileExistsError: there is something in the folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists: remove it or choose another --output")


def plan_pieces(footage, options):
    """The `Piece`s, in the order of the footage."""
    names = [each.shape.name for each in footage]
    test_names = _test_names(names, options)
    pieces = []
    for each in footage:
        boxes = each.boxes
        if boxes is None and options.stride == "auto":
            boxes = [
                box
                for block in each.sequence.blocks(_READ)
                for box in boxes_of_masks(block.masks, block.start)
            ]
        speed = None if boxes is None else median_speed(boxes)
        stride = options.stride
        if stride == "auto":
            stride = choose_stride(boxes, each.shape.count)
        frames = range(0, each.shape.count, stride)
        if test_names is None:  # one sequence: cut in time
            kept = len(frames) - max(round(len(frames) * options.share), 1)
            if kept < 1:
                raise ValueError(
                    f"{each.shape.name}: {len(frames)} frames at stride {stride} cannot be split "
                    "in two, training and test; expected more frames, or a smaller --stride"
                )
            parts = ("train", frames[:kept]), ("test", frames[kept:])
            pieces += [Piece(f"{names[0]}_{s}", s, each, part, speed) for s, part in parts]
        else:
            split = "test" if each.shape.name in test_names else "train"
            pieces.append(Piece(each.shape.name, split, each, frames, speed))
    return pieces


def _test_names(names, options):
    """The sequences of the test list; None: there is only one, which is to be in both."""
    if options.test_names is not None:
        unknown = [name for name in options.test_names if name not in names]
        if unknown:
            found = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise ValueError(f"--split: no sequence {unknown[0]}; there are {found}")
        return set(options.test_names)
    if options.share in (0, 1):
        return set(names if options.share else ())
    if len(names) == 1:
        return None
    count = min(max(round(options.share * len(names)), 1), len(names) - 1)
    chosen = np.random.default_rng(options.seed).permutation(len(names))[:count]
    return {names[index] for index in chosen}


def _write_pieces(pieces, folder, options, workers, progress):
    """Writes all frames and boxes: the record."""
    total = sum(len(piece.frames) for piece in pieces)
    every = max(total // MOST_TILES, 1)  # frames to a tile of the sheet
    sums, tiles, details, labels, shared_in = defaultdict(lambda: np.zeros(3)), [], {}, 0, None
    with tqdm(total=total, desc="Converting", unit="frame", disable=not progress) as bar:
        for piece in pieces:
            boxes = piece.boxes()
            counts = np.zeros(3, int)
            jobs = _frame_jobs(piece, boxes, folder, options, range(-bar.n % every, total, every))
            for index, done in enumerate(in_order(jobs, workers)):
                sums[piece.split] += done.sums
                counts += done.counts
                tiles += done.tiles
                if done.counts[2] and shared_in is None:
                    shared_in = piece.place(index)
                bar.update()
            labels += len(boxes or ())
            rate = getattr(piece.footage.sequence, "frame_rate", None)
            if boxes is not None:
                write_mot(folder / BOX_FOLDER / f"{piece.name}.txt", boxes)
            details[piece.name] = {
                "split": piece.split,
                "of": piece.footage.shape.name,
                "frames": len(piece.frames),
                "stride": piece.frames.step,
                "frame_rate": rate and rate / piece.frames.step,
                "speed": None if piece.speed is None else round(piece.speed * piece.frames.step, 4),
                **dict(zip(TARGET_COUNTS, counts.tolist(), strict=True)),
            }
    if tiles:
        write_sheet(folder / "labels.html", tiles[:MOST_TILES])
    _tell_shared(sum(own["shared"] for own in details.values()), labels, shared_in)
    mean, std = _mean_std(sums["train"] if sums["train"][0] else sums["test"])
    record = {"sequences": details}
    write_record(folder, mean, std, record)
    return {"mean": mean, "std": std, **record}


def _tell_shared(shared, labels, first):
    """Remarks on labels that share a target with another; `first` is the place of the first."""
    if shared:
        Remarks().make(
            "shared",
            f"{shared} of {labels} labels share a target with another, first in {first}: where the "
            "centroids of labels touch or coincide, a test counts one target",
        )


@dataclass(frozen=True)
class _Done:
    """Of one frame: (pixels, their sum, that of their squares), `TARGET_COUNTS`, sheet's tiles."""

    sums: np.ndarray
    counts: tuple[int, int, int]
    tiles: list


def _frame_jobs(piece, boxes, folder, options, shown):
    """Yields a job for each frame: callables that give `_Done`; with tiles of those `shown`."""
    by_frame = defaultdict(list)
    for box in boxes or ():
        by_frame[box.frame].append(box)
    for kind in ("images", "masks", "masks_centroid"):
        (folder / piece.name / kind).mkdir(parents=True)
    places = {frame: index for index, frame in enumerate(piece.frames)}
    for block in piece.footage.sequence.blocks(_READ):
        for offset, frame in enumerate(block.frames):
            index = places.get(block.start + offset)
            if index is None:
                continue
            labels = by_frame[index]
            if boxes is None:
                labels = block.masks[offset], block.centroids[offset]
            name = f"{index + 1:05d}"
            title = f"{piece.name} {index + 1}" if index in shown else None
            yield partial(_write_frame, folder / piece.name, name, frame, labels, options, title)
        if block.start + len(block.frames) > piece.frames[-1]:
            return


def _write_frame(folder, name, frame, labels, options, title):
    """Writes a frame and its masks, made of boxes or given."""
    tiles = []
    if isinstance(labels, list):
        mask, centroids, *counts = draw_targets_of(frame, labels, options.refine)
        if title is not None and labels:
            tiles = [draw_tile(frame, labels[0], mask, title)]
    else:
        mask, centroids = labels
        if np.array_equal(mask, centroids):
            centroids = central_pixels(mask)
        counts = int(central_pixels(centroids).sum()), 0, 0
    save_image(folder / "images" / f"{name}{suffix_for(frame.dtype)}", frame)
    for kind, pixels in (("masks", mask), ("masks_centroid", centroids)):
        save_image(folder / kind / f"{name}.png", pixels * np.uint8(255))
    levels = frame.astype(np.float64)
    sums = np.array([levels.size, levels.sum(), np.square(levels).sum()])
    return _Done(sums, tuple(counts), tiles)


def _mean_std(sums):
    count, total, squares = sums
    mean = total / count
    return float(mean), math.sqrt(max(squares / count - mean**2, 0)) or 1.0


def _write_split_lists(pieces, folder):
    """Writes the lists that have sequences."""
    for split in SPLITS:
        lines = [
            f"{piece.name}/images/{path.name}\n"
            for piece in pieces
            if piece.split == split
            for path in sorted((folder / piece.name / "images").iterdir())
        ]
        if lines:
            (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")


def describe_record(record, output):
    """What there is to say of a data set that was written: lines of text."""
    sequences = record["sequences"].values()
    counts = {split: [s for s in sequences if s["split"] == split] for split in SPLITS}
    parts = (
        f"{split}: {len(own)} of {sum(s['frames'] for s in own)} frames"
        for split, own in counts.items()
    )
    lines = [f"{output}: sequences to {', to '.join(parts)}"]
    targets, refined = (sum(s[key] for s in sequences) for key in ("targets", "refined"))
    told = f"; of {refined} the image told the pixels" if refined else ""
    strides = sorted({s["stride"] for s in sequences})
    speeds = [s["speed"] for s in sequences if s["speed"] is not None]
    lines.append(f"  {targets} targets{told}")
    span = f"{strides[0]}" if len(strides) == 1 else f"{strides[0]} to {strides[-1]}"
    moves = f"; the median target moves {np.median(speeds):.2f} pixels a frame" if speeds else ""
    lines.append(f"  stride {span}{moves}")
    lines.append(f"  mean {record['mean']:.4f}, std {record['std']:.4f}, as recorded in the folder")
    return lines
