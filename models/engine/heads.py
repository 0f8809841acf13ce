"""The end of a level, and of a detector, as matrix products over channels-first maps.

Shifted ReLU: here and in `models.engine.tiles.temporal` no product adds its bias. With a bias b,

    relu(W x + b) = max(W x, -b) + b,

so one `maximum` in place does the work of two passes over memory, and the + b left over, being a
constant, is carried into the bias of the next product. What is called `offset` below is the
constant still to be added to a stored map; `floor` is -b.
"""

import torch

from models.engine.tape import shaped


def channel_matrix(conv):
    """The (C_out, C_in) float64 matrix of a 1x1x1 convolution."""
    return conv.weight.flatten(1).double()


class LevelHead:
    """What follows the blocks of a level: temporal probe, projection, its matrix in the merge.

    A matrix over channels commutes with bilinear upsampling, which weighs pixels with weights that
    sum to one: so each level multiplies its matrix of the merge before it is upsampled.

    Args:
        level: a folded `Level`.
        merge_matrix: of `Stages.merge_matrices`.
        offset: (C,) float64 offset of the features.
        order: the frame held by each stored frame of the features, -1 where it holds nothing; as
            they come by default.
    """

    def __init__(self, level, merge_matrix, offset, arithmetic, order=None):
        heads, projection = level.probe.QK_heads, level.projection[0]
        correlation = heads.correlation.double()  # (C, T, T)
        bias = heads.bias.double() + correlation.sum(-1) * offset[:, None]  # (C, T)
        if order is not None:
            by_order = correlation.new_zeros(*correlation.shape[:2], len(order))
            held = [i for i, frame in enumerate(order) if frame >= 0]
            by_order[..., held] = correlation[..., [order[i] for i in held]]
            correlation = by_order
        self.correlation = arithmetic.cast(correlation)
        self.products = []  # (floor, weight): shifted ReLU, then product
        for conv in (level.probe.conv[0], projection):
            weight = channel_matrix(conv)
            self.products.append((arithmetic.cast(-bias.T[..., None]), arithmetic.cast(weight)))
            bias = conv.bias.double()[:, None] + weight @ bias
        self.products.append((arithmetic.cast(-bias.T[..., None]), arithmetic.cast(merge_matrix)))
        self.offset = merge_matrix @ bias  # (8 or 1, T)
        self.out_channels = len(merge_matrix)

    def record(self, tape, features, buffers):
        """Records (C, stored frames, P) features to (8 or 1, T, P); returns the latter.

        `self.offset` is still to be added. `buffers` are two flat ones for C T P values; the second
        may hold the features.
        """
        channels, frames, _ = self.correlation.shape
        pixels = features.shape[2]
        x = shaped(buffers[0], channels, frames, pixels)
        tape.add_product(self.correlation, features, x)
        x = x.transpose(0, 1)
        for i, (floor, weight) in enumerate(self.products):
            # Frame by frame from the first on: rows of a matrix close to each other.
            y = shaped(buffers[1], frames, channels, pixels) if i == 0 else x
            tape.add(torch.maximum, x, floor, out=y)
            x = shaped(buffers[i % 2], frames, len(weight), pixels)
            tape.add_product(weight, y, x)
        return x.transpose(0, 1)


class FinalHead:
    """Sum of the levels' maps to logits: shifted ReLU, then the last 1x1x1 convolution.

    Where there is no merge, a level's map is its product with the last convolution.
    """

    def __init__(self, merge, final, offset, arithmetic):
        self.floor = None
        bias = final.bias.double()[:, None] + offset
        if merge is not None:
            offset = offset + merge[0].bias.double()[:, None]
            self.floor = arithmetic.cast(-offset[..., None])  # (8, T, 1)
            self.weight = arithmetic.cast(channel_matrix(final))
            bias = final.bias.double()[:, None] + channel_matrix(final) @ offset
        self.bias = bias.T.to(arithmetic.device, torch.float32)  # (T, 1)

    def __call__(self, x):
        """Rows (R, 8 or 1, T, W), overwritten, to rows of logits (R, T, W) float32."""
        if self.floor is not None:
            torch.maximum(x, self.floor, out=x)
            x = torch.matmul(self.weight, x.flatten(2)).view(len(x), 1, *x.shape[2:])
        return x[:, 0].float() + self.bias
