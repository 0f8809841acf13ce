"""DeepPro's training pass on a CPU, several times faster than the plain one and equal to it.

The plain pass is bound by memory: every BatchNorm and ReLU reads and writes feature maps of
hundreds of megabytes. Here feature maps are (B, T, N, C), N = H W pixels, channels last, and are
processed in blocks of pixels that fit the processor's cache. Between two convolutions only the raw
output of the first is stored; its BatchNorm is a scale and a shift, from moments taken while the
output was in cache, which the second applies, with the ReLU, on reading. A map "to be activated" is
such a triple (raw, scale, shift), standing for relu(scale * raw + shift).

Learned tensors are the network's own: its state dict, gradients and running statistics are those of
the plain pass up to rounding.
"""

import math

import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional

from models.deeppro import DeepPro
from models.difference_conv import DifferenceConv3d

BLOCK = 10240  # positions (frames x pixels) processed at once: 1.3 MB of 32 channels


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
    """The forward pass of `models.deeppro.DeepPro` in training mode."""
    full = clip.shape[-2:]
    x = clip.flatten(3).squeeze(1).unsqueeze(-1)  # (B, T, N, 1)
    stem = Activate.apply(*conv_norm(model.conv_in[0], model.conv_in[1], x))
    block1, block2 = model.layer1
    level1 = residual_block(block2, residual_block(block1, stem))
    _, block1, block2 = model.layer2
    pooled, half = max_pool(stem, full)
    level2 = residual_block(block2, residual_block(block1, pooled))
    _, block1, _, block2 = model.layer3
    pooled, quarter = max_pool(residual_block(block1, pooled), half)
    level3 = residual_block(block2, pooled)

    # The convolution of the concatenated levels is a sum of one per level, and commutes with the
    # upsampling.
    mix, norm, _ = model.conv_out2
    kernels = mix.weight.flatten(2).chunk(3, dim=1)
    total = level_head(model.TPro1, model.conv_out1_1, level1, kernels[0])
    level2 = level_head(model.TPro2, model.conv_out1_2, level2, kernels[1])
    level3 = level_head(model.TPro3, model.conv_out1_3, level3, kernels[2])
    total = total + upsample(level2, half, full) + upsample(level3, quarter, full)
    scale, shift = normalisation(norm, mix.bias, *Moments.apply(total), total)
    logits = ActConv.apply(total, scale, shift, model.final.weight.flatten(2), 0, 1)[0]
    return logits.squeeze(-1).unflatten(2, full) + model.final.bias


FAST = {DeepPro: deeppro}


def conv_norm(conv, norm, raw, scale=None, shift=None):
    """Convolution along time and its BatchNorm, of a map to be activated (as it is if no scale).

    Returns:
        A map to be activated.
    """
    kernel = conv.kernel() if isinstance(conv, DifferenceConv3d) else conv.weight
    raw, mean, variance = ActConv.apply(
        raw, scale, shift, kernel.flatten(2), conv.padding[0], conv.dilation[0]
    )
    return raw, *normalisation(norm, conv.bias, mean, variance, raw)


def normalisation(norm, bias, mean, variance, raw):
    """Scale and shift of a BatchNorm in training mode over `raw`, a convolution without its bias.

    The bias cancels; it is in the running mean, and its gradient is zero.
    """
    track(norm, bias, mean, variance, raw)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale + 0 * bias


@torch.no_grad()
def track(norm, bias, mean, variance, raw):
    """Updates a BatchNorm's running statistics, as torch does."""
    count = raw[..., 0].numel()
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean + bias, norm.momentum)
    norm.running_var.lerp_(variance * (count / max(count - 1, 1)), norm.momentum)


def residual_block(block, x):
    """`models.blocks.TDResBlock` of an activated map (B, T, N, C_in); activated."""
    y = conv_norm(block.conv1, block.bn1, x)
    y = conv_norm(block.conv2, block.bn2, *y)
    branches = ((block.conv3, block.bn3), tuple(block.shortcut))
    learned = [
        tensor
        for conv, norm in branches
        for tensor in (conv.weight.flatten(1), conv.bias, norm.weight, norm.bias)
    ]
    out, *moments = ResidualTail.apply(*y, x, block.bn3.eps, *learned)
    for (conv, norm), mean, variance in zip(branches, moments[::2], moments[1::2], strict=True):
        track(norm, conv.bias, mean, variance, out)
    return out


def level_head(probe, projection, x, kernel):
    """Probe and projection of a level, then its part of the convolution over all levels."""
    weight = torch.stack([head.weight for head in probe.QK_heads]) / math.sqrt(probe.seqlen)
    bias = torch.stack([head.bias for head in probe.QK_heads])
    raw, mean, variance = Probe.apply(x, weight, bias)
    no_bias = torch.zeros_like(mean)
    x = raw, *normalisation(probe.norm1, no_bias, mean, variance, raw)
    x = conv_norm(probe.conv[0], probe.conv[1], *x)
    x = conv_norm(projection[0], projection[1], *x)
    return ActConv.apply(*x, kernel, 0, 1)[0]


def max_pool(x, size):
    """2 x 2 maxima of an activated map: (map, its (height, width))."""
    pooled = functional.max_pool2d(as_images(x, size), 2)
    return as_map(pooled, x.shape[1]), pooled.shape[-2:]


def upsample(x, size, target):
    """Bilinear upsampling of a map, corners aligned."""
    images = as_images(x, size)
    images = functional.interpolate(images, size=target, mode="bilinear", align_corners=True)
    return as_map(images, x.shape[1])


def as_images(x, size):
    """(B, T, N, C) as (B T, C, H, W), channels last; a view."""
    return x.flatten(0, 1).unflatten(1, size).permute(0, 3, 1, 2)


def as_map(images, frames):
    """The way back from `as_images`."""
    images = images.permute(0, 2, 3, 1).contiguous()
    return images.flatten(1, 2).unflatten(0, (-1, frames))


def blocks(x):
    """Indices that cut (B, T, N, C) into blocks (T, n, C) of all frames of some pixels."""
    pixels = max(BLOCK // x.shape[1], 1)
    for clip in range(x.shape[0]):
        for start in range(0, x.shape[2], pixels):
            yield clip, slice(None), slice(start, start + pixels)


def activated(raw, scale, shift):
    """relu(scale * raw + shift), or `raw` where there is no scale."""
    return raw if scale is None else torch.addcmul(shift, raw, scale).relu_()


def rows(x):
    """(..., C) as a matrix of C columns."""
    return x.reshape(-1, x.shape[-1])


class RunningMoments:
    """Mean and biased variance per channel, block by block (Chan's pairwise update)."""

    def __init__(self):
        self.counts, self.means, self.squares = [], [], []

    def add(self, values):
        values = rows(values)
        mean = values.mean(0)
        self.counts.append(len(values))
        self.means.append(mean)
        self.squares.append((values - mean).square_().sum(0))

    def result(self):
        counts = torch.tensor(self.counts, dtype=torch.float64)[:, None]
        means = torch.stack(self.means).double()
        mean = (counts * means).sum(0) / counts.sum()
        squares = torch.stack(self.squares).double() + counts * (means - mean) ** 2
        return mean.float(), (squares.sum(0) / counts.sum()).float()


def moment_gradient(values, mean, grad_mean, grad_variance):
    """(a, b) such that the moments' gradient for their values v is a + b v."""
    count = values[..., 0].numel()
    slope = grad_variance * (2 / count)
    return grad_mean / count - slope * mean, slope


class Moments(Function):
    """Mean and biased variance of every channel of a map."""

    @staticmethod
    def forward(ctx, raw):
        moments = RunningMoments()
        for block in blocks(raw):
            moments.add(raw[block])
        mean, variance = moments.result()
        ctx.save_for_backward(raw, mean)
        return mean, variance

    @staticmethod
    def backward(ctx, grad_mean, grad_variance):
        raw, mean = ctx.saved_tensors
        offset, slope = moment_gradient(raw, mean, grad_mean, grad_variance)
        return torch.addcmul(offset, raw, slope)


class Activate(Function):
    """relu(scale * raw + shift), stored."""

    @staticmethod
    def forward(ctx, raw, scale, shift):
        out = torch.empty_like(raw)
        for block in blocks(raw):
            out[block] = activated(raw[block], scale, shift)
        ctx.save_for_backward(raw, scale, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        raw, scale, out = ctx.saved_tensors
        grad_raw = torch.empty_like(raw)
        grad_scale, grad_shift = torch.zeros_like(scale), torch.zeros_like(scale)
        for block in blocks(raw):
            g = torch.ops.aten.threshold_backward(grad[block], out[block], 0)
            activation_gradient(g, raw[block], scale, grad_raw[block], grad_scale, grad_shift)
        return grad_raw, grad_scale, grad_shift


def activation_gradient(grad, raw, scale, grad_raw, grad_scale, grad_shift):
    """From the gradient of scale * raw + shift: writes that of raw, adds those of the others."""
    torch.mul(grad, scale, out=grad_raw)
    grad_shift += rows(grad).sum(0)
    grad_scale += rows(grad.mul_(raw)).sum(0)


class ActConv(Function):
    """Convolution along time of a map to be activated, without bias; and its moments.

    Args:
        raw: (B, T, N, C_in); scale, shift: (C_in,), or None for a map as it is.
        kernel: (C_out, C_in, K); padding, dilation: along time.

    Returns:
        (B, T, N, C_out), mean (C_out,), biased variance (C_out,).
    """

    @staticmethod
    def forward(ctx, raw, scale, shift, kernel, padding, dilation):
        out = raw.new_empty(*raw.shape[:3], len(kernel))
        moments = RunningMoments()
        for block in blocks(raw):
            y = convolve(activated(raw[block], scale, shift), kernel, padding, dilation)
            moments.add(y)
            out[block] = y
        mean, variance = moments.result()
        ctx.save_for_backward(raw, scale, shift, kernel, out, mean)
        ctx.geometry = padding, dilation
        return out, mean, variance

    @staticmethod
    def backward(ctx, grad, grad_mean, grad_variance):
        raw, scale, shift, kernel, out, mean = ctx.saved_tensors
        offset, slope = moment_gradient(out, mean, grad_mean, grad_variance)
        needs_raw = ctx.needs_input_grad[0]
        grad_raw = torch.empty_like(raw) if needs_raw else None
        grad_kernel = torch.zeros_like(kernel)
        grad_scale = grad_shift = None
        if scale is not None:
            grad_scale, grad_shift = torch.zeros_like(scale), torch.zeros_like(shift)
        for block in blocks(raw):
            x = activated(raw[block], scale, shift)
            g = torch.addcmul(offset, out[block], slope).add_(grad[block])
            g_x, g_kernel = convolve_backward(g, x, kernel, *ctx.geometry, needs_raw)
            grad_kernel += g_kernel
            if scale is not None:
                g_x = torch.ops.aten.threshold_backward(g_x, x, 0)
                activation_gradient(g_x, raw[block], scale, grad_raw[block], grad_scale, grad_shift)
            elif needs_raw:
                grad_raw[block] = g_x
        return grad_raw, grad_scale, grad_shift, grad_kernel, None, None


def convolve(x, kernel, padding, dilation):
    """Convolution along time: x (T, n, C_in), kernel (C_out, C_in, K) to (T, n, C_out)."""
    if kernel.shape[2] == 1:
        return (rows(x) @ kernel[:, :, 0].t()).view(*x.shape[:2], -1)
    image, kernel = channels_last(x), kernel.unsqueeze(-1)
    y = functional.conv2d(image, kernel, None, 1, (padding, 0), (dilation, 1))
    return y[0].permute(1, 2, 0)


def convolve_backward(grad, x, kernel, padding, dilation, needs_x):
    """Gradients of `convolve` for x and kernel."""
    grad_kernel = torch.zeros_like(kernel)
    frames = len(x)
    for tap in range(kernel.shape[2]):
        # y(t) takes x(t + offset) at this tap; outside the clip it takes nothing.
        offset = tap * dilation - padding
        g = rows(grad[max(-offset, 0) : frames - max(offset, 0)])
        grad_kernel[:, :, tap] = g.t() @ rows(x[max(offset, 0) : frames + min(offset, 0)])
    if not needs_x:
        return None, grad_kernel
    if kernel.shape[2] == 1:
        return (rows(grad) @ kernel[:, :, 0]).view(x.shape), grad_kernel
    grad_x, _, _ = torch.ops.aten.convolution_backward(
        *(channels_last(grad), channels_last(x), kernel.unsqueeze(-1), None),
        *((1, 1), (padding, 0), (dilation, 1), False, (0, 0), 1, (True, False, False)),
    )
    return grad_x[0].permute(1, 2, 0), grad_kernel


def channels_last(x):
    """(T, n, C) as (1, C, T, n); a view that torch recognises as channels last."""
    return x[None].permute(0, 3, 1, 2)


class Probe(Function):
    """The heads of the temporal probe, and the moments of their output.

    Args:
        x: (B, T, N, C), activated; weight (m, T, T), bias (m, T): a head for every C/m channels.

    Returns:
        (B, T, N, C), mean (C,), biased variance (C,).
    """

    @staticmethod
    def forward(ctx, x, weight, bias):
        out = torch.empty_like(x)
        moments = RunningMoments()
        for block in blocks(x):
            y = torch.baddbmm(bias.unsqueeze(-1), weight, by_head(x[block], len(weight)))
            out[block] = y = by_position(y, x.shape[-1])
            moments.add(y)
        mean, variance = moments.result()
        ctx.save_for_backward(x, weight, out, mean)
        return out, mean, variance

    @staticmethod
    def backward(ctx, grad, grad_mean, grad_variance):
        x, weight, out, mean = ctx.saved_tensors
        offset, slope = moment_gradient(out, mean, grad_mean, grad_variance)
        grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)
        grad_bias = weight.new_zeros(weight.shape[:2])
        for block in blocks(x):
            g = torch.addcmul(offset, out[block], slope).add_(grad[block])
            g = by_head(g, len(weight))
            grad_weight.baddbmm_(g, by_head(x[block], len(weight)).transpose(1, 2))
            grad_bias += g.sum(-1)
            grad_x[block] = by_position(weight.transpose(1, 2) @ g, x.shape[-1])
        return grad_x, grad_weight, grad_bias


def by_head(x, heads):
    """(T, n, C) as (m, T, n C/m)."""
    return x.unflatten(-1, (heads, -1)).permute(2, 0, 1, 3).flatten(2)


def by_position(x, channels):
    """The way back from `by_head`."""
    heads, frames = x.shape[:2]
    return x.view(heads, frames, -1, channels // heads).permute(1, 2, 0, 3).flatten(2)


class ResidualTail(Function):
    """relu(BN(conv3(y)) + BN(shortcut(x))), both convolutions 1x1x1, in one pass.

    The moments of a 1x1x1 convolution follow from those of its input, mean m and covariance S:
    W m and diag(W S W^T). So both BatchNorms are known before either convolution is applied, and
    the two convolutions become one with a bias.

    Args:
        raw, scale, shift: y, to be activated, (B, T, N, C); x: activated, (B, T, N, C_in).
        eps: of both BatchNorms.
        learned: kernel (C, .), its bias, weight and bias of its BatchNorm; for y, then for x.

    Returns:
        (B, T, N, C), activated; for y, then x: mean, biased variance of the convolution (no
        gradient).
    """

    @staticmethod
    def forward(ctx, raw, scale, shift, x, eps, *learned):
        moments = [RunningCovariance(raw.shape[-1]), RunningCovariance(x.shape[-1])]
        for block in blocks(raw):
            moments[0].add(activated(raw[block], scale, shift))
            moments[1].add(x[block])
        statistics = [tensor for running in moments for tensor in running.result()]
        with torch.enable_grad():
            # A small graph of its own: from moments and learned tensors to the joint convolution.
            leaves = [tensor.detach().requires_grad_() for tensor in (*statistics, *learned)]
            kernels, bias, reported = joint_convolution(leaves[:4], leaves[4:], eps)
        kernel_y, kernel_x = (kernel.detach() for kernel in kernels)
        out = raw.new_empty(*raw.shape[:3], len(kernel_y))
        for block in blocks(raw):
            y = rows(activated(raw[block], scale, shift)) @ kernel_y.t()
            y.addmm_(rows(x[block]), kernel_x.t()).add_(bias.detach()).relu_()
            out[block] = y.view(out[block].shape)
        ctx.save_for_backward(raw, scale, shift, x, out)
        ctx.joint = leaves, kernels, bias
        reported = [tensor.detach() for tensor in reported]
        ctx.mark_non_differentiable(*reported)
        return out, *reported

    @staticmethod
    def backward(ctx, grad, *_):
        raw, scale, shift, x, out = ctx.saved_tensors
        leaves, kernels, bias = ctx.joint
        kernel_y, kernel_x = (kernel.detach() for kernel in kernels)
        sums = [torch.zeros_like(tensor) for tensor in (kernel_y, kernel_x, bias)]
        for block in blocks(raw):
            g = rows(torch.ops.aten.threshold_backward(grad[block], out[block], 0))
            sums[0].addmm_(g.t(), rows(activated(raw[block], scale, shift)))
            sums[1].addmm_(g.t(), rows(x[block]))
            sums[2] += g.sum(0)
        grads = torch.autograd.grad([*kernels, bias], leaves, sums, allow_unused=True)
        count = raw[..., 0].numel()
        slopes, offsets = [], []
        for (mean, _), (g_mean, g_covariance) in zip(
            (leaves[0:2], leaves[2:4]), (grads[0:2], grads[2:4]), strict=True
        ):
            slope = (g_covariance + g_covariance.t()) / count
            slopes.append(slope)
            offsets.append(g_mean / count - mean.detach() @ slope)
        grad_raw, grad_x = torch.empty_like(raw), torch.empty_like(x)
        grad_scale, grad_shift = torch.zeros_like(scale), torch.zeros_like(shift)
        for block in blocks(raw):
            g = rows(torch.ops.aten.threshold_backward(grad[block], out[block], 0))
            y = activated(raw[block], scale, shift)
            g_y = torch.addmm(offsets[0], rows(y), slopes[0]).addmm_(g, kernel_y).view(y.shape)
            g_y = torch.ops.aten.threshold_backward(g_y, y, 0)
            activation_gradient(g_y, raw[block], scale, grad_raw[block], grad_scale, grad_shift)
            g_x = torch.addmm(offsets[1], rows(x[block]), slopes[1]).addmm_(g, kernel_x)
            grad_x[block] = g_x.view(x[block].shape)
        return grad_raw, grad_scale, grad_shift, grad_x, None, *grads[4:]


class RunningCovariance:
    """Mean and biased covariance of the channels, block by block."""

    def __init__(self, channels):
        self.count = 0
        self.total = torch.zeros(channels, dtype=torch.float64)
        self.products = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, values):
        values = rows(values)
        self.count += len(values)
        self.total += values.sum(0)
        self.products += values.t() @ values

    def result(self):
        mean = self.total / self.count
        covariance = self.products / self.count - torch.outer(mean, mean)
        return mean.float(), covariance.float()


def joint_convolution(statistics, learned, eps):
    """Kernels and bias of the one convolution that `ResidualTail` applies.

    Returns:
        kernels of y and x, bias, and (mean, variance, mean, variance) of the two convolutions.
    """
    kernels, bias, reported = [], 0, []
    for (mean, covariance), (kernel, conv_bias, weight, norm_bias) in zip(
        (statistics[0:2], statistics[2:4]), (learned[0:4], learned[4:8]), strict=True
    ):
        mean = kernel @ mean
        variance = ((kernel @ covariance) * kernel).sum(1).clamp(min=0)
        scale = weight * torch.rsqrt(variance + eps)
        kernels.append(scale[:, None] * kernel)
        bias = bias + norm_bias - mean * scale + 0 * conv_bias
        reported += [mean, variance]
    return kernels, bias, reported
