"""Writes the strong-noise version of a data set, in the clean one's layout.

In the output folder:

    <folder of a sequence's frames>/<name of a frame>.png
    <lists>, <table of SNRs>   copies of the clean set's
    noise.json                 parameters, and the law that the variance follows, measured

Masks are shared with the clean set where that lies beside the output, or beside its parent, under
its own name; else they are copied. Of own footage they are written beside the frames. The table of
SNRs is that of the clean set: which sequences count as low is as before, as in the published set.
"""

import dataclasses
import json
import os
import shutil
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from data.cores import usable_cores
from data.images import read_frame
from data.lists import find_sequences, prepare
from data.noise.model import RECIPE, LawFit, StrongNoise, VarianceLaw
from data.remarks import Remarks
from data.saving import in_order, save_image

MARKER = "noise.json"
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


def write_noisy_beside(clean, output):
    """Makes the default noisy version of a data set that can be generated, and that if missing.

    Args:
        clean: its row; the data set lies, or is written, beside `output`, under its name.
        output: the folder to write.
    """
    root = Path(os.path.abspath(output)).with_name(clean.name)
    prepare(clean, root)
    write_noisy(clean, root, output, StrongNoise())


def write_noisy(spec, root, output, noise, workers=None, progress=True):
    """Writes the noisy version of a data set, or of own footage.

    The folder appears under its name only when everything is in it; until then it is
    `<output>.partial`, which the same call continues. A finished one is left as it is.

    Args:
        spec: the clean data set's row; one without lists is own footage.
        root: its folder.
        output: a folder that does not exist yet, or is empty.
        noise: `StrongNoise`.
        workers: threads; None for one per usable core. The bytes do not depend on it.
        progress: whether to show a progress bar on stderr.

    Returns:
        The `VarianceLaw` that the written frames follow, or None; see `LawFit.law`.

    Raises:
        ValueError: frames are missing, cannot be read or have neither 8 nor 16 bits.
        FileExistsError: `output` holds something else.
        OSError: something is missing or cannot be written.
    """
    workers = usable_cores() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers {workers}: expected 1 or more")
    output = Path(output).resolve()  # behind a link, so that the folder can be renamed
    beside = _lies_beside(spec, Path(root), output)
    sequences = list(_footage(spec, root) if spec.test is None else _listed(spec, root, beside))
    identity = {
        "recipe": RECIPE,
        "dataset": spec.name,
        **dataclasses.asdict(noise),
        "frames": {sequence.folder: len(sequence.files) for sequence in sequences},
    }
    if _finished(output, identity, sequences):
        return _recorded_law(output)
    unfinished = output.with_name(f"{output.name}.partial")
    unfinished.mkdir(parents=True, exist_ok=True)
    _claim(unfinished, identity)
    try:
        fit = _write_sequences(sequences, unfinished, noise, workers, progress)
        _copy_lists(spec, Path(root), unfinished)
        law = fit.law()
        measured = None if law is None else dataclasses.asdict(law)
        _write_marker(unfinished, identity | {"measured": measured})
        unfinished.rename(output)
    except OSError:
        if not _finished(output, identity, sequences):  # by another process meanwhile
            raise
        shutil.rmtree(unfinished, ignore_errors=True)  # what was written after it had its name
    return _recorded_law(output)


def _listed(spec, root, shared):
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


def _footage(spec, root):
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


def _write_sequences(sequences, folder, noise, workers, progress):
    """Writes all frames below a folder: the `LawFit` of them."""
    total = LawFit(noise.law())
    jobs = (
        partial(_write_frame, folder, noise, sequence, index, load)
        for sequence in sequences
        for index, load in enumerate(_opened(sequence, folder))
    )
    count = sum(len(sequence.files) for sequence in sequences)
    with tqdm(total=count, desc="Adding noise", unit="frame", disable=not progress) as bar:
        for fit in in_order(jobs, workers):
            total = total + fit
            bar.update()
    return total


def _opened(sequence, folder):
    """Its frames to load; folders made and files copied before."""
    (folder / sequence.folder).mkdir(parents=True, exist_ok=True)
    for path, place in sequence.copies:
        (folder / place).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / place / path.name)
    return sequence.load()


def _write_frame(folder, noise, sequence, index, load):
    """Writes one frame, unless it is there already: the `LawFit` of it."""
    frame, labels = load()
    path = folder / sequence.folder / sequence.files[index]
    try:
        noisy = noise.add_to(frame, sequence.folder, index)
    except ValueError as error:
        raise ValueError(f"{sequence.folder}/{sequence.files[index]}: {error}") from error
    if not path.exists():
        for place, mask in labels.items():
            (folder / place).mkdir(parents=True, exist_ok=True)
            save_image(folder / place / path.name, 255 * mask)
        save_image(path, noisy)  # last: where it is, its labels are
    return LawFit(noise.law()).add(frame, noisy)


def _lies_beside(spec, root, output):
    """Whether the noisy version will find the clean set's masks where its row looks for them."""
    places = (output.parent / spec.name, output.parent.parent / spec.name)
    found = next((place for place in places if place.is_dir()), None)
    return found is not None and root.is_dir() and found.samefile(root)


def _copy_lists(spec, root, folder):
    names = [split.list_file for split in (spec.train, spec.test) if split is not None]
    for name in (*names, spec.snr_file):
        if name is not None and (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, folder / name)


def _write_marker(folder, content):
    aside = folder / f".{MARKER}.{uuid.uuid4().hex}"
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    aside.replace(folder / MARKER)


def _read_marker(folder):
    try:
        return json.loads((folder / MARKER).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _claim(folder, identity):
    """Marks an unfinished folder as that of this noise."""
    marker = _read_marker(folder)
    if marker is None and not any(folder.iterdir()):
        _write_marker(folder, identity)
    elif marker is None or {key: marker.get(key) for key in identity} != identity:
        raise FileExistsError(
            f"{folder} is the unfinished work of other frames or another noise: remove it or "
            "choose another --output"
        )


def _finished(output, identity, sequences):
    """Whether `output` is complete, and of this noise; False if it is free to write.

    Raises:
        FileExistsError: it holds something else.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    marker = _read_marker(output) or {}
    same = "measured" in marker and {key: marker.get(key) for key in identity} == identity
    if same and all(
        (output / sequence.folder / name).is_file()
        for sequence in sequences
        for name in sequence.files
    ):
        return True
    raise FileExistsError(
        f"{output} exists and is not a finished version of these frames with this noise: remove it "
        "or choose another --output"
    )


def _recorded_law(output):
    measured = _read_marker(output)["measured"]
    return None if measured is None else VarianceLaw(**measured)
