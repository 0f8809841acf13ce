"""Training clips cut and normalised on a GPU that holds the whole decoded set."""

import numpy as np
import torch
from torch.nn import functional

MEMORY_SHARE = 0.4  # of the GPU's free memory that the set may take


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
        clip = (frames.float() - self.clips.mean) / self.clips.std
        parts = [clip, masks]
        if self.clips.mark_padding:
            parts.append(torch.ones_like(masks))
        missing = self.clips.seqlen - len(clip)
        margins = [self.clips.patch_size - side for side in clip.shape[1:]]
        ends = (0, missing) if crop.pad_end else (missing, 0)
        parts = [functional.pad(part, (0, margins[1], 0, margins[0], *ends)) for part in parts]
        flips = [axis for axis, flip in ((-2, crop.flip_rows), (-1, crop.flip_columns)) if flip]
        clip, *rest = (part.flip(flips) if flips else part for part in parts)
        return clip[None], *rest


def fits(clips, device):
    """Whether a CUDA device has the room for a set of decoded 8-bit frames."""
    arrays = clips.frames.arrays
    if device.type != "cuda" or not arrays or any(f.dtype != np.uint8 for f, _ in arrays):
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return sum(f.nbytes + m.nbytes for f, m in arrays) <= MEMORY_SHARE * free
