"""Calls recorded once and run many times, and the memory that they run in."""

import contextlib
import functools
import math
import mmap

import torch


def shaped(memory, *shape):
    """The start of a flat tensor as one of `shape`; a view."""
    return memory[: math.prod(shape)].view(shape)


class Tape:
    """Calls on fixed tensors, in order.

    On a tile that fits a core's cache a layer takes less time than Python needs to take the views
    that the layer works on; here they are taken once.
    """

    def __init__(self):
        self.calls = []

    def add(self, function, *args, **kwargs):
        self.calls.append(functools.partial(function, *args, **kwargs))

    def add_product(self, weight, x, out):
        """out[i] = weight @ x[i], or weight[i] @ x[i] where weight has as many axes."""
        weight = weight if weight.dim() == x.dim() else weight.expand(len(x), *weight.shape)
        self.add(torch.bmm, weight, x, out=out)

    def run(self):
        for call in self.calls:
            call()


class Scratch:
    """Named buffers that are used again, so that memory is not mapped anew for every tile.

    Also keeps what was recorded on them.
    """

    def __init__(self, arithmetic):
        self.arithmetic = arithmetic
        self.buffers = {}
        self.tapes = {}

    def take(self, name, *shape, dtype=None):
        """A contiguous tensor of `shape` with arbitrary content, valid until the name is taken.

        Args:
            dtype: that of the arithmetic by default.
        """
        size, key = math.prod(shape), (name, dtype or self.arithmetic.dtype)
        if key not in self.buffers or self.buffers[key].numel() < size:
            self.tapes.clear()  # they may hold the buffer, which goes before there is another
            self.buffers.pop(key, None)
            self.buffers[key] = self._zeros(size, key[1])
        return shaped(self.buffers[key], *shape)

    def like(self, x, name):
        """`take` in the shape of x."""
        return self.take(name, *x.shape)

    def recorded(self, key, record):
        """What `record()` returned when it was first called for this key."""
        if key not in self.tapes:
            made = record()
            if len(self.tapes) >= 64:  # tile sizes of many image sizes
                self.tapes.clear()
            self.tapes[key] = made
        return self.tapes[key]

    def _zeros(self, size, dtype):
        """Zeros, as stale frames are multiplied by zero in places, and 0 * nan is nan."""
        device = self.arithmetic.device
        size_bytes = size * dtype.itemsize
        if device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE") or size_bytes < 2**21:
            return torch.zeros(size, dtype=dtype, device=device)
        # Strided access to many megabytes misses the TLB less with pages of 2 MiB.
        pages = mmap.mmap(-1, size_bytes)
        with contextlib.suppress(OSError):  # a kernel built without them
            pages.madvise(mmap.MADV_HUGEPAGE)
        return torch.frombuffer(pages, dtype=dtype, count=size)
