"""The batches of an epoch of training clips, from a loader or made on the GPU itself."""

import torch
from torch.utils.data import DataLoader

from data.device_clips import DeviceClips, fits


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
    """

    def __init__(self, clips, batch_size, rank, size, workers, device):
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
        uint8, and what else the items of `TrainClips` have.
        """
        self.clips.set_epoch(epoch)
        starts = (step * self.total + self.offset for step in range(first, len(self)))
        indices = [list(range(start, start + self.each)) for start in starts]
        if self.on_device is not None:
            return map(self.on_device.batch, indices)
        # Its own generator: torch's must not depend on how often a loader was started.
        generator = torch.Generator()
        return iter(
            DataLoader(
                self.clips,
                batch_sampler=indices,
                num_workers=self.workers,
                pin_memory=self.pin,
                generator=generator,
            )
        )
