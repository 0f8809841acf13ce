"""Upsamples and adds the maps of a detector's levels while their rows arrive."""

import torch

TILE = 128  # columns that one product upsamples: few enough that its matrix is nearly full


def source(i, inside, outside):
    """Where output i of `outside` lies among `inside` inputs, the corners of both aligned.

    Returns:
        (index of the input before it, weight of the input after that one).
    """
    if outside == 1 or inside == 1:
        return 0, 0.0
    before, rest = divmod(i * (inside - 1), outside - 1)
    return before, rest / (outside - 1)


def interpolation(outputs, inside, outside):
    """Linear interpolation at the output indices `outputs` as a matrix.

    Returns:
        (first, matrix): outputs = matrix @ inputs[first : first + matrix.shape[1]], float64.
    """
    sources = [source(i, inside, outside) for i in outputs]
    first, last = sources[0][0], min(sources[-1][0] + (sources[-1][1] > 0), inside - 1)
    matrix = torch.zeros(len(sources), last - first + 1, dtype=torch.float64)
    for row, (before, weight) in enumerate(sources):
        matrix[row, before - first] = 1 - weight
        if weight:
            matrix[row, before - first + 1] = weight
    return first, matrix


class LevelMerge:
    """Collects the levels' maps and writes the logits of one clip as far down as these reach.

    Bilinear upsampling, corners aligned over the whole image, is a matrix over rows and one over
    columns; as products they run many times faster than as interpolation, and add up in place.

    Args:
        final: a `FinalHead`.
        logits: (T, H, W), to be written.
        sizes: (height, width) of each level's map.
    """

    def __init__(self, final, logits, sizes, scratch):
        self.final, self.logits, self.sizes, self.scratch = final, logits, sizes, scratch
        self.numbers = scratch.numbers
        self.maps, self.tops = [None] * len(sizes), [0] * len(sizes)  # waiting rows, first's number
        self.done = 0
        whole = logits.shape[2]
        self.columns = []  # for every level, (outputs, first input, matrix) of each tile
        for _, width in sizes:
            tiles = [range(i, min(i + TILE, whole)) for i in range(0, whole, TILE)]
            spread = [(tile, *interpolation(tile, width, whole)) for tile in tiles]
            self.columns.append([(tile, i, self.numbers.cast(m.T)) for tile, i, m in spread])

    def push(self, maps):
        """Takes the next rows, (8, T, r, w) or None, of every level."""
        for k, new in enumerate(maps):
            if new is not None:
                old = self.maps[k]
                self.maps[k] = new if old is None else torch.cat([old, new], dim=2)
        end = min(self._reach(k) for k in range(len(self.maps)))
        if end <= self.done:
            return
        _, frames, _, _ = self.maps[0].shape
        rows, width = end - self.done, self.logits.shape[2]
        total = self.scratch.take("total", len(self.maps[0]) * frames, rows, width)
        for k in range(len(self.maps)):
            self._add(k, end, total, fresh=k == 0)
        logits = self.final(total.view(-1, frames, rows * width))
        self.logits[:, self.done : end] = logits.view(frames, rows, width)
        self.done = end

    def _reach(self, k):
        """How many output rows the rows of level k suffice for."""
        whole, height = self.logits.shape[1], self.sizes[k][0]
        have = self.tops[k] + (0 if self.maps[k] is None else self.maps[k].shape[2])
        if have >= height:
            return whole
        # Row r needs row `before` and, with a weight, the next: r (h-1) <= (have-1) (H-1).
        return 0 if have == 0 else (have - 1) * (whole - 1) // (height - 1) + 1

    def _add(self, k, end, total, fresh):
        """Adds output rows [done, end) of level k to total (8 T, rows, W); drops used rows."""
        maps, top, (height, width) = self.maps[k], self.tops[k], self.sizes[k]
        whole = self.logits.shape[1]
        if (height, width) == tuple(self.logits.shape[1:]):
            part = maps.flatten(0, 1)[:, self.done - top : end - top]
            total.copy_(part) if fresh else total.add_(part)
            keep = end
        else:
            first, matrix = interpolation(range(self.done, end), height, whole)
            rows = maps[:, :, first - top : first - top + matrix.shape[1]].flatten(0, 1)
            flat = rows.reshape(-1, width)
            wide = self.scratch.take("wide", len(flat), self.logits.shape[2])
            for tile, column, spread in self.columns[k]:
                torch.mm(
                    flat[:, column : column + len(spread)],
                    spread,
                    out=wide[:, tile.start : tile.stop],
                )
            matrix = self.numbers.cast(matrix).expand(len(total), *matrix.shape)
            wide = wide.view(len(total), -1, wide.shape[1])
            torch.baddbmm(total, matrix, wide, beta=0 if fresh else 1, out=total)
            keep = source(end, height, whole)[0] if end < whole else height
        keep = min(keep, top + maps.shape[2])
        self.maps[k], self.tops[k] = maps[:, :, keep - top :].clone(), keep
