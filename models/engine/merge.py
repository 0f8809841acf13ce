"""Upsamples and adds the maps of a detector's levels while their rows arrive."""

import torch

from models.engine.interpolation import Interpolation

TASK_PIXELS = 2048  # that a thread of a CPU merges at a time: stays in a core's cache
COLUMNS_AT_ONCE = 64  # that one product upsamples: few enough that its matrix is nearly full
# The most numbers for a pixel and frame of a band: 8 channels of the levels' maps, of which full,
# half and quarter size are 11, new, joined or copied, and waiting (3 x 11); their rows joined (4)
# and upsampled along rows (8), the sum (8), and what becomes of that (3).
MERGED_VALUES = 56
MERGED_ROWS = 8  # that wait for rows of other levels, beside a band's


def column_products(inside, outside, arithmetic):
    """(slice of the outputs, first input, weights (inputs, outputs)), which together make a row."""
    row = Interpolation(inside, outside)
    products = []
    for left in range(0, outside, COLUMNS_AT_ONCE):
        columns = slice(left, min(left + COLUMNS_AT_ONCE, outside))
        first, weights = row.as_product(columns.start, columns.stop)
        products.append((columns, first, arithmetic.cast(weights.T)))
    return products


class LevelMerge:
    """Collects the levels' maps and writes the logits of one clip as far down as these suffice for.

    Bilinear upsampling, corners aligned over the whole image, is a matrix over rows and one over
    columns; as products they run many times faster than as interpolation. Maps are widened first;
    then one product makes rows of the sum from those of all levels, (rows, 8, T, W) numbers.

    Args:
        final: a `FinalHead`.
        logits: (T, H, W), to be written.
        sizes: (height, width) of each level's map.
        workers: `Workers`, among which the rows are divided.
    """

    def __init__(self, final, logits, sizes, workers):
        self.final, self.logits, self.sizes, self.workers = final, logits, sizes, workers
        self.arithmetic = workers.arithmetic
        self.waiting = [[] for _ in sizes]  # rows still needed, in bands as they came
        self.tops = [0] * len(sizes)  # number of the first of them
        self.done = 0
        self.rows = [Interpolation(height, logits.shape[1]) for height, _ in sizes]
        width = logits.shape[2]
        self.columns = [column_products(inside, width, self.arithmetic) for _, inside in sizes]
        self.full, self.smaller = [], []  # the levels of the logits' size, and the others
        for k, size in enumerate(sizes):
            (self.full if size == tuple(logits.shape[1:]) else self.smaller).append(k)

    def push(self, maps):
        """Takes the next rows, (8, T, r, w) or None, of every level; keeps no hold of them."""
        for waiting, new in zip(self.waiting, maps, strict=True):
            if new is not None:
                waiting.append(new)
        end = min(rows.outputs_from(self._have(k)) for k, rows in enumerate(self.rows))
        step = max(1, TASK_PIXELS // self.logits.shape[2])
        if self.logits.device.type != "cpu":
            step = max(1, end - self.done)
        tasks = [(top, min(top + step, end)) for top in range(self.done, end, step)]
        self.workers.run(lambda task, scratch: self._merge(*task, scratch), tasks)
        self.done = max(self.done, end)
        for k in range(len(maps)):
            self._drop_used(k)

    def _have(self, k):
        """How many rows of level k have come."""
        return self.tops[k] + sum(band.shape[2] for band in self.waiting[k])

    def _drop_used(self, k):
        before, have = self.rows[k].before, self._have(k)
        keep = int(before[self.done]) if self.done < len(before) else self.sizes[k][0]
        self.waiting[k] = [band.clone() for _, band in self._between(k, keep, have)]
        self.tops[k] = min(keep, have)

    def _between(self, k, first, stop):
        """Yields what waits of rows [first, stop) of level k as (number of its first, rows)."""
        top = self.tops[k]
        for band in self.waiting[k]:
            low, high = max(first - top, 0), min(stop - top, band.shape[2])
            if low < high:
                yield top + low, band[:, :, low:high]
            top += band.shape[2]

    def _merge(self, top, end, scratch):
        """Writes rows [top, end) of the logits."""
        channels, frames = self.waiting[0][0].shape[:2]
        images = channels, frames, self.logits.shape[2]  # rows come before these
        products = [self.rows[k].as_product(top, end) for k in self.smaller]
        weights = torch.cat([torch.empty(end - top, 0), *(weights for _, weights in products)], 1)
        wide = scratch.take("wide", weights.shape[1], *images)
        parts = wide.split([weights.shape[1] for _, weights in products])
        for k, (first, _), part in zip(self.smaller, products, parts, strict=True):
            self._widen(k, first, part)
        total = scratch.take("total", end - top, *images)
        torch.mm(self.arithmetic.cast(weights), wide.flatten(1), out=total.flatten(1))
        for k in self.full:
            for row, band in self._between(k, top, end):
                total[row - top :][: band.shape[2]] += band.permute(2, 0, 1, 3)
        self.logits[:, top:end] = self.final(total).transpose(0, 1)

    def _widen(self, k, first, out):
        """Writes rows of level k from `first` on, as wide as the logits, to `out` (R, 8, T, W)."""
        between = self._between(k, first, first + len(out))
        flat = torch.cat([band.permute(2, 0, 1, 3) for _, band in between]).flatten(0, 2)
        out = out.flatten(0, 2)
        for columns, left, of_columns in self.columns[k]:
            inputs = flat[:, left : left + len(of_columns)]
            torch.mm(inputs, of_columns, out=out[:, columns])
