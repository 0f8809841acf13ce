"""How much memory a training step takes, told before the first one."""

import copy
from types import SimpleNamespace

import torch
from torch.autograd.graph import saved_tensors_hooks

from utils.process import memory_left
from utils.scan import padded_size, run_clip

SAMPLE_SIDE = 16  # pixels of the frames that are measured
# A step's peak over what it keeps for the gradients, which DeepPro and DeepPro-Plus measure 1.5 to
# 1.9: the rest is gradients of maps and memory between tensors.
PEAK_RATIO = 1.7


def kept_bytes(detector, network, batch, side, precision="fp32"):
    """Bytes that a training step keeps from its forward pass for the backward pass.

    Measured on a clip of few pixels: what is kept grows with their number. Leaves the network and
    the random generators as they were.

    Args:
        detector: makes the promises.
        network: what is run, with the detector's tensors.
        batch: number of clips.
        side: of their square frames, in pixels.
        precision: "bf16" where the network computes in it.
    """
    multiple = detector.side_multiple
    sample = -(-max(SAMPLE_SIDE, detector.smallest_side) // multiple) * multiple
    promises = SimpleNamespace(
        recurrent=detector.recurrent, pads_to=None, side_multiple=detector.side_multiple
    )
    network = copy.deepcopy(network).train()
    device = next(network.parameters()).device
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    storages = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # held, so that no other gets its place
        return tensor

    clip = torch.zeros(1, 1, detector.seqlen, sample, sample, device=device)
    with (
        torch.random.fork_rng(),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
        saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        logits = run_clip(network, clip, promises)
        torch.sigmoid(logits.float()).sum()
    rows, columns = padded_size(detector, side, side, canvas=False)
    kept = sum(storage.nbytes() for storage in storages.values())
    return int(kept * batch * rows * columns / sample**2)


def memory_line(kept, device, shape):
    """What a step takes and what there is, in words.

    Args:
        kept: from `kept_bytes`.
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
    return f"{count / 1e9:.2g} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"
