"""Writes the strong-noise version of a data set, in the clean one's layout.

In the output folder:

    <folder of a sequence's frames>/<name of a frame>.png
    <lists>, <table of SNRs>   copies of the clean set's
    dataset.json               likewise, of a converted set: see `data.record`
    noise.json                 parameters, the law that the variance follows, measured, and what
                               tells the clean frames from others: see `data.noise.marker`

Masks are shared with the clean set where that lies beside the output, or beside its parent, under
its own name; else they are copied. Of own footage they are written beside the frames. The table of
SNRs is that of the clean set: which sequences count as low is as before, as in the published set.
"""

import dataclasses
import filecmp
import hashlib
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.cores import usable_cores
from data.images import read_frame
from data.lists import prepare
from data.noise.marker import (
    check_digests,
    claim,
    digest_of,
    is_finished,
    read_marker,
    recorded_law,
    write_marker,
)
from data.noise.model import RECIPE, LawFit, StrongNoise
from data.noise.sources import footage_sequences, listed_sequences
from data.record import RECORD_FILE, read_normalisation
from data.saving import aside_of, in_order, save_image, sweep_asides, writing_at


@dataclass(frozen=True)
class NoisyVersion:
    """All that is to be written.

    Attributes:
        noise: `StrongNoise`.
        sequences: list of `data.noise.sources.NoisySequence`.
        copies: (file, path below the output) of each file to be copied.
        identity: what it is told by in noise.json.
    """

    noise: StrongNoise
    sequences: list
    copies: list
    identity: dict

    def is_finished_in(self, folder):
        """`is_finished` of a folder."""
        places = (Path(each.folder, name) for each in self.sequences for name in each.files)
        return is_finished(folder, self.identity, places)


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
    `<output>.partial`, which the same call continues. A finished one is left as it is, if it was
    made of the frames that are there now.

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
        FileExistsError: `output` holds something else, or was made of other frames.
        OSError: something is missing or cannot be written.
    """
    workers = usable_cores() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers {workers}: expected 1 or more")
    output = Path(output).resolve()  # behind a link, so that the folder can be renamed
    with writing_at(output):
        version = _plan(spec, Path(root), output, noise)
        if version.is_finished_in(output):
            _check_finished(version, output, workers, progress)
        else:
            _write(version, output, workers, progress)
        sweep_asides(output)
    return recorded_law(output)


def _plan(spec, root, output, noise):
    """The `NoisyVersion`."""
    beside = _lies_beside(spec, root, output)
    listed = spec.test is not None  # else it is own footage
    found = listed_sequences(spec, root, beside) if listed else footage_sequences(spec, root)
    sequences = list(found)
    copies = [
        (path, os.path.join(place, path.name))
        for sequence in sequences
        for path, place in sequence.copies
    ]
    names = [split.list_file for split in (spec.train, spec.test) if split is not None]
    names += [] if spec.snr_file is None else [spec.snr_file]
    if listed and spec.mean is None:
        read_normalisation(spec, root)  # what is wrong with it is told before anything is written
        names.append(RECORD_FILE)
    identity = {
        "recipe": RECIPE,
        "dataset": spec.name,
        **dataclasses.asdict(noise),
        "frames": {sequence.folder: len(sequence.files) for sequence in sequences},
    }
    copies += [(root / name, name) for name in names if (root / name).is_file()]
    return NoisyVersion(noise, sequences, copies, identity)


def _write(version, output, workers, progress):
    """Writes it all, or the rest of it."""
    unfinished = output.with_name(f"{output.name}.partial")
    unfinished.mkdir(parents=True, exist_ok=True)
    claim(unfinished, version.identity)
    try:
        fit, digests = _write_frames(version, unfinished, workers, progress)
        for path, place in version.copies:
            _copy(path, unfinished / place)
        law = fit.law()
        measured = None if law is None else dataclasses.asdict(law)
        write_marker(unfinished, version.identity | {"measured": measured, "digests": digests})
        unfinished.rename(output)
    except OSError:
        if not version.is_finished_in(output):  # by another process meanwhile
            raise
        shutil.rmtree(unfinished, ignore_errors=True)  # what was written after it had its name


def _check_finished(version, output, workers, progress):
    """Makes sure that a finished folder is of the files that are there now; adds missing copies."""
    marker = read_marker(output)
    if "digests" in marker:
        check_digests(output, _digest_frames(version, workers, progress))
    else:  # of an earlier version of this program: its frames themselves tell, once
        _, digests = _write_frames(version, output, workers, progress)
        with suppress(OSError):  # it may only be read: then the next call checks it again
            write_marker(output, marker | {"digests": digests})
    for path, place in version.copies:
        copied = output / place
        if not copied.is_file():
            _copy(path, copied)
        elif not filecmp.cmp(path, copied, shallow=False):
            raise FileExistsError(
                f"{copied}: is not what {path} is now: copy that, or remove {output} or choose "
                "another --output"
            )


def _copy(path, copied):
    copied.parent.mkdir(parents=True, exist_ok=True)
    with aside_of(copied) as aside:
        shutil.copyfile(path, aside)


def _write_frames(version, folder, workers, progress):
    """Writes all frames below a folder that are not there: (`LawFit`, digests) of all of them."""
    for sequence in version.sequences:
        (folder / sequence.folder).mkdir(parents=True, exist_ok=True)
    total, digests = LawFit(version.noise.law()), _Digests(version)
    work = partial(_write_frame, folder, version.noise)
    for sequence, fit, digest in _each_frame(work, version, workers, progress, "Adding noise"):
        total = total + fit
        digests.add(sequence, digest)
    return total, digests.given()


def _digest_frames(version, workers, progress):
    """The digests of all frames as they are read now."""
    digests = _Digests(version)
    for found in _each_frame(_digest_frame, version, workers, progress, "Checking frames"):
        digests.add(*found)
    return digests.given()


class _Digests:
    """For each sequence that of its frames' digests."""

    def __init__(self, version):
        self.by_folder = {sequence.folder: hashlib.sha256() for sequence in version.sequences}

    def add(self, sequence, digest):
        self.by_folder[sequence.folder].update(digest)

    def given(self):
        return {folder: digest.hexdigest() for folder, digest in self.by_folder.items()}


def _each_frame(work, version, workers, progress, title):
    """Yields what work(sequence, index, load) gives of each frame, in order."""
    jobs = (
        partial(work, sequence, index, load)
        for sequence in version.sequences
        for index, load in enumerate(sequence.load())
    )
    count = sum(len(sequence.files) for sequence in version.sequences)
    with tqdm(total=count, desc=title, unit="frame", disable=not progress) as bar:
        for done in in_order(jobs, workers):
            yield done
            bar.update()


def _digest_frame(sequence, _, load):
    return sequence, digest_of(*load())


def _write_frame(folder, noise, sequence, index, load):
    """Writes one frame with its labels, unless they are there: (sequence, its `LawFit`, digest)."""
    frame, labels = load()
    name = sequence.files[index]
    try:
        noisy = noise.add_to(frame, sequence.folder, index)
    except ValueError as error:
        raise ValueError(f"{sequence.folder}/{name}: {error}") from error
    images = {folder / place / name: 255 * mask for place, mask in labels.items()}
    images[folder / sequence.folder / name] = noisy
    for path, pixels in images.items():
        found = _pixels_there(path)
        if found is None:
            path.parent.mkdir(exist_ok=True)  # that of labels
            save_image(path, pixels)
        elif not np.array_equal(found, pixels):
            raise FileExistsError(
                f"{path}: was made of another image than is read now: remove {folder} or choose "
                "another --output"
            )
    return sequence, LawFit(noise.law()).add(frame, noisy), digest_of(frame, labels)


def _pixels_there(path):
    """What an image file holds; None where there is none that can be read."""
    try:
        return read_frame(path)
    except ValueError:
        return None


def _lies_beside(spec, root, output):
    """Whether the noisy version will find the clean set's masks where its row looks for them."""
    places = (output.parent / spec.name, output.parent.parent / spec.name)
    found = next((place for place in places if place.is_dir()), None)
    return found is not None and root.is_dir() and found.samefile(root)
