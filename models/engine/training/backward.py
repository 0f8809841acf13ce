"""What the backward passes share."""

import functools

import torch


def differentiable_once(backward):
    """A `backward` that refuses to be differentiated: its own graph is not recorded."""

    @functools.wraps(backward)
    def checked(ctx, grad):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "second derivatives of the fast training pass: expected create_graph=False; "
                "the network itself has them"
            )
        return backward(ctx, grad)

    return checked


def zero_gradients(biases):
    """The gradients of biases before a BatchNorm, which takes them away again."""
    return [None if bias is None else torch.zeros_like(bias) for bias in biases]
