"""What the backward passes share."""

import functools

import torch


def differentiable_once(backward):
    """A `backward` that refuses to be differentiated: its own graph is not recorded.

    torch's `once_differentiable` lets a gradient without a graph pass where the loss is a sum.
    """

    @functools.wraps(backward)
    def checked(ctx, grad):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "second derivatives of the fast training pass: expected create_graph=False; "
                "the network itself has them"
            )
        return backward(ctx, grad)

    return checked
