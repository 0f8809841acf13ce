"""The number types that an engine computes in, and which of them a device is fast in."""

import warnings

import torch

from models.engine import onednn

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Arithmetic:
    """The number type in which an engine computes, and the device on which."""

    def __init__(self, dtype, device):
        self.dtype, self.device = dtype, device

    def cast(self, tensor):
        return tensor.detach().to(self.device, self.dtype).contiguous()


def usable_dtype(precision, device, force=False):
    """The type of `precision`, or float32 with one warning where the device has no units for it.

    A type that a device only emulates is slower than float32 there; `force` takes it all the same.

    Raises:
        ValueError: not one of PRECISIONS.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    dtype = PRECISIONS[precision]
    if dtype == torch.float32 or force or _computes_in(dtype, device):
        return dtype
    warnings.warn(f"{device} does not compute in {precision}: using fp32", stacklevel=3)
    return torch.float32


def _computes_in(dtype, device):
    if device.type == "cuda":
        return dtype == torch.float16 or torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return _cpu_has_units_for(dtype)
    return dtype == torch.float16


def _cpu_has_units_for(dtype):
    """Whether the instruction set multiplies in the type, and torch's layers may use it."""
    # torch 2.8 does not tell: then none are used.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    names = {
        torch.bfloat16: ("avx512_bf16", "amx_bf16"),
        torch.float16: ("avx512_fp16", "amx_fp16"),
    }
    # oneDNN can be told to leave units unused; it says yes where it only emulates them.
    has_units = any(capabilities.get(name, False) for name in names[dtype])
    return has_units and (dtype != torch.bfloat16 or onednn.has_fused_convolution(dtype))
