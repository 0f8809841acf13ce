"""Test sequences: frames by range, never whole by need; each knows its own mean and std."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from scipy import ndimage

from data.formats.levels import check_numbers, check_size, check_type
from data.formats.mix import compare_mix, read_mix
from data.frames import ImageFiles
from data.images import read_frame, read_mask, resize
from data.lists import find_sequences, prepare
from data.pairing import frame_numbers, printable
from data.record import read_normalisation, read_rates
from data.remarks import Remarks

STATISTICS_BLOCK = 16  # frames at a time of which the mean and std are added up


@dataclass(frozen=True)
class FrameBlock:
    """Frames [start, start + n) of a sequence, in memory.

    Attributes:
        start: index of the first, from 0.
        frames: (n, H, W) uint8, uint16 or float32, as fed to the network, not normalised.
        masks: (n, H', W') uint8 in {0, 1}; the size differs where frames were resized. None where
            nothing is known of the targets.
        centroids: (n, H', W') uint8 in {0, 1}: each 8-connected component is a target; or None.
    """

    start: int
    frames: np.ndarray
    masks: np.ndarray | None
    centroids: np.ndarray | None

    def __len__(self):
        return len(self.frames)


class TestSequence:
    """One sequence to test: nothing is decoded before it is asked for.

    Attributes:
        name: of the sequence.
        labelled: whether it has masks.
        reading_seconds: spent on decoding so far.
        target_seen: whether a mask that was read had a target.
        stride: every how manyth frame of the footage it was made of it has.

    Args:
        name: as above.
        frames: `ImageFiles` or one of `data.formats`, which has `len`, `read(start, stop)`,
            `place(index)`, `fresh()`, `close()` and `paths`.
        labels: (masks, centroids) likewise, either of which may be None: then the other stands for
            it. Without both the sequence is not labelled.
        normalisation: (mean, std) of the grey levels; None: those of the sequence itself.
        size: (height, width) that frames, not masks, are resized to, or None.
        first_number: number of the first frame; None: as the files are numbered, see
            `data.pairing.frame_numbers`.
        remarks: `data.remarks.Remarks` about the data set.
        earlier: path of the frames before the first one, or None.
    """

    __test__ = False  # no test of its own, whatever the name says to pytest

    def __init__(
        self,
        name,
        frames,
        labels=(None, None),
        normalisation=None,
        size=None,
        first_number=1,
        remarks=None,
        earlier=None,
    ):
        self.name = name
        masks, centroids = labels
        self.labelled = masks is not None or centroids is not None
        self.target_seen, self.rate, self.stride = False, None, 1
        self.reading_seconds = 0.0
        self._frames = frames
        self._masks = centroids if masks is None else masks
        self._centroids = masks if centroids is None else centroids
        self._normalisation, self._size, self._first = normalisation, size, first_number
        self._given, self._earlier = normalisation is not None, earlier
        self._first_read = None  # size, type and place of the frames that were read first
        self._remarks = Remarks() if remarks is None else remarks

    def __len__(self):
        return len(self._frames)

    @property
    def frame_rate(self):
        """Frames a second, of a video once it was read; None where it is not known."""
        return self.rate or getattr(self._frames, "frame_rate", None)

    @cached_property
    def file_names(self):
        """The names of the frames' files, a tuple; None where frames have no files of their own."""
        paths = self._frames.paths
        return None if paths is None else tuple(printable(path.name) for path in paths)

    @cached_property
    def numbers(self):
        """The number of each frame in what is written, a tuple of ints."""
        if self._first is None and self._frames.paths is not None:
            return frame_numbers(self._frames.paths)
        first = 1 if self._first is None else self._first
        return tuple(range(first, first + len(self)))

    @property
    def normalisation(self):
        """(mean, std) that frames are to be normalised with.

        The sequence's own are computed once, over all grey levels, a few frames at a time; for std
        0 it is 1.
        """
        if self._normalisation is None:
            self._normalisation = mean_std(block.frames for block in self.unlabelled_blocks())
        return self._normalisation

    def measure(self, progress):
        """Looks at the grey levels of a video before anything else asks for its length.

        Both need all its frames to be decoded, and take one pass in this order.

        Args:
            progress: has `update(frames)`, such as a bar of tqdm.
        """
        if self._normalisation is not None or getattr(self._frames, "is_counted", True):
            return

        def told():
            for block in self.unlabelled_blocks():
                yield block.frames
                progress.update(len(block))

        self._normalisation = mean_std(told())

    @property
    def earlier(self):
        """Frames (n, H, W) before the first one, oldest first; None where a data set has none.

        Remarks on a file that is not of the first frame, or has none before it.
        """
        if self._earlier is None:
            return None
        *frames, last = read_mix(self._earlier)
        different = compare_mix(last, self._frames.read(0, 1)[0], self._frames.place(0))
        if different is not None:
            self._remarks.make(
                "other Mix",
                f"{self._earlier}: {different}; those before it are taken all the same, without "
                "the file the first one stands for them",
            )
        if not frames:
            self._remarks.make(
                "unused Mix",
                f"{self._earlier}: one frame, and none before it; the first one stands for them",
            )
            return None
        if self._size is not None:
            frames = [resize(frame, self._size) for frame in frames]
        return np.stack(frames)

    def read(self, start, stop):
        """The frames [start, stop) that exist, and their masks, as a `FrameBlock`.

        Raises:
            ValueError: there are none, they cannot be read, or frames and masks do not fit.
        """
        began = time.perf_counter()
        block = self._read(self._frames, start, stop)
        self.reading_seconds += time.perf_counter() - began
        if block is None:
            raise ValueError(f"{self.name}: no frames [{start}, {stop}) among its {len(self)}")
        return block

    def blocks(self, size):
        """Yields all frames in order, `size` to a `FrameBlock`; the last may be shorter.

        While one block is in use the next is read.
        """
        frames, start = self._frames.fresh(), 0

        def read(start):
            began = time.perf_counter()
            block = self._read(frames, start, start + size)
            self.reading_seconds += time.perf_counter() - began
            return block

        with ThreadPoolExecutor(max_workers=1) as reader:
            following = reader.submit(read, start)
            while (block := following.result()) is not None:
                start += size
                following = reader.submit(read, start)
                yield block
        frames.close()
        self._frames.close()

    def unlabelled_blocks(self):
        """Yields all frames in order, as `FrameBlock`s without masks."""
        frames, start = self._frames.fresh(), 0
        while (block := self._read(frames, start, start + STATISTICS_BLOCK, False)) is not None:
            yield block
            start += STATISTICS_BLOCK
        frames.close()

    def _read(self, source, start, stop, labelled=True):
        """A `FrameBlock` from this source of frames, without labels on request; None: no frames."""
        frames = source.read(start, stop)
        if not len(frames):
            return None
        for index, frame in enumerate(frames, start):
            check_numbers(frame, self.name, self._frames.place(index), self._remarks)
        self._check_alike(frames, start)
        masks = centroids = None
        if labelled and self.labelled:
            masks = self._labels(self._masks, "masks", frames, start)
            centroids = masks
            if self._centroids is not self._masks:
                centroids = self._labels(self._centroids, "centroid masks", frames, start)
                self._compare(masks, centroids, start)
            self.target_seen |= bool(centroids.any())
        if self._size is not None:
            frames = np.stack([resize(frame, self._size) for frame in frames])
        return FrameBlock(start, frames, masks, centroids)

    def _check_alike(self, frames, start):
        """Refuses frames of another size or type than those read first, whose levels it looks at.

        What is not seen within a block is seen here.
        """
        place = self._frames.place(start)
        if self._first_read is None:
            self._first_read = frames.shape[1:], frames.dtype, place
            if self._given:
                self._remarks.check_levels(frames[0], *self._normalisation, place)
        size, dtype, first_place = self._first_read
        check_size(frames.shape[1:], place, size, first_place)
        check_type(frames.dtype, place, dtype, first_place)

    def _labels(self, source, what, frames, start):
        labels = source.read(start, start + len(frames))
        if len(labels) < len(frames) or len(source) != len(self):
            raise ValueError(
                f"{self.name}: {len(self)} frames, but {len(source)} {what}; "
                "expected one mask for each frame, of its size"
            )
        check_size(labels.shape[1:], source.place(start), frames.shape[1:], self._frames.place(0))
        return labels

    def _compare(self, masks, centroids, start):
        """Remarks on centroid masks that do not go with the masks."""
        for index, (mask, centroid) in enumerate(zip(masks, centroids, strict=True), start):
            if not centroid.any() and mask.any():
                self._remarks.make(
                    "centroids",
                    f"{self._centroids.place(index)}: no centroid, though "
                    f"{self._masks.place(index)} has a target; targets are counted by centroids",
                )
            elif (centroid > mask).any() and (centroid > ndimage.maximum_filter(mask, 3)).any():
                self._remarks.make(
                    "centroids",
                    f"{self._centroids.place(index)}: a centroid where {self._masks.place(index)} "
                    "has no target; targets are counted by centroids",
                )


class TestSequences:
    """The sequences of a test, in order.

    Args:
        sequences: list of `TestSequence`.
        remarks: `data.remarks.Remarks` about the data set; None: nobody hears of the whole.
    """

    __test__ = False  # no test of its own, whatever the name says to pytest

    def __init__(self, sequences, remarks=None):
        self.sequences = list(sequences)
        self.remarks = remarks

    def __len__(self):
        return len(self.sequences)

    def __iter__(self):
        return iter(self.sequences)

    def tell_targets(self, group):
        """Remarks on a test without any target, after it, from what all its processes have read.

        Args:
            group: `utils.process.Group`, whose processes shared the sequences.
        """
        labelled = [sequence for sequence in self.sequences if sequence.labelled]
        seen = group.gather([each.target_seen for each in labelled])
        if group.is_main and labelled and self.remarks and not any(seen):
            self.remarks.make("no target", f"{labelled[0].name}: no target in any mask of the test")

    @property
    def names(self):
        return [sequence.name for sequence in self.sequences]

    @property
    def reading_seconds(self):
        """Spent on decoding so far."""
        return sum(sequence.reading_seconds for sequence in self.sequences)

    def measure(self, progress):
        """`TestSequence.measure` of each."""
        for sequence in self.sequences:
            sequence.measure(progress)

    def share(self, take):
        """Some of the sequences, those that `take` leaves of their list."""
        return TestSequences(take(self.sequences), self.remarks)


def open_test_list(spec, root, normalisation=None):
    """The `TestSequences` of a data set's test list; see `data.lists` for what is raised.

    Args:
        spec: the data set's row.
        root: its folder.
        normalisation: (mean, std) in place of the data set's, or None.
    """
    prepare(spec, root)
    files = find_sequences(spec, spec.test, root)
    levels = normalisation or read_normalisation(spec, root)
    opened = open_sequences(files, levels, spec.test_size, spec.first_frame)
    rates = read_rates(root)
    for sequence in opened.sequences:
        sequence.rate, sequence.stride = rates.get(sequence.name, (None, 1))
    return opened


def open_sequences(sequences, normalisation, size=None, first_number=1):
    """`TestSequences` of labelled sequences on disk.

    Args:
        sequences: list of `data.lists.SequenceFiles`.
        normalisation: (mean, std) of the grey levels; each sequence's own if None.
        size: (height, width) that frames, not masks, are resized to, or None.
        first_number: number of the first frame in what is written.
    """
    remarks = sequences[0].remarks if sequences else Remarks()
    read_label = partial(read_mask, remarks=remarks)
    opened = []
    for files in sequences:
        labels = [
            None if paths is None else ImageFiles(paths, read_label)
            for paths in (files.masks, files.centroids)
        ]
        frames = ImageFiles(files.images, partial(read_frame, remarks=remarks))
        name = printable(files.name)
        place = normalisation, size, first_number, remarks, files.earlier
        opened.append(TestSequence(name, frames, labels, *place))
    return TestSequences(opened, remarks)


def join_sequences(parts):
    """The `TestSequences` of several, in order; each part has its own normalisation."""
    if len(parts) == 1:
        return parts[0]
    return TestSequences([sequence for part in parts for sequence in part.sequences])


def measure_normalisation(sequences):
    """Mean and standard deviation of all grey levels of sequences on disk, each frame read once.

    Args:
        sequences: list of `data.lists.SequenceFiles`.
    """
    opened = open_sequences(sequences, normalisation=None)
    return mean_std(block.frames for each in opened for block in each.unlabelled_blocks())


def mean_std(blocks):
    """Mean and standard deviation of all grey levels of blocks (n, H, W); std 1 where it is 0.

    Each block is left behind before the next: counts, means and sums of squared differences of two
    parts are joined by Chan's formula.
    """
    count, mean, squares = 0, 0.0, 0.0
    for block in blocks:
        own = float(block.mean(dtype=np.float64))
        own_squares = sum(float(np.square(frame.astype(np.float64) - own).sum()) for frame in block)
        total = count + block.size
        shift = own - mean
        squares += own_squares + shift**2 * count * block.size / total
        mean += shift * block.size / total
        count = total
    return mean, (squares / count) ** 0.5 or 1.0
