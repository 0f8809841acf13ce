"""Training clips of several data sets in one epoch."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from data.clips import TrainClips
from data.lists import find_sequences, hold_out
from data.sequences import join_sequences, open_sequences


class MixedFrames(NamedTuple):
    """What `data.batches` asks of frames, for several data sets at once.

    Attributes:
        mode: that of the data sets; "none" if it is that of one.
        arrays: empty: no GPU makes these clips.
    """

    mode: str
    arrays: tuple = ()


class MixedClips(Dataset):
    """An epoch of the clips of several data sets, each normalised by its own mean and std.

    Each set gives as many clips as it would alone, and each of its clips once; their order is
    drawn from (seed, epoch).

    Args:
        sets: list of `data.clips.TrainClips` of one shape, with seeds of their own: `seed_of_set`.
        seed: of the order.
    """

    def __init__(self, sets, seed):
        self.sets, self.seed = sets, seed
        self.sequences = [files for clips in sets for files in clips.sequences]
        modes = [clips.frames.mode for clips in sets]
        self.frames = MixedFrames("none" if "none" in modes else modes[0])
        self.options = sets[0].options
        self.set_epoch(0)

    def __len__(self):
        return len(self.places)

    def set_epoch(self, epoch):
        """Chooses the epoch (0-based) whose clips the items are."""
        for clips in self.sets:
            clips.set_epoch(epoch)
        counts = [len(clips) for clips in self.sets]
        places = [(which, item) for which, n in enumerate(counts) for item in range(n)]
        order = np.random.Generator(np.random.PCG64((self.seed, epoch))).permutation(len(places))
        self.places = [places[index] for index in order]

    def check(self):
        """Looks at each set, once before a training; one of them may be without targets.

        Raises:
            ValueError: none has a target.
        """
        for clips in self.sets:
            clips.check_levels()
        if not any(clips.frames.any_target() for clips in self.sets):
            raise ValueError(
                f"no target in any mask of the {len(self.sequences)} training sequences of "
                f"{len(self.sets)} data sets; expected pixels above 0"
            )

    def __getitem__(self, index):
        which, item = self.places[index]
        return self.sets[which][item]


def open_training_sets(sets, options, held_out, normalise, open_cache):
    """Training clips of one data set or several, and the sequences that select a checkpoint.

    Args:
        sets: list of (row, folder, sample rate).
        options: `data.clips.ClipOptions`; the rate is that of each set, and so is the seed: the
            first set's is the one given.
        held_out: select on a tenth of each training list, not on the test lists.
        normalise: callable(row, folder, list of `SequenceFiles`) -> (mean, std).
        open_cache: callable(the same) -> `data.cache.build.Frames`.

    Returns:
        `TrainClips`, or `MixedClips` of several; `data.sequences.TestSequences`.
    """
    clips, selecting = [], []
    for index, (spec, root, rate) in enumerate(sets):
        training = find_sequences(spec, spec.train, root)
        if held_out:
            training, chosen = hold_out(training, options.seed)
        else:
            chosen = find_sequences(spec, spec.test, root)
        mean, std = normalise(spec, root, training)
        frames = open_cache(spec, root, training)
        own = replace(options, sample_rate=rate, seed=seed_of_set(options.seed, index))
        clips.append(TrainClips(training, mean, std, own, spec.train_size, frames))
        selecting.append(open_sequences(chosen, (mean, std), spec.test_size))
    mixed = clips[0] if len(clips) == 1 else MixedClips(clips, options.seed)
    return mixed, join_sequences(selecting)


def seed_of_set(seed, index):
    """The seed of the data set at `index`: that of the run for the first; others draw apart."""
    if index == 0:
        return seed
    return int(np.random.SeedSequence((seed, index)).generate_state(1)[0])
