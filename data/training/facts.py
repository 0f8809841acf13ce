"""What is known of a training's sequences before the first clip is cut from them."""

from data.images import read_size
from data.remarks import Remarks

# What a remark advises where sequences without target select the best checkpoint, by --select.
REMEDIES = {
    "test": "a test list with targets, or --select heldout",
    "heldout": "another --seed, by which others are held out, or --select test",
}


def facts_of(files):
    """[name, frames, height, width, bytes of all files] of a sequence, to know it again by.

    A copy has the same ones: times of files are not among them.

    Args:
        files: `data.lists.SequenceFiles`.
    """
    size = sum(path.stat().st_size for path in (*files.images, *files.masks))
    return [files.name, len(files), *read_size(files.images[0]), size]


def check_selection(sequences, select):
    """Remarks, before the first epoch, on sequences of which none can tell a better epoch.

    They are read up to the first target.

    Args:
        sequences: `data.sequences.TestSequences` with masks.
        select: a key of `REMEDIES`.
    """
    for sequence in sequences:
        for index in range(len(sequence)):
            if sequence.read(index, index + 1).masks.any():
                return
    remarks = sequences.remarks or Remarks()
    remarks.make(
        "selection",
        f"{sequences.names[0]}: no target in any mask of the {len(sequences)} sequences that "
        "select the best checkpoint: the IoU is 0 after every epoch, and the last one counts as "
        f"the best; expected {REMEDIES[select]}",
    )
