"""Sequences that are validated every epoch: their frames and masks are decoded once."""

from data.cache.build import room_in_memory
from data.sequences import FrameBlock, TestSequences


class Room:
    """Bytes that may still be kept, of those that are free when the first are asked for.

    That is after an epoch of training, which by then holds what its steps need.

    Args:
        free: callable() -> bytes that are free then, or None as in `data.cache.build`.
    """

    def __init__(self, free):
        self.free, self.left = free, None

    def take(self, size):
        """Whether that many are left; then they are taken."""
        if self.left is None:
            self.left = room_in_memory(self.free())
        fits = size <= self.left
        self.left -= size if fits else 0
        return fits


class KeptSequence:
    """A test sequence as `utils.evaluation.validate` takes it, whose frames stay in memory.

    Reads as the sequence itself where there is no room for it.

    Args:
        sequence: `data.sequences.TestSequence` with masks.
        room: `Room`, of all that are kept together.
    """

    def __init__(self, sequence, room):
        self.sequence, self.room = sequence, room
        self.name = sequence.name
        self.is_kept, self.whole = None, None

    def __len__(self):
        return len(self.sequence)

    @property
    def normalisation(self):
        """(mean, std) of the sequence."""
        return self.sequence.normalisation

    def read(self, start, stop):
        """The frames [start, stop) and their masks, as `TestSequence.read` gives."""
        if self.is_kept is None:
            block = self.sequence.read(0, 1)
            each = sum(array.nbytes for array in (block.frames, block.masks, block.centroids))
            self.is_kept = self.room.take(len(self) * each)
        if not self.is_kept:
            return self.sequence.read(start, stop)
        if self.whole is None:
            self.whole = self.sequence.read(0, len(self))
        parts = self.whole.frames, self.whole.masks, self.whole.centroids
        return FrameBlock(start, *(part[start:stop] for part in parts))


def keep_decoded(sequences, mode, free=lambda: None):
    """`TestSequences` that are decoded once, as far as memory suffices.

    Args:
        sequences: `TestSequences` with masks.
        mode: of the training frames, see `data.cache.build`; "auto" and "memory" keep.
        free: see `Room`.
    """
    if mode not in ("auto", "memory"):
        return sequences
    room = Room(free)
    return TestSequences([KeptSequence(each, room) for each in sequences], sequences.remarks)
