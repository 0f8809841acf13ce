"""Products of rows (N, C) of few channels, in the forms in which libraries are fast.

Eight columns fill half of what a processor multiplies at once. So two neighbouring rows are taken
as one, of twice the channels.
"""

import torch

ENOUGH = 16  # columns of a product; of fewer, MKL takes three times as long for a number


class Product:
    """x -> x @ matrix, for rows x (N, K).

    Args:
        matrix: (K, M).
    """

    def __init__(self, matrix):
        self.matrix, columns = matrix.contiguous(), matrix.shape[1]
        self.of_pairs = torch.block_diag(matrix, matrix) if 1 < columns < ENOUGH else None

    def write(self, x, out=None, plus=None):
        """plus + x @ matrix, in `out` (N, M), where there is one.

        Args:
            plus: (M,).
        """
        out = x.new_empty(len(x), self.matrix.shape[1]) if out is None else out
        x, y, matrix = self.paired(x, out)
        if plus is None:
            torch.mm(x, matrix, out=y)
        else:
            torch.addmm(plus.repeat(y.shape[1] // len(plus)), x, matrix, out=y)
        return out

    def add(self, x, out):
        """Adds x @ matrix to `out` (N, M)."""
        x, y, matrix = self.paired(x, out)
        y.addmm_(x, matrix)
        return out

    def paired(self, x, out):
        """Views of both and a matrix, whose product is the same numbers in the same places."""
        if self.of_pairs is None or len(x) % 2:
            return x, out, self.matrix
        return pairs(x), pairs(out), self.of_pairs


def pairs(rows):
    """(N, C) as (N/2, 2 C), a view."""
    return rows.view(len(rows) // 2, 2 * rows.shape[1])


def write_products(a, b, out):
    """Writes a.T @ b, of rows (N, A) and (N, B), to `out` (A, B)."""
    columns = a.shape[1], b.shape[1]
    if max(columns) < ENOUGH and len(a) % 2 == 0:
        of_pairs = (pairs(a).T @ pairs(b)).view(2, columns[0], 2, columns[1])
        torch.add(of_pairs[0, :, 0], of_pairs[1, :, 1], out=out)
    elif columns[0] <= columns[1]:
        torch.mm(a.T, b, out=out)
    else:  # many columns on the right are faster
        out.copy_((b.T @ a).T)
