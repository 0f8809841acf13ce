"""DeepPro's training pass on a CPU in the layout that its convolutions are fast in.

Everything but pooling and upsampling acts along time, pixel by pixel. So a clip is taken as an
image of T rows and H W columns, channels last, and a (k,1,1) convolution of a volume is a (k,1)
convolution of that image. Learned tensors are the network's own: its state dict, gradients and
running statistics are those of the plain pass up to rounding.
"""

import math

import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional

from models.deeppro import DeepPro
from models.difference_conv import kernel_of

GROUPS = 256  # of positions, whose moments are taken apart


class FastTraining(nn.Module):
    """A detector whose training pass on a CPU takes the fast way; shares the network's tensors.

    Called as the network is: clip (B, 1, T, H, W) to logits (B, T, H, W). In evaluation mode, on
    other devices, in lower precision and for networks without a fast way it is the network.

    Args:
        network: a detector of `models.MODELS`.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, clip):
        fast = FAST.get(type(self.network))
        if fast is None or not self.applies(clip):
            return self.network(clip)
        self.network.check_clip(clip)
        return fast(self.network, clip)

    def applies(self, clip):
        return (
            self.network.training
            and clip.device.type == "cpu"
            and clip.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
        )


def deeppro(model, clip):
    """The forward pass of `models.deeppro.DeepPro`; maps are (B, C, T, H W), channels last."""
    full = clip.shape[-2:]
    x = clip.flatten(3).contiguous(memory_format=torch.channels_last)
    stem = projected(model.conv_in, x)
    block1, block2 = model.layer1
    level1 = residual_block(block2, residual_block(block1, stem))
    _, block1, block2 = model.layer2
    pooled, half = max_pool(stem, full)
    level2 = residual_block(block2, residual_block(block1, pooled))
    _, block1, _, block2 = model.layer3
    pooled, quarter = max_pool(residual_block(block1, pooled), half)
    level3 = residual_block(block2, pooled)

    # The convolution of the concatenated levels is a sum of one per level, and commutes with the
    # upsampling: small maps are upsampled, and none is concatenated.
    mix, norm, _ = model.conv_out2
    kernels = mix.weight.flatten(3).chunk(3, dim=1)
    total = functional.conv2d(level_head(model.TPro1, model.conv_out1_1, level1), kernels[0])
    for probe, projection, level, kernel, size in (
        (model.TPro2, model.conv_out1_2, level2, kernels[1], half),
        (model.TPro3, model.conv_out1_3, level3, kernels[2], quarter),
    ):
        level = functional.conv2d(level_head(probe, projection, level), kernel)
        total = total + upsample(level, size, full)
    total = normalise(norm, total + mix.bias[:, None, None]).relu_()
    logits = functional.conv2d(total, model.final.weight.flatten(3), model.final.bias)
    return logits.squeeze(1).unflatten(2, full)


FAST = {DeepPro: deeppro}


def convolve(conv, x):
    """A convolution along time."""
    return Convolution.apply(
        x, kernel_of(conv).flatten(3), conv.bias, (conv.padding[0], 0), (conv.dilation[0], 1)
    )


class Convolution(Function):
    """A (k,1) convolution of (B, C, T, N), channels last, zero-padded to the same size.

    torch's gradients are several times slower than the products that they consist of.
    """

    @staticmethod
    def forward(ctx, x, kernel, bias, padding, dilation):
        ctx.save_for_backward(x, kernel)
        ctx.padding, ctx.dilation = padding, dilation
        return functional.conv2d(x, kernel, bias, 1, padding, dilation)

    @staticmethod
    def backward(ctx, grad):
        x, kernel = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = None
        if ctx.needs_input_grad[0]:
            flipped = kernel.flip(2).transpose(0, 1).contiguous(memory_format=torch.channels_last)
            grad_x = functional.conv2d(grad, flipped, None, 1, ctx.padding, ctx.dilation)
        grad_kernel, grad_bias = learned_gradients(x, grad, kernel, ctx.padding, ctx.dilation)
        return grad_x, grad_kernel, grad_bias, None, None


def learned_gradients(x, grad, kernel, padding, dilation):
    """The gradients of a `Convolution` for its kernel and its bias."""
    outputs, inputs, taps, _ = kernel.shape
    if taps == 1 or inputs < 16:  # here torch is as fast
        return torch.ops.aten.convolution_backward(
            grad, x, kernel, [outputs], (1, 1), padding, dilation, False, (0, 0), 1, (0, 1, 1)
        )[1:]
    # Summed as torch sums it: for a bias before BatchNorm this is rounding, but Adam follows it.
    grad_bias = grad.sum((0, 2, 3))
    _, _, frames, pixels = x.shape
    x, grad = (a.permute(0, 2, 3, 1).flatten(1, 2) for a in (x, grad))  # (B, T N, C)
    total = grad.new_zeros(taps, outputs, inputs)
    for tap in range(taps):
        shift = (tap * dilation[0] - padding[0]) * pixels
        size = max(frames * pixels - abs(shift), 0)
        for of_clip, clip in zip(grad, x, strict=True):
            of_clip, clip = of_clip[max(-shift, 0) :][:size], clip[max(shift, 0) :][:size]
            total[tap].addmm_(of_clip.T, clip)
    return total.permute(1, 2, 0).unsqueeze(3), grad_bias


def normalise(norm, x):
    """A BatchNorm in training mode; updates its running statistics."""
    out, mean, variance = BatchNorm.apply(x, norm.weight, norm.bias, norm.eps)
    with torch.no_grad():
        count = x.numel() // x.shape[1]
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / max(count - 1, 1)), norm.momentum)
    return out


class BatchNorm(Function):
    """BatchNorm over (B, C, T, N), channels last: (output, mean, biased variance).

    torch sums channels-last maps one position after the other in float32, which loses four digits
    over millions of positions; here moments are taken of groups of positions and joined.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        x = x.contiguous(memory_format=torch.channels_last)  # the stem's is not
        mean, variance = moments(x)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps))
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        out = functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
        return out, mean, variance

    @staticmethod
    def backward(ctx, grad, *_):
        x, weight, mean, deviation = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        wanted = True, True, True
        return *torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, None, None, mean, deviation, True, ctx.eps, wanted
        ), None


def moments(x):
    """Mean and biased variance of every channel of (B, C, T, N), channels last."""
    channels = x.shape[1]
    rows = x.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()
    each = len(rows) // GROUPS
    whole, rest = rows[: each * GROUPS], rows[each * GROUPS :].double()
    sums, squares = rest.sum(0), rest.square().sum(0)
    if each:
        grouped = whole.view(each, -1)  # position i is in group i mod GROUPS
        means, variances = torch.ops.aten.batch_norm_update_stats(grouped, None, None, 0.0)
        means, variances = (a.view(GROUPS, channels).double() for a in (means, variances))
        sums = sums + each * means.sum(0)
        squares = squares + each * (variances + means.square()).sum(0)
    mean = sums / len(rows)
    variance = (squares / len(rows) - mean.square()).clamp_min(0)
    return mean.float(), variance.float()


def conv_norm_relu(conv, norm, x):
    return normalise(norm, convolve(conv, x)).relu_()


def projected(layer, x):
    """`models.blocks.ConvBNReLU`."""
    conv, norm, _ = layer
    return conv_norm_relu(conv, norm, x)


def residual_block(block, x):
    """`models.blocks.TDResBlock`."""
    y = conv_norm_relu(block.conv1, block.bn1, x)
    y = conv_norm_relu(block.conv2, block.bn2, y)
    conv, norm = block.shortcut
    y = normalise(block.bn3, convolve(block.conv3, y))
    return y.add_(normalise(norm, convolve(conv, x))).relu_()


def level_head(probe, projection, x):
    """The temporal probe of a level and its projection."""
    heads, frames = len(probe.QK_heads), probe.seqlen
    weight = torch.stack([head.weight for head in probe.QK_heads]) / math.sqrt(frames)
    bias = torch.stack([head.bias for head in probe.QK_heads])
    batch, channels, _, pixels = x.shape
    # (B, C, T, N) channels last to (B, m, T, N C/m), and back.
    x = x.permute(0, 2, 3, 1).unflatten(-1, (heads, -1)).permute(0, 3, 1, 2, 4).flatten(3)
    x = weight @ x + bias[..., None]
    x = x.unflatten(3, (pixels, -1)).permute(0, 2, 3, 1, 4).flatten(3).permute(0, 3, 1, 2)
    x = normalise(probe.norm1, x).relu_()
    return projected(projection, projected(probe.conv, x))


def max_pool(x, size):
    """2 x 2 maxima: (map, its (height, width))."""
    pooled = functional.max_pool2d(as_images(x, size), 2)
    return as_map(pooled, x.shape[2]), pooled.shape[-2:]


def upsample(x, size, target):
    """Bilinear upsampling, corners aligned."""
    images = as_images(x, size)
    images = functional.interpolate(images, size=target, mode="bilinear", align_corners=True)
    return as_map(images, x.shape[2])


def as_images(x, size):
    """(B, C, T, H W) as (B T, C, H, W); a view."""
    return x.permute(0, 2, 3, 1).flatten(0, 1).unflatten(1, size).permute(0, 3, 1, 2)


def as_map(images, frames):
    """The way back from `as_images`."""
    images = images.permute(0, 2, 3, 1).contiguous()
    return images.flatten(1, 2).unflatten(0, (-1, frames)).permute(0, 3, 1, 2)
