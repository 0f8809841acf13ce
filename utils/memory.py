"""How much memory a device has left, and how much a network keeps for its way back."""

import math
from pathlib import Path

import torch
from torch.autograd.graph import saved_tensors_hooks

# Where Linux tells a container's memory: (folder, limit, used, what of it gives way), v2 and v1.
CONTAINER_FILES = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def memory_left(device):
    """Bytes that this process can still take on a device; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()


def free_memory():
    """Bytes of main memory that this process can still take; None where nobody tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return min(sizes["MemAvailable"] + sizes.get("SwapFree", 0), _left_to_container())
    except (OSError, KeyError, ValueError, IndexError):
        return None


def _left_to_container():
    for folder, limit, used, reclaimable in CONTAINER_FILES:
        try:
            most = int((folder / limit).read_text())  # a word where there is no limit
            lines = (folder / "memory.stat").read_text().splitlines()
            reclaimed = int(dict(map(str.split, lines))[reclaimable])  # files read lately
            return most - int((folder / used).read_text()) + reclaimed
        except (OSError, KeyError, ValueError):
            continue
    return math.inf


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
