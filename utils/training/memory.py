"""How much memory a training step takes, told before the first one."""

import copy

import torch

from utils.memory import kept_bytes, memory_left
from utils.scan import ClipNetwork, padded_size

SAMPLE_SIDE = 32  # pixels of the frames that are measured
# A step's peak over what it keeps for its gradients, which for DeepPro and DeepPro-Plus measures
# 1.4 to 1.6, in bf16 or compiled up to 1.9: the rest is gradients of maps and memory in between.
PEAK_RATIO = 1.7


def step_bytes(detector, network, batch, side, precision="fp32"):
    """Bytes that a training step keeps from its forward pass for the backward pass.

    Measured on a clip of few pixels: what is kept grows with their number. Leaves the network and
    the random generators as they were.

    Args:
        detector: makes the promises.
        network: what is run, with the detector's tensors.
        batch: number of clips.
        side: of their square frames, in pixels.
        precision: "bf16" where the network computes in it.

    Raises:
        ValueError: the frames are smaller than the network takes.
    """
    whole = padded_size(detector, side, side, canvas=False)[0]
    if whole < detector.smallest_side:
        raise ValueError(
            f"--patch_size {side}: {type(detector).__name__} takes crops of a side of "
            f"{detector.smallest_side} or more"
        )
    network = ClipNetwork(copy.deepcopy(network).train(), detector)
    device = next(network.parameters()).device
    sample = max(min(side, SAMPLE_SIDE), detector.smallest_side)
    clip = torch.zeros(1, 1, detector.seqlen, sample, sample, device=device)
    half = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), half:
        kept = kept_bytes(lambda: torch.sigmoid(network(clip).float()), network.parameters())
    part = padded_size(detector, sample, sample, canvas=False)[0]
    return int(kept * batch * (whole / part) ** 2)


def memory_line(kept, device, shape):
    """What a step takes and what there is, in words.

    Args:
        kept: from `step_bytes`.
        device: where the step is done.
        shape: of its clips, for the message.

    Raises:
        ValueError: what it keeps alone is more than there is.
    """
    left = memory_left(device)
    if left is not None and kept > left:
        raise ValueError(
            f"a step of {' x '.join(map(str, shape))} pixels keeps {gigabytes(kept)} for its "
            f"gradients, but {gigabytes(left)} of memory are free; expected a smaller "
            "--batch_size or --patch_size"
        )
    free = "" if left is None else f", {gigabytes(left)} are free"
    return f"Memory of a training step: about {gigabytes(PEAK_RATIO * kept)}{free}"


def gigabytes(count):
    """A number of bytes for people."""
    return f"{count / 1e9:.2g} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"
