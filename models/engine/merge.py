"""Upsamples and adds the maps of a detector's levels while their rows arrive."""

import torch

CHUNK = 4096  # pixels that a thread merges at a time: stays in a core's cache
TILE = 128  # columns that one product upsamples: few enough that its matrix is nearly full


class Interpolation:
    """Linear interpolation of `inside` values to `outside`, the corners aligned.

    Positions and weights are rounded to float32 as `torch.nn.functional.interpolate` rounds them:
    exact ones would change scores by 1e-5.
    """

    def __init__(self, inside, outside):
        scale = torch.tensor((inside - 1) / (outside - 1) if outside > 1 else 0.0)
        position = torch.arange(outside) * scale
        self.before = position.long().clamp_max(inside - 1)
        self.weight = (position - self.before).clamp(0, 1)  # of the value after it
        self.after = torch.where(self.weight > 0, self.before + 1, self.before)
        self.after.clamp_max_(inside - 1)

    def reach(self, have):
        """How many outputs the first `have` inputs suffice for."""
        return int(torch.searchsorted(self.after, have))

    def matrix(self, start, stop):
        """Outputs [start, stop) as a product.

        Returns:
            (first, matrix): outputs = matrix @ inputs[first : first + matrix.shape[1]].
        """
        before, weight = self.before[start:stop], self.weight[start:stop]
        first, last = int(before[0]), int(self.after[stop - 1])
        matrix = torch.zeros(stop - start, last - first + 1)
        outputs = torch.arange(stop - start)
        matrix[outputs, before - first] = 1 - weight
        matrix[outputs, self.after[start:stop] - first] += weight
        return first, matrix


def column_tiles(inside, outside, numbers):
    """(slice of the outputs, first input, matrix (inputs, outputs)) of each tile of a row."""
    columns = Interpolation(inside, outside)
    tiles = [slice(i, min(i + TILE, outside)) for i in range(0, outside, TILE)]
    spread = [(tile, *columns.matrix(tile.start, tile.stop)) for tile in tiles]
    return [(tile, first, numbers.cast(matrix.T)) for tile, first, matrix in spread]


class LevelMerge:
    """Collects the levels' maps and writes the logits of one clip as far down as these reach.

    Bilinear upsampling, corners aligned over the whole image, is a matrix over rows and one over
    columns; as products they run many times faster than as interpolation, and add up in place.

    Args:
        final: a `FinalHead`.
        logits: (T, H, W), to be written.
        sizes: (height, width) of each level's map.
        workers: `Workers`, which share the rows.
    """

    def __init__(self, final, logits, sizes, workers):
        self.final, self.logits, self.sizes, self.workers = final, logits, sizes, workers
        self.numbers = workers.numbers
        self.waiting = [[] for _ in sizes]  # rows not used up, in pieces
        self.tops = [0] * len(sizes)  # number of the first of them
        self.done = 0
        self.rows = [Interpolation(height, logits.shape[1]) for height, _ in sizes]
        self.columns = [column_tiles(width, logits.shape[2], self.numbers) for _, width in sizes]

    def push(self, maps):
        """Takes the next rows, (8, T, r, w) or None, of every level; keeps no hold of them."""
        for waiting, new in zip(self.waiting, maps, strict=True):
            if new is not None:
                waiting.append(new)
        end = min(map(self._reach, range(len(maps))))
        step = max(1, CHUNK // self.logits.shape[2])
        chunks = [(top, min(top + step, end)) for top in range(self.done, end, step)]
        self.workers.run(lambda chunk, scratch: self._merge(*chunk, scratch), chunks)
        self.done = max(self.done, end)
        for k in range(len(maps)):
            self._drop_used(k)

    def _reach(self, k):
        """How many output rows the rows of level k suffice for."""
        return self.rows[k].reach(self.tops[k] + sum(piece.shape[2] for piece in self.waiting[k]))

    def _drop_used(self, k):
        before = self.rows[k].before
        keep = int(before[self.done]) if self.done < len(before) else self.sizes[k][0]
        pieces = [piece.clone() for _, piece in self._between(k, keep, self.sizes[k][0])]
        have = self.tops[k] + sum(piece.shape[2] for piece in self.waiting[k])
        self.waiting[k], self.tops[k] = pieces, min(keep, have)

    def _between(self, k, first, stop):
        """Yields what waits of rows [first, stop) of level k as (number of its first, rows)."""
        top = self.tops[k]
        for piece in self.waiting[k]:
            low, high = max(first - top, 0), min(stop - top, piece.shape[2])
            if low < high:
                yield top + low, piece[:, :, low:high]
            top += piece.shape[2]

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
            for row, piece in self._between(k, top, end):
                part = total[:, row - top : row - top + piece.shape[2]]
                part.copy_(piece.flatten(0, 1)) if k == 0 else part.add_(piece.flatten(0, 1))
            return
        first, matrix = self.rows[k].matrix(top, end)
        pieces = [piece for _, piece in self._between(k, first, first + matrix.shape[1])]
        flat = torch.cat(pieces, dim=2).flatten(0, 2)
        wide = scratch.take("wide", len(flat), total.shape[2])
        for tile, column, spread in self.columns[k]:
            torch.mm(flat[:, column : column + len(spread)], spread, out=wide[:, tile])
        matrix = self.numbers.cast(matrix).expand(len(total), *matrix.shape)
        wide = wide.view(len(total), -1, total.shape[2])
        torch.baddbmm(total, matrix, wide, beta=0 if k == 0 else 1, out=total)
