"""Whether the way back through a network fits into memory, before it is tried."""

import math

import torch

from utils.attribution.scores import BATCH_VOXELS, frozen
from utils.memory import kept_bytes, memory_left
from utils.scan import padded_size, run_clip

PROBE = 64  # side of the small clip that is measured


def check_memory(detector, shape, network=None, free=None):
    """Refuses clips whose gradients do not fit into memory.

    What the network keeps for its way back is measured on a small clip and scaled by the area, as
    the network pads it. Of a recurrent network one frame's part is kept at a time.

    Args:
        detector: makes the promises.
        shape: (height, width) of the frames.
        network: what is run, the detector itself if None.
        free: bytes; what is free where the network is if None.

    Raises:
        ValueError: they do not; the message has both sizes.
    """
    if free is None and detector.seqlen * shape[0] * shape[1] <= BATCH_VOXELS:
        return
    device = next(iter(detector.parameters()), torch.zeros(())).device
    free = memory_left(device) if free is None else free
    small = [min(side, PROBE) for side in shape]
    area, small_area = (math.prod(padded_size(detector, *sides)) for sides in (shape, small))
    batch = max(1, BATCH_VOXELS // (detector.seqlen * shape[0] * shape[1]))
    needed = batch * clip_bytes(network or detector, detector, small, device) * area // small_area
    if free is not None and needed > free:
        raise ValueError(
            f"attribution in {detector.seqlen} frames of {shape[0]}x{shape[1]} needs about "
            f"{needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; cut the frames out around "
            "the target"
        )


def clip_bytes(network, detector, shape, device):
    """Bytes of the tensors that the network keeps for its way back from a clip of this shape."""
    frames = 2 if detector.recurrent else detector.seqlen
    clip = torch.zeros(1, 1, frames, *shape, device=device)
    with torch.inference_mode(False), torch.enable_grad(), frozen(detector):
        kept = kept_bytes(lambda: run_clip(network, clip.requires_grad_(), detector))
    return kept // (frames if detector.recurrent else 1)
