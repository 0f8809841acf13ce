"""The batches of an epoch of training clips: from a loader, or made on a GPU that holds the set."""

import multiprocessing
import os
import signal
from threading import Thread

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

MEMORY_SHARE = 0.4  # of the GPU's free memory that the set may take
PARENT_CHECKED = 1  # seconds between looks whether the process that a reader reads for still runs


class Batches:
    """The batches of an epoch, this process's share of each.

    Step s of an epoch takes the clips [s B, (s + 1) B), whatever the number of processes; the last
    incomplete batch is dropped.

    Args:
        clips: `data.clips.TrainClips`.
        batch_size: B, of all processes together; a multiple of their number.
        rank: of this process.
        size: number of processes.
        workers: processes that read for this one; None: 2, or none where frames are cached.
        device: where batches are used; on a GPU with the room for the frames they are made there.

    Raises:
        ValueError: no mask has a target.
    """

    def __init__(self, clips, batch_size, rank, size, workers, device):
        if rank == 0:
            clips.check()
        self.clips, self.pin = clips, device.type == "cuda"
        self.total, self.each = batch_size, batch_size // size
        self.offset = rank * self.each
        cached = clips.frames.mode != "none"
        self.workers = (0 if cached else 2) if workers is None else workers
        self.on_device = DeviceClips(clips, device) if fits(clips, device) else None

    def __len__(self):
        return len(self.clips) // self.total

    def of_epoch(self, epoch, first=0):
        """Iterates over the batches of an epoch (0-based) from step `first` on.

        Each is a list of tensors: clips (B / size, 1, T, P, P) float32, masks (B / size, T, P, P)
        uint8, and what else the items of `TrainClips` have. To close the generator ends the
        processes that read.
        """
        self.clips.set_epoch(epoch)
        starts = (step * self.total + self.offset for step in range(first, len(self)))
        indices = [list(range(start, start + self.each)) for start in starts]
        if self.on_device is not None:
            yield from map(self.on_device.batch, indices)
            return
        # Its own generator: torch's must not depend on how often a loader was started.
        generator = torch.Generator()
        yield from DataLoader(
            self.clips,
            batch_sampler=indices,
            num_workers=self.workers,
            pin_memory=self.pin,
            generator=generator,
            worker_init_fn=leave_signals_to_parent,
        )


def leave_signals_to_parent(_):
    """Makes a reading process end by its parent's word, or after it, and by no other.

    A job's processes all get its SIGTERM, a terminal's its Ctrl-C: the parent still wants the clips
    of its step. What it sends itself to end this process is followed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):  # elsewhere nobody tells who sent a signal
        # Waited for by a thread, so that no other gets it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        Thread(target=end_with_parent, daemon=True).start()


def end_with_parent():
    """Ends this process when that which started it sends SIGTERM, or has ended."""
    parent = multiprocessing.parent_process()
    forked = os.getppid() == parent.pid  # by it, not by a server of its own that forks
    while os.getppid() == parent.pid if forked else parent.is_alive():
        arrived = signal.sigtimedwait([signal.SIGTERM], PARENT_CHECKED)
        if arrived is not None and arrived.si_pid == parent.pid:
            break
    os._exit(0)


class DeviceClips:
    """The items of a `data.clips.TrainClips` by the batch, made on a device from decoded frames.

    Args:
        clips: `TrainClips` whose frames are in memory or mapped.
        device: where the frames are put and the clips are made.
    """

    def __init__(self, clips, device):
        self.clips, self.device = clips, device
        self.arrays = [
            tuple(torch.from_numpy(np.array(array)).to(device) for array in arrays)
            for arrays in clips.frames.arrays
        ]

    def batch(self, indices):
        """Clips (B, 1, T, P, P) float32, masks (B, T, P, P) uint8 and what else items have."""
        items = [self.item(self.clips.draw(index)) for index in indices]
        return [torch.stack(parts) for parts in zip(*items, strict=True)]

    def item(self, crop):
        """One item, from where `TrainClips.draw` says."""
        frames, masks = (
            array[crop.start : crop.stop, crop.rows, crop.columns]
            for array in self.arrays[crop.sequence]
        )
        if crop.backwards:
            frames, masks = frames.flip(0), masks.flip(0)
        clip = (frames.float() - self.clips.mean) / self.clips.std
        parts = [clip, masks]
        if self.clips.mark_padding:
            parts.append(torch.ones_like(masks))
        missing = self.clips.seqlen - len(clip)
        margins = [self.clips.patch_size - side for side in clip.shape[1:]]
        ends = (0, missing) if crop.pad_end else (missing, 0)
        parts = [functional.pad(part, (0, margins[1], 0, margins[0], *ends)) for part in parts]
        flips = [axis for axis, flip in ((-2, crop.flip_rows), (-1, crop.flip_columns)) if flip]
        parts = [part.flip(flips) if flips else part for part in parts]
        clip, *rest = (part.mT if crop.transposed else part for part in parts)
        return clip[None], *rest


def fits(clips, device):
    """Whether a CUDA device has the room for a set of decoded 8-bit frames, and makes its clips.

    Clips that are changed at random, or of several data sets, are made on the CPU.
    """
    arrays = clips.frames.arrays
    if clips.options.augmentation is not None:
        return False
    if device.type != "cuda" or not arrays or any(f.dtype != np.uint8 for f, _ in arrays):
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return sum(f.nbytes + m.nbytes for f, m in arrays) <= MEMORY_SHARE * free
