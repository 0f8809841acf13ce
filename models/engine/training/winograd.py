"""A convolution of volumes and its gradients with half the products of the plain ones.

By F(4, 3) along rows, as in `models.engine.rows.convolutions.WinogradConv`: four rows of output y,
one dilation apart, come from the six rows of input d that they see,

    y = A m,    m_i = u_i * v_i,    v = B d,    u_i = (G w)_i,    i = 0 ... 5

where * is a convolution over time and columns, and w the kernel's rows. The gradient for the input
is such a convolution with the kernel turned round; that for u_i comes from v_i and (A^T g)_i, with
g that for y. A kernel of temporal differences has two taps on differences of frames, see
`models.engine.differences`; backward, the differences come last.
"""

from dataclasses import dataclass

import torch
from torch.autograd import Function
from torch.nn import functional

from models.engine import onednn
from models.engine.differences import write_differences
from models.engine.rows.convolutions import POINTS, winograd_matrices
from models.engine.training.backward import differentiable_once
from models.engine.training.maps import run_tasks, shifted_slices

A, B, G = winograd_matrices(POINTS)
LEAST_CHANNELS = 16  # of input and of output; with fewer the sums take longer than they save
NUMBERS = 2**18  # of one v_i of all fours of a task; oneDNN is slow where images are few and small
PARTS = 64  # in which a kernel's gradient is found, at most


def suits(conv):
    """Whether a convolution that keeps its input's size has this way, and channels enough."""
    enough = min(conv.in_channels, conv.out_channels) >= LEAST_CHANNELS
    return enough and conv.kernel_size == (3, 3, 3)


class RowsConvolution(Function):
    """A convolution without bias of a map (B, H, T, W, C), to (B, H, T, W, C_out).

    Args:
        x: the map, dense.
        kernel: (C_out, C, 3, 3, 3), over T, H and W; or of two taps, as `difference_taps` gives
            them.
        dilation: (t, h, w), the padding as well.
    """

    @staticmethod
    def forward(ctx, x, kernel, dilation):
        ctx.save_for_backward(x, kernel)
        ctx.dilation = dilation
        return convolve_rows(x, kernel, dilation, before=apart(kernel, dilation))

    @staticmethod
    @differentiable_once
    def backward(ctx, grad):
        (x, kernel), grad = ctx.saved_tensors, grad.contiguous()
        turned, after = kernel.flip(2, 3, 4).transpose(0, 1), apart(kernel, ctx.dilation)
        of_x = convolve_rows(grad, turned, ctx.dilation, after=after)
        return of_x, kernel_gradient(grad, x, kernel, ctx.dilation), None


def apart(kernel, dilation):
    """How many frames are between those of a difference; 0 if none are taken."""
    return dilation[0] if kernel.shape[2] == 2 else 0


@dataclass
class Four:
    """Rows of output that are made together, of one clip.

    Attributes:
        clip: its number.
        made, seen: slices of up to four rows of output, and of the up to six of input.
        of_made: (rows made, 6) float32; of A.
        of_seen: (6, rows seen); of B: rows beyond the image are zeros and left out.
    """

    clip: int
    made: slice
    seen: slice
    of_made: torch.Tensor
    of_seen: torch.Tensor


def fours(clips, rows, dilation):
    """All `Four`s of maps of so many rows."""
    for top in (top for top in range(rows) if top % (4 * dilation) < dilation):
        made = range(top, min(top + 4 * dilation, rows), dilation)
        seen = [i for i in range(6) if 0 <= top + (i - 1) * dilation < rows]
        first, last = (top + (i - 1) * dilation for i in (seen[0], seen[-1]))
        matrices = A[: len(made)].float(), B[:, seen].float()
        slices = slice(made.start, made.stop, dilation), slice(first, last + 1, dilation)
        yield from (Four(clip, *slices, *matrices) for clip in range(clips))


def rows_seen(x, four, apart, room):
    """The rows (n, T, W, C) of input that a four sees, or their differences if frames are apart."""
    rows = x[four.clip, four.seen]
    if not apart:
        return rows
    count, frames, *size = rows.shape
    return write_differences(rows, apart, room.take("d", count, frames + apart, *size))


def combine(matrix, rows, out):
    """Writes sums of rows (n, T, W, C), weighed by `matrix` (m, n), to `out` (m, T, W, C)."""
    torch.mm(matrix, rows.flatten(1), out=out.flatten(1))
    return out


def convolve_rows(x, kernel, dilation, before=0, after=0):
    """What `RowsConvolution` computes; no gradients.

    Args:
        before, after: how many frames apart differences are taken, of the input or, the other way
            round, of the output, y(t) - y(t + n); 0 for none.
    """
    clips, rows, frames, width, channels = x.shape
    out, outputs = x.new_empty(*x.shape[:4], len(kernel)), len(kernel)
    kernels = torch.einsum("ir,octrx->ioctx", G, kernel.double()).float()
    kernels = [onednn.channels_last(kernel) for kernel in kernels]
    padding = (0 if before else dilation[0]), dilation[2]
    seen, made = frames + before, frames + after
    tasks = list(fours(clips, rows, dilation[1]))
    together = max(1, NUMBERS // (frames * width * max(channels, outputs)))
    tasks = [tasks[i : i + together] for i in range(0, len(tasks), together)]

    def make(i, room):
        count = len(tasks[i]) * width
        # A product takes the place of the input of the one before, which is still in cache.
        places = room.take("v and m", 7, count * max(seen * channels, made * outputs))
        v = places[1:, : count * seen * channels].view(6, -1, seen, width, channels)
        products = places[:6, : count * made * outputs].view(6, -1, made, width, outputs)
        for j, four in enumerate(tasks[i]):
            combine(four.of_seen, rows_seen(x, four, before, room), v[:, j])
        for each in zip(products, v, kernels, strict=True):
            convolve_images(*each, padding, (dilation[0], dilation[2]))
        for j, four in enumerate(tasks[i]):
            y = out[four.clip, four.made]
            if after:
                sums = room.take("d", len(y), made, width, outputs)
                combine(four.of_made, products[:, j], sums)
                torch.sub(sums[:, :frames], sums[:, after:], out=y)
            else:
                combine(four.of_made, products[:, j], y)

    run_tasks(make, len(tasks))
    return out


def convolve_images(out, x, kernel, padding, dilation):
    """Writes a convolution of x (N, T, W, C) to `out` (N, T', W, C_out)."""
    images, x = (rows.permute(0, 3, 1, 2) for rows in (out, x))
    if onednn.has_fused_convolution(torch.float32):
        onednn.convolve_onto(images.zero_(), x, kernel, None, padding, dilation, None)
    else:
        images.copy_(functional.conv2d(x, kernel, padding=padding, dilation=dilation))


def kernel_gradient(grad, x, kernel, dilation):
    """The gradient for the kernel, from that for the output."""
    clips, rows, frames, width, channels = x.shape
    before, taps = apart(kernel, dilation), kernel.shape[2]
    seen = frames + before
    tasks, outputs = list(fours(clips, rows, dilation[1])), grad.shape[4]
    together = -(-len(tasks) // PARTS)
    tasks = [tasks[i : i + together] for i in range(0, len(tasks), together)]
    found = x.new_zeros(len(tasks), 6, taps, outputs, 3 * channels)

    def note(i, room):
        v = room.take("v", 6, seen, width, channels)
        products = room.take("m", 6, frames, width, outputs)
        columns = room.take("columns", seen, width, 3, channels)
        for four in tasks[i]:
            combine(four.of_seen, rows_seen(x, four, before, room), v)
            combine(four.of_made.T, grad[four.clip, four.made], products)
            for j in range(6):
                moved = columns_moved(v[j], dilation[2], columns)
                for tap in range(taps):
                    if before:
                        to, of = slice(frames), slice(tap * before, tap * before + frames)
                    else:
                        to, of = shifted_slices(frames, (tap - 1) * dilation[0])
                    g, inputs = products[j, to].flatten(0, 1), moved[of].flatten(0, 1)
                    found[i, j, tap].addmm_(g.T, inputs.flatten(1))

    run_tasks(note, len(tasks))
    found = found.sum(0, dtype=torch.float64).unflatten(3, (3, channels))
    return torch.einsum("ir,itoxc->octrx", G, found).float()


def columns_moved(x, by, out):
    """Writes x (T, W, C) moved by -`by`, 0 and `by` columns, zeros moved in, to (T, W, 3, C)."""
    for tap in range(3):
        to, of = shifted_slices(x.shape[1], (tap - 1) * by)
        out[:, : to.start, tap] = 0
        out[:, to.stop :, tap] = 0
        out[:, to, tap] = x[:, of]
    return out
