"""What is made noisy: the sequences of a data set's lists, or of own footage."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data.images import read_frame
from data.lists import find_sequences
from data.remarks import Remarks

_READ = 16  # frames of own footage that are read at a time


@dataclass(frozen=True)
class NoisySequence:
    """One sequence to be written.

    Attributes:
        folder: of its frames, below the output; also names its noise.
        files: names of the frames' files.
        load: gives an iterator of callables, each of which gives (frame, {folder: labels}), labels
            (H, W) uint8 in {0, 1} to be written.
        copies: (file, folder below the output) of each file to be copied.
    """

    folder: str
    files: tuple[str, ...]
    load: object
    copies: tuple = ()


def listed_sequences(spec, root, shared):
    """The sequences of the lists that are there; masks are copied unless they are shared."""
    seen = set()
    for split in _splits_there(spec, root):
        for files in find_sequences(spec, split, root):
            folder = split.images.format(files.name)
            if folder in seen:
                continue
            seen.add(folder)
            labels = ((files.masks, split.masks), (files.centroids, split.centroids))
            yield NoisySequence(
                folder,
                _png_names(files.images),
                partial(_load_files, files.images),
                ()
                if shared
                else tuple(
                    (path, place.format(files.name))
                    for paths, place in labels
                    for path in paths or ()
                ),
            )


def _splits_there(spec, root):
    """The splits that a folder has a list or folders of, one at least; a remark on one left out."""
    splits = [split for split in (spec.train, spec.test) if _is_there(split, Path(root))]
    for split in (spec.train, spec.test):
        if splits and split not in splits:
            Remarks().make(
                "split", f"{Path(root) / split.list_file}: no such list; its sequences are left out"
            )
    return splits or (spec.train, spec.test)


def _is_there(split, root):
    published = (split.images.format(name) for name in split.sequences)
    return (root / split.list_file).is_file() or any((root / place).is_dir() for place in published)


def _load_files(paths):
    return (lambda path=path: (read_frame(path), {}) for path in paths)


def footage_sequences(spec, root):
    """The sequences of own footage, in a folder each."""
    for sequence in spec.open(spec, root):
        names = sequence.file_names or (f"{number:05d}" for number in sequence.numbers)
        folder = f"{sequence.name}/images"
        files = _png_names(names)
        yield NoisySequence(folder, files, partial(_load_blocks, sequence))


def _load_blocks(sequence):
    for block in sequence.blocks(_READ):
        for index, frame in enumerate(block.frames):
            labels = {}
            if block.masks is not None:
                labels[f"{sequence.name}/masks"] = block.masks[index]
                labels[f"{sequence.name}/masks_centroid"] = block.centroids[index]
            yield lambda frame=frame, labels=labels: (frame, labels)


def _png_names(names):
    return tuple(f"{Path(name).stem}.png" for name in names)
