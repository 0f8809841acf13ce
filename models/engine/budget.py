"""Memory budgets."""

import math
import re

import torch

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "K": 2**10, "M": 2**20, "G": 2**30}


def parse_memory(text):
    """Bytes of "1GiB", "500 MB", "2G" (= GiB) or a number; None stays None.

    Raises:
        ValueError: not a positive size.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([a-z]*)", str(text).strip(), re.IGNORECASE)
    unit = found and _UNITS.get(found[2].upper())
    size = float(found[1]) * unit if unit else 0
    if not 1 <= size < math.inf:
        raise ValueError(f"memory budget {text!r}: expected a size such as 512MiB, 1GiB or 2GB")
    return int(size)


def default_memory(device):
    """Bytes: 512 MiB on a CPU, where more is not faster; half of a GPU's free memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (free + reserved) // 2
    return 512 * 2**20
