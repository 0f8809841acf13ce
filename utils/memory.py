"""How much memory a device has left, and how much a network keeps for its way back."""

import torch
from torch.autograd.graph import saved_tensors_hooks

from data.machine import free_memory


def memory_left(device):
    """Bytes that this process can still take on a device; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()


def kept_bytes(run, known=()):
    """Bytes of the tensors that autograd keeps for the way back through what `run()` computes.

    Args:
        run: called once.
        known: tensors that are there anyway, such as a network's weights: they do not count.
    """
    counted = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # held, so that no other comes to lie at its place
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for place, storage in kept.items() if place not in counted)
