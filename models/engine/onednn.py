"""Operators that torch has but does not document: oneDNN's layers, and the gradient of ReLU.

Only this file calls them. A layer of oneDNN is used only where a check has computed a small example
with it: this torch has the operator, and this processor runs it. What computes the same elsewhere:

    convolve_onto       matrix products, in `models.engine.rows.convolutions`
    packed layers       matrix products over pixels, in `models.engine.tiles.temporal`

The gradient, for `models.engine.training`, has its formula beside it.
"""

import functools
import platform

import torch


def channels_last(kernel):
    """(C_out, C, ..., columns) with channels innermost in memory, even if there is one.

    oneDNN gives its output in the order of the kernel; torch takes a kernel of one channel for
    either order, unless its strides say which.
    """
    order = torch.channels_last if kernel.dim() == 4 else torch.channels_last_3d
    return torch.empty_like(kernel, memory_format=order).copy_(kernel)


def as_image(x):
    """(T, P, C) as an image (1, C, T, P), channels last in memory; a view."""
    return x.permute(2, 0, 1)[None]


def as_volume(rows):
    """(R, T, W, C) as a volume (1, C, R, T, W), channels last in memory; a view."""
    return rows.permute(3, 0, 1, 2)[None]


def _gives(expected, compute):
    """Whether `compute` runs here and gives a tensor that holds nothing but `expected`."""
    try:
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            return bool((compute() == expected).all())
    # No such operator, another signature, a processor without the type.
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False


def convolve_fused(image, kernel, bias, padding, dilation, activation="none"):
    """A convolution and "relu" or "none", of an image and a packed kernel as in `convolve_onto`."""
    strides = (1,) * len(padding)
    return torch.ops.mkldnn._convolution_pointwise(
        image, kernel, bias, padding, strides, dilation, 1, activation, [], ""
    )


def convolve_onto(out, image, kernel, bias, padding, dilation, activation="relu"):
    """out = activation(out + convolution), in place, of volumes or of images.

    Args:
        out, image: as `as_volume` or `as_image` gives them.
        kernel: (C_out, C, ...), one axis for each of theirs, `channels_last`; of images also as
            `pack_kernel` gives it.
        bias: (C_out,) or None.
        padding, dilation: a number for each axis.
        activation: "relu" or None.
    """
    strides = (1,) * len(padding)
    return torch.ops.mkldnn._convolution_pointwise_.binary(
        out, image, kernel, bias, padding, strides, dilation, 1, "add", 1.0, activation, [], ""
    )


@functools.cache
def has_fused_convolution(dtype):
    """Whether `convolve_onto` takes this type, float32 or bfloat16; on x86, where it is fast.

    Tried is what rows need of it: a volume with ReLU and, in float32, images with a bias.
    """

    def example():
        sizes = (2, 3, 3, 4), (3, 3, 3, 2), (4, 2, 2, 1, 1), (4,)
        out, rows, kernel, bias = (torch.ones(size, dtype=dtype) for size in sizes)
        volumes, geometry = (as_volume(out), as_volume(rows)), ((0, 0, 0), (1, 1, 1))
        convolve_onto(*volumes, channels_last(kernel), None, *geometry)  # 1 + 4
        kernel, geometry = channels_last(kernel[:, :, 0]), ((0, 0), (1, 1))
        for y, x in zip(out, rows[:2], strict=True):
            if dtype == torch.float32:
                convolve_onto(as_image(y), as_image(x), kernel, bias, *geometry, None)  # + 2 + 1
        return out

    expected = {torch.float32: 8, torch.bfloat16: 5}
    on_x86 = platform.machine() in ("x86_64", "AMD64")
    return on_x86 and dtype in expected and _gives(expected[dtype], example)


def pack_kernel(kernel, padding, dilation, rows, width):
    """A bfloat16 kernel (C_out, C, K, 1) of images for `convolve_fused`, packed once.

    Args:
        padding, dilation: a number for each axis.
        rows, width: of the images that it will mostly meet.
    """
    return torch._C._nn.mkldnn_reorder_conv2d_weight(
        kernel.to_mkldnn(), padding, (1, 1), dilation, 1, [1, kernel.shape[1], rows, width]
    )


def pack_matrix(weight, rows):
    """A bfloat16 matrix (outputs, inputs) as `linear_packed` takes it, for about `rows` rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def linear_packed(x, packed, bias):
    """relu(x @ weight.T + bias), of (rows, inputs) bfloat16."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "relu", [], "")


@functools.cache
def has_packed_layers():
    """Whether the packed layers are there: they compute in bfloat16 only."""

    def example():
        sizes = (1, 8, 3, 16), (8, 8, 1, 1), (8,)
        image, kernel, bias = (torch.ones(size, dtype=torch.bfloat16) for size in sizes)
        image = image.contiguous(memory_format=torch.channels_last)
        packed = pack_kernel(kernel, (0, 0), (1, 1), 3, 16)
        geometry = (0, 0), (1, 1)
        y = convolve_fused(image, packed, bias, *geometry, "relu")  # 9
        y = convolve_onto(y, image, packed, bias, *geometry)  # 18
        matrix = torch.ones(8, 8, dtype=torch.bfloat16)
        return linear_packed(y[0].permute(1, 2, 0).flatten(0, 1), pack_matrix(matrix, 48), bias)

    return _gives(8 * 18 + 1, example)


def has_operator(name):
    """Whether this torch has this operator of its ATen library."""
    return hasattr(torch.ops.aten, name)


def relu_gradient(grad, of, out=None):
    """The gradient for a ReLU's input, from that for its output; `of` is the output."""
    out = torch.empty_like(grad) if out is None else out
    if has_operator("threshold_backward"):
        return torch.ops.aten.threshold_backward.grad_input(grad, of, 0, grad_input=out)
    return out.copy_(grad).masked_fill_(of <= 0, 0)
