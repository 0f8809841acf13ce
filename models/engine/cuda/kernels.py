"""Triton kernels over maps (T, R, W, C), channels last: every layer in one pass.

Bias, ReLU, projection and shortcut are applied while a tile of pixels is in registers: as passes of
their own they would read and write whole maps of few channels. Maps and weights are of one type,
sums float32. Products of float32 are taken in three parts of TF32 ("tf32x3"): nearly as exact as in
float32, see `tests/benchmarks/README.md`.

Triton comes with PyTorch's builds for CUDA.
"""

import triton
import triton.language as tl


@triton.jit
def relu(x):
    """max(x, 0), NaN where x is."""
    return tl.where(x < 0, 0.0, x)


@triton.jit(do_not_specialize=["frames", "height", "width", "top", "pixels"])
def stem_kernel(
    clip,
    means,
    weight,
    biases,
    out,
    frames,
    height,
    width,
    top,
    pixels,
    KT: tl.constexpr,
    KS: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Rows [top, ...) of relu(conv(clip)), in float32 throughout, see `models.engine.centring`.

    clip (T, H, W); means (T,); weight (KT, KS, KS, C); biases (T, C); out (T, pixels, C).
    """
    frame = tl.program_id(1)
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = at < pixels
    row = at // width + top
    column = at % width
    channel = tl.arange(0, CHANNELS)
    total = tl.zeros((TILE, CHANNELS), tl.float32)
    for kt in range(KT):
        t = frame + kt - KT // 2
        if (t >= 0) & (t < frames):
            mean = tl.load(means + t)
            for ky in range(KS):
                y = row + ky - KS // 2
                line = clip + (t * height + y) * width
                there = inside & (y >= 0) & (y < height)
                for kx in range(KS):
                    x = column + kx - KS // 2
                    value = tl.load(line + x, mask=there & (x >= 0) & (x < width), other=0.0)
                    tap = tl.load(weight + ((kt * KS + ky) * KS + kx) * CHANNELS + channel)
                    total += (value - mean)[:, None] * tap[None, :]
    total = relu(total + tl.load(biases + frame * CHANNELS + channel)[None, :])
    target = out + (frame * pixels + at[:, None]) * CHANNELS + channel[None, :]
    tl.store(target, total, mask=inside[:, None])


@triton.jit
def convolution(
    x,
    weight,
    frame,
    at,
    frames,
    rows,
    width,
    KT: tl.constexpr,
    KS: tl.constexpr,
    DT: tl.constexpr,
    DS: tl.constexpr,
    CIN: tl.constexpr,
    PADDED: tl.constexpr,
    COUT: tl.constexpr,
    TILE: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    """(TILE, COUT) float32 of the pixels `at` of a frame: the taps' products, without bias.

    x (T, R, W, CIN); weight (KT KS KS, PADDED, COUT), zero in rows past CIN.
    """
    pixels = rows * width
    row, column = at // width, at % width
    channel, output = tl.arange(0, PADDED), tl.arange(0, COUT)
    total = tl.zeros((TILE, COUT), tl.float32)
    for tap in range(KT * KS * KS):
        t = frame + (tap // (KS * KS) - KT // 2) * DT
        shift_y = (tap // KS % KS - KS // 2) * DS
        shift_x = (tap % KS - KS // 2) * DS
        y, left = row + shift_y, column + shift_x
        there = (at < pixels) & (t >= 0) & (t < frames)
        there = there & (y >= 0) & (y < rows) & (left >= 0) & (left < width)
        source = x + (t * pixels + at + shift_y * width + shift_x)[:, None] * CIN
        mask = there[:, None] & (channel < CIN)[None, :]
        values = tl.load(source + channel[None, :], mask=mask, other=0.0)
        matrix = tl.load(weight + (tap * PADDED + channel[:, None]) * COUT + output[None, :])
        total = tl.dot(values, matrix, total, input_precision=PRODUCT)
    return total


@triton.jit(do_not_specialize=["frames", "rows", "width"])
def first_kernel(
    x,
    weight,
    bias,
    out,
    frames,
    rows,
    width,
    KT: tl.constexpr,
    KS: tl.constexpr,
    DT: tl.constexpr,
    DS: tl.constexpr,
    CIN: tl.constexpr,
    PADDED: tl.constexpr,
    COUT: tl.constexpr,
    TILE: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    """relu(conv(x) + bias): x (T, R, W, CIN) to out (T, R, W, COUT)."""
    frame = tl.program_id(1)
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    y = convolution(
        x, weight, frame, at, frames, rows, width,
        KT, KS, DT, DS, CIN, PADDED, COUT, TILE, PRODUCT,
    )  # fmt: skip
    output = tl.arange(0, COUT)
    y = relu(y + tl.load(bias + output)[None, :])
    target = out + (frame * rows * width + at[:, None]) * COUT + output[None, :]
    tl.store(target, y, mask=(at < rows * width)[:, None])


@triton.jit(do_not_specialize=["frames", "rows", "width"])
def second_kernel(
    x,
    weight,
    bias,
    mix,
    entry,
    shortcut,
    last_bias,
    out,
    frames,
    rows,
    width,
    KT: tl.constexpr,
    KS: tl.constexpr,
    DT: tl.constexpr,
    DS: tl.constexpr,
    COUT: tl.constexpr,
    ENTRY: tl.constexpr,
    ENTRY_PADDED: tl.constexpr,
    CHANNELS_FIRST: tl.constexpr,
    TILE: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    """The rest of a residual block: relu(mix relu(conv(x) + bias) + shortcut entry + last_bias).

    x (T, R, W, COUT); entry (T, R, W, ENTRY), the block's input; mix (COUT, COUT) and shortcut
    (ENTRY_PADDED, COUT) act on rows from the right. out (T, R, W, COUT), or (COUT, T, R, W).
    """
    frame = tl.program_id(1)
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    y = convolution(
        x, weight, frame, at, frames, rows, width,
        KT, KS, DT, DS, COUT, COUT, COUT, TILE, PRODUCT,
    )  # fmt: skip
    pixels = rows * width
    inside = at < pixels
    output, channel = tl.arange(0, COUT), tl.arange(0, ENTRY_PADDED)
    y = relu(y + tl.load(bias + output)[None, :])
    matrix = tl.load(mix + output[:, None] * COUT + output[None, :])
    total = tl.dot(y.to(matrix.dtype), matrix, input_precision=PRODUCT)
    source = entry + (frame * pixels + at)[:, None] * ENTRY + channel[None, :]
    before = tl.load(source, mask=inside[:, None] & (channel < ENTRY)[None, :], other=0.0)
    matrix = tl.load(shortcut + channel[:, None] * COUT + output[None, :])
    total = tl.dot(before, matrix, total, input_precision=PRODUCT)
    total = relu(total + tl.load(last_bias + output)[None, :])
    if CHANNELS_FIRST:
        target = out + (output[None, :] * frames + frame) * pixels + at[:, None]
    else:
        target = out + (frame * pixels + at[:, None]) * COUT + output[None, :]
    tl.store(target, total, mask=inside[:, None])


@triton.jit(do_not_specialize=["frames", "pixels"])
def head_kernel(
    x,
    probe_bias,
    mix,
    mix_bias,
    projection,
    projection_bias,
    merge,
    out,
    frames,
    pixels,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    OUTPUTS: tl.constexpr,
    TILE: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    """What follows the temporal products: x (C, T, pixels) to out (OUTPUTS, T, pixels) float32.

    relu(x + probe_bias), `mix` and `projection` with their biases and ReLU, and the product with
    `merge`; matrices act from the left. probe_bias (C, T).
    """
    frame = tl.program_id(1)
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = at < pixels
    channel, output = tl.arange(0, CHANNELS), tl.arange(0, PADDED)
    source = x + (channel[:, None] * frames + frame) * pixels + at[None, :]
    y = tl.load(source, mask=inside[None, :], other=0.0)
    y = relu(y + tl.load(probe_bias + channel * frames + frame)[:, None])
    matrix = tl.load(mix + channel[:, None] * CHANNELS + channel[None, :])
    y = tl.dot(matrix, y.to(matrix.dtype), input_precision=PRODUCT)
    y = relu(y + tl.load(mix_bias + channel)[:, None])
    matrix = tl.load(projection + output[:, None] * CHANNELS + channel[None, :])
    y = tl.dot(matrix, y.to(matrix.dtype), input_precision=PRODUCT)
    y = relu(y + tl.load(projection_bias + output)[:, None])
    matrix = tl.load(merge + output[:, None] * PADDED + output[None, :])
    y = tl.dot(matrix, y.to(matrix.dtype), input_precision=PRODUCT)
    target = out + (output[:, None] * frames + frame) * pixels + at[None, :]
    tl.store(target, y, mask=inside[None, :] & (output < OUTPUTS)[:, None])
