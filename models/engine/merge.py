"""Upsamples and adds the maps of a detector's levels while their rows arrive."""

import torch

from models.engine.interpolation import Interpolation

TASK_PIXELS = 4096  # that a thread of a CPU merges at a time: stays in a core's cache
COLUMNS_AT_ONCE = 128  # that one product upsamples: few enough that its matrix is nearly full
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
    columns; as products they run many times faster than as interpolation, and add up in place.

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
        total = scratch.take("total", channels * frames, end - top, self.logits.shape[2])
        for k in range(len(self.sizes)):
            self._add(k, top, end, total, scratch)
        logits = self.final(total.view(channels, frames, -1))
        self.logits[:, top:end] = logits.view(frames, end - top, -1)

    def _add(self, k, top, end, total, scratch):
        """Adds rows [top, end) of level k, upsampled, to total (8 T, rows, W); level 0 sets it."""
        if self.sizes[k] == tuple(self.logits.shape[1:]):
            for row, band in self._between(k, top, end):
                target = total[:, row - top : row - top + band.shape[2]]
                target.copy_(band.flatten(0, 1)) if k == 0 else target.add_(band.flatten(0, 1))
            return
        first, weights = self.rows[k].as_product(top, end)
        bands = [band for _, band in self._between(k, first, first + weights.shape[1])]
        flat = torch.cat(bands, dim=2).flatten(0, 2)
        wide = scratch.take("wide", len(flat), total.shape[2])
        for columns, left, of_columns in self.columns[k]:
            inputs = flat[:, left : left + len(of_columns)]
            torch.mm(inputs, of_columns, out=wide[:, columns])
        weights = self.arithmetic.cast(weights).expand(len(total), *weights.shape)
        wide = wide.view(len(total), -1, total.shape[2])
        torch.baddbmm(total, weights, wide, beta=0 if k == 0 else 1, out=total)
