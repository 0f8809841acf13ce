"""The training pass on a CPU of networks that convolve along time only, in a layout made for them.

Everything in such a network but pooling and upsampling acts along time, pixel by pixel. So its maps
(B, C, T, H, W) lie in memory with the channels innermost, and a (k,1,1) convolution of a volume is
computed as a (k,1) convolution of an image of T rows and H W columns. Learned tensors are the
network's own: its state dict, gradients and running statistics are those of the plain pass up to
rounding.
"""

import math
from functools import singledispatch

import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional

from models.difference_conv import kernel_of
from models.engine import onednn
from models.tpro import ProbeHeads

MOMENT_GROUPS = 256  # of positions, whose moments are taken apart


class FastTraining(nn.Module):
    """A detector whose training pass on a CPU takes the fast way; shares the network's tensors.

    Called as the network is. In evaluation mode, on other devices, in lower precision and for
    networks without a fast way it is the network.

    Args:
        network: any detector.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *inputs):
        if not self.is_fast(inputs[0]):
            return self.network(*inputs)
        self.network.check_clip(*inputs)
        logits = self.network.stages().run(*inputs, compute, merge_levels_when_small)
        return logits.squeeze(1)

    def is_fast(self, clip):
        """Whether a call with this clip takes the fast way."""
        stages = self.network.stages()
        return (
            stages is not None
            and stages.is_temporal()
            and self.network.training
            and clip.device.type == "cpu"
            and clip.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
        )


@singledispatch
def compute(layer, x):
    """layer(x), of a map (B, C, T, H, W); the faster ways for the layers that have one follow."""
    return layer(x)


@compute.register
def convolve_along_time(conv: nn.Conv3d, x):
    """A convolution."""
    (size, *beside), (padding, *_), (dilation, *_) = conv.kernel_size, conv.padding, conv.dilation
    keeps_size = 2 * padding == dilation * (size - 1)
    if beside != [1, 1] or conv.stride != (1, 1, 1) or conv.groups > 1 or not keeps_size:
        return conv(x)
    return Convolution.apply(x, kernel_of(conv).flatten(3), conv.bias, padding, dilation)


class Convolution(Function):
    """A (K,1) convolution of (B, C, T, H, W) along T, zero-padded to the same size.

    torch's gradients are several times slower than the products that they consist of.
    """

    @staticmethod
    def forward(ctx, x, kernel, bias, padding, dilation):
        image = as_image(x)
        ctx.save_for_backward(image, kernel)
        ctx.padding, ctx.dilation = (padding, 0), (dilation, 1)
        out = functional.conv2d(image, kernel, bias, 1, ctx.padding, ctx.dilation)
        return as_volume(out, x.shape[3:])

    @staticmethod
    def backward(ctx, grad):
        image, kernel = ctx.saved_tensors
        size, grad = grad.shape[3:], as_image(grad)
        grad_x = None
        if ctx.needs_input_grad[0]:
            flipped = kernel.flip(2).transpose(0, 1).contiguous(memory_format=torch.channels_last)
            grad_x = functional.conv2d(grad, flipped, None, 1, ctx.padding, ctx.dilation)
            grad_x = as_volume(grad_x, size)
        learned = learned_gradients(image, grad, kernel, ctx.padding, ctx.dilation)
        grad_kernel, grad_bias = learned
        return grad_x, grad_kernel, grad_bias if ctx.needs_input_grad[2] else None, None, None


def as_image(x):
    """(B, C, T, H, W) as (B, C, T, H W), channels last; a view where the layout is that already."""
    return x.flatten(3).contiguous(memory_format=torch.channels_last)


def as_volume(image, size):
    """The way back from `as_image`; autograd does not see a view, so ReLU may write into it."""
    return image.unflatten(3, size).data


def learned_gradients(image, grad, kernel, padding, dilation):
    """The gradients of a `Convolution` for its kernel and its bias."""
    outputs, inputs, taps, _ = kernel.shape
    if taps == 1 or inputs < 16:  # here torch is as fast
        return onednn.convolution_gradients(grad, image, kernel, padding, dilation)
    # Summed as torch sums it: for a bias before BatchNorm this is rounding, but Adam follows it.
    grad_bias = grad.sum((0, 2, 3))
    _, _, frames, pixels = image.shape
    image, grad = (a.permute(0, 2, 3, 1).flatten(1, 2) for a in (image, grad))  # (B, T N, C)
    total = grad.new_zeros(taps, outputs, inputs)
    for tap in range(taps):
        shift = (tap * dilation[0] - padding[0]) * pixels
        size = max(frames * pixels - abs(shift), 0)
        for of_clip, clip in zip(grad, image, strict=True):
            of_clip, clip = of_clip[max(-shift, 0) :][:size], clip[max(shift, 0) :][:size]
            total[tap].addmm_(of_clip.T, clip)
    return total.permute(1, 2, 0).unsqueeze(3), grad_bias


@compute.register
def normalise_batch(norm: nn.BatchNorm3d, x):
    """A BatchNorm; updates its running statistics."""
    if not norm.training or norm.momentum is None or norm.weight is None:
        return norm(x)
    out, mean, variance = BatchNorm.apply(x, norm.weight, norm.bias, norm.eps)
    with torch.no_grad():
        count = x.numel() // x.shape[1]
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / max(count - 1, 1)), norm.momentum)
    return out


class BatchNorm(Function):
    """BatchNorm over (B, C, T, H, W): (output, mean, biased variance).

    torch sums channels-last maps one position after the other in float32, which loses four digits
    over millions of positions; here moments are taken of groups of positions and joined.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        image = as_image(x)  # a view but for the stem's
        mean, variance = moments(image)
        ctx.save_for_backward(image, weight, mean, torch.rsqrt(variance + eps))
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        out = functional.batch_norm(image, mean, variance, weight, bias, False, 0.0, eps)
        return as_volume(out, x.shape[3:]), mean, variance

    @staticmethod
    def backward(ctx, grad, *_):
        image, weight, mean, deviation = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = onednn.batch_norm_gradients(
            as_image(grad), image, weight, mean, deviation, ctx.eps
        )
        return as_volume(grad_x, grad.shape[3:]), grad_weight, grad_bias, None


def moments(image):
    """Mean and biased variance of every channel of (B, C, T, N), channels last."""
    channels = image.shape[1]
    rows = image.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()
    each = len(rows) // MOMENT_GROUPS
    whole, rest = rows[: each * MOMENT_GROUPS], rows[each * MOMENT_GROUPS :].double()
    sums, squares = rest.sum(0), rest.square().sum(0)
    if each:
        grouped = whole.view(each, -1)  # position i is in group i mod MOMENT_GROUPS
        means, variances = onednn.column_moments(grouped)
        means, variances = (a.view(-1, channels).double() for a in (means, variances))
        sums = sums + each * means.sum(0)
        squares = squares + each * (variances + means.square()).sum(0)
    mean = sums / len(rows)
    variance = (squares / len(rows) - mean.square()).clamp_min(0)
    return mean.float(), variance.float()


@compute.register
def correlate_profiles(heads: ProbeHeads, x):
    """The heads of a temporal probe."""
    count, frames, size = len(heads), x.shape[2], x.shape[3:]
    weight = torch.stack([head.weight for head in heads]) / math.sqrt(frames)
    bias = torch.stack([head.bias for head in heads])
    # (B, C, T, H, W), channels innermost, to (B, m, T, N C/m), and back.
    x = x.permute(0, 2, 3, 4, 1).flatten(2, 3).unflatten(-1, (count, -1))
    x = weight @ x.permute(0, 3, 1, 2, 4).flatten(3) + bias[..., None]
    x = x.unflatten(3, (math.prod(size), -1)).permute(0, 2, 3, 1, 4).flatten(3)
    return x.permute(0, 3, 1, 2).unflatten(3, size)


@compute.register
def pool_frames(pool: nn.MaxPool3d, x):
    """A pool over 2 x 2 pixels."""
    return as_clips(functional.max_pool2d(as_frames(x), 2), len(x))


def merge_levels_when_small(stages, maps, size, compute):
    """`models.stages.merge_levels`; small maps are upsampled, and none is concatenated.

    The convolution of concatenated maps is a sum of one of each, and it commutes with upsampling.
    """
    kernels = [None] if stages.merge is None else stages.merge[0].weight.chunk(len(maps), dim=1)
    total = None
    for x, kernel, pooled in zip(maps, kernels, stages.are_pooled(), strict=True):
        if kernel is not None:
            x = functional.conv2d(x.flatten(3), kernel.flatten(3)).unflatten(3, x.shape[3:])
        x = upsample_frames(x, size) if pooled else x
        total = x if total is None else total + x
    if stages.merge is None:
        return total
    conv, norm, relu = stages.merge
    return relu(compute(norm, total + conv.bias[:, None, None, None]))


def upsample_frames(x, size):
    """Bilinear upsampling, corners aligned."""
    frames = functional.interpolate(as_frames(x), size=size, mode="bilinear", align_corners=True)
    return as_clips(frames, len(x))


def as_frames(x):
    """(B, C, T, H, W), channels innermost, as (B T, C, H, W); a view."""
    return x.permute(0, 2, 3, 4, 1).flatten(0, 1).permute(0, 3, 1, 2)


def as_clips(frames, batch):
    """The way back from `as_frames`."""
    frames = frames.permute(0, 2, 3, 1).contiguous()
    return frames.unflatten(0, (batch, -1)).permute(0, 4, 1, 2, 3)
