"""`torch.compile` of a network, where it works."""

import torch


def compiled(network, device):
    """The network, compiled at its first step.

    Raises:
        ValueError: nothing can be compiled for the device, which a small function has shown.
    """
    try:
        torch.compile(lambda x: 2 * x + 1)(torch.ones(8, device=device))
    except Exception as error:  # of many kinds, by what is missing
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"--compile: torch cannot compile for {device} ({lines[0]}); expected a C++ compiler, "
            "for a GPU Triton besides; or leave --compile out"
        ) from error
    return torch.compile(network)
