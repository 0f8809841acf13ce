"""Linear interpolation along one axis, as a table of positions and weights."""

import torch


class Interpolation:
    """Linear interpolation of `inside` values to `outside`, the corners aligned.

    Positions and weights are rounded to float32 as `torch.nn.functional.interpolate` rounds them:
    exact ones would change scores by 1e-5.

    Attributes:
        before, after: (outside,) the values that each output lies between.
        weight: (outside,) that of the value after it.
    """

    def __init__(self, inside, outside):
        scale = torch.tensor((inside - 1) / (outside - 1) if outside > 1 else 0.0)
        position = torch.arange(outside) * scale
        self.before = position.long().clamp_max(inside - 1)
        self.weight = (position - self.before).clamp(0, 1)
        self.after = torch.where(self.weight > 0, self.before + 1, self.before)
        self.after.clamp_max_(inside - 1)

    def outputs_from(self, inputs):
        """How many outputs the first `inputs` inputs suffice for."""
        return int(torch.searchsorted(self.after, inputs))

    def as_product(self, start, stop):
        """Outputs [start, stop) as a product.

        Returns:
            (first, weights): outputs = weights @ inputs[first : first + weights.shape[1]].
        """
        before, weight = self.before[start:stop], self.weight[start:stop]
        first, last = int(before[0]), int(self.after[stop - 1])
        weights = torch.zeros(stop - start, last - first + 1)
        outputs = torch.arange(stop - start)
        weights[outputs, before - first] = 1 - weight
        weights[outputs, self.after[start:stop] - first] += weight
        return first, weights
