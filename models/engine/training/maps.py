"""Maps cut into pieces that stay in cache.

A map (B, C, T, H, W) becomes rows (pieces, N, C): N positions a piece, channels innermost.
"""

import functools
import math

import torch

from models.engine.precision import Arithmetic
from models.engine.training.moments import new_rows
from models.engine.workers import Pool, Workers

FLOAT32 = Arithmetic(torch.float32, torch.device("cpu"))
_workers = Pool(lambda: Workers(FLOAT32))  # with the memory that their threads compute in
PIXELS = 256  # wanted of a piece of `PixelTiles`
POSITIONS = 8192  # wanted of a piece of `Volumes`


def run_tasks(task, count):
    """Calls task(i, room) for i below `count`: a thread takes one at a time and computes alone.

    Without gradients. Threads that meet in every product wait for each other; where other programs
    want the cores too, most of the time. `room` is the thread's `Scratch`.
    """
    with _workers.taken() as workers, workers, torch.no_grad():
        workers.run(task, range(count))


@functools.cache
def divisor_near(wanted, total):
    """The divisor of `total` nearest to `wanted` by ratio, at most four times as large.

    Where all such are small, `total`.
    """
    divisors = [n for n in range(1, min(4 * wanted, total) + 1) if total % n == 0]
    nearest = min(divisors, key=lambda n: max(n, wanted) / min(n, wanted))
    return nearest if 16 * nearest > wanted else total


class Pieces:
    """How a map is divided: into `pieces` of N `positions` each, (pieces, N, C).

    Attributes:
        act_along_time: whether convolutions act along time only, piece by piece.
        count: positions in all.
    """

    act_along_time = True

    def __init__(self, pieces, positions):
        self.pieces, self.positions, self.count = pieces, positions, pieces * positions
        if self.count < 2:
            raise ValueError("one value per channel in a map: expected more when training")

    def new(self, channels):
        """A map, and the list of its pieces."""
        rows = new_rows(self.pieces, self.positions, channels)
        return rows, rows.unbind(0)

    def run(self, task):
        """Calls task(piece, room) for every piece, see `run_tasks`."""
        run_tasks(task, self.pieces)


class PixelTiles(Pieces):
    """A piece holds all frames of some pixels, frame by frame.

    Args:
        batch, frames, size: B, T and (H, W) of the map.
    """

    def __init__(self, batch, frames, size):
        total = math.prod(size)
        # Two or more a clip, so that small clips keep as much for each pixel as large ones.
        self.pixels = divisor_near(min(PIXELS, max(total // 2, 1)), total)
        self.batch, self.frames, self.size = batch, frames, size
        super().__init__(batch * total // self.pixels, frames * self.pixels)

    def cut(self, x):
        """(B, C, T, H, W) to (pieces, N, C)."""
        x = x.permute(0, 2, 3, 4, 1).reshape(self.batch, self.frames, -1, self.pixels, x.shape[1])
        return x.transpose(1, 2).reshape(self.pieces, self.positions, -1)

    def join(self, rows):
        """The way back."""
        x = rows.view(self.batch, -1, self.frames, self.pixels, rows.shape[2])
        x = x.transpose(1, 2).reshape(self.batch, self.frames, *self.size, -1)
        return x.permute(0, 4, 1, 2, 3)


class Volumes(Pieces):
    """A map as (B, H, T, W, C) lies in memory, for convolutions of whole volumes.

    Args:
        batch, frames, size: B, T and (H, W) of the map.
        positions: of a piece, if they matter.
    """

    act_along_time = False

    def __init__(self, batch, frames, size, positions=None):
        self.shape = batch, size[0], frames, size[1]
        count = math.prod(self.shape)
        positions = positions or divisor_near(POSITIONS, count)
        super().__init__(count // positions, positions)

    def cut(self, x):
        """(B, C, T, H, W) to (pieces, N, C), dense; a view of what `join` gave."""
        return x.permute(0, 3, 2, 4, 1).reshape(self.pieces, self.positions, -1).contiguous()

    def join(self, rows):
        """The way back, a view."""
        return rows.view(*self.shape, -1).permute(0, 4, 2, 1, 3)


class ImageRows(Volumes):
    """The same memory with a row of the images a piece, which is one as of `PixelTiles`."""

    act_along_time = True

    def __init__(self, batch, frames, size):
        self.frames, self.pixels = frames, size[1]
        super().__init__(batch, frames, size, frames * size[1])


def shifted_slices(positions, shift):
    """Slices (of the output, of the input) where position p of one meets p + shift of the other."""
    size = max(positions - abs(shift), 0)
    return (
        slice(max(-shift, 0), max(-shift, 0) + size),
        slice(max(shift, 0), max(shift, 0) + size),
    )
