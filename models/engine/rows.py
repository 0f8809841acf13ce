"""Runs networks with spatial kernels over a clip that arrives in bands of rows, top to bottom.

Every layer keeps the few rows of its input that later rows still need, so nothing is computed twice
and no halo is cut: the result does not depend on the bands. Rows are (R, T, W, C), channels last
and rows outermost: a band is one piece of memory, and a channels-last (1, C, R, T, W) image for
kernels whose axes are (row, time, column).

A temporal-difference kernel has taps that sum to zero, k0 + k1 + k2 = 0, hence

    k0 x(t-2) + k1 x(t) + k2 x(t+2) = k2 d(t) - k0 d(t-2),    d(t) = x(t+2) - x(t),

two taps on first differences instead of three, which saves a third of its products.

Where oneDNN computes a layer and its ReLU at once, rows are divided among threads, each computing
its own alone while they are in its cache: to meet in every product costs milliseconds where other
programs want the cores too.
"""

import torch
from torch.nn import functional

from models.engine import onednn
from models.engine.heads import channel_matrix
from models.engine.precision import Arithmetic
from models.stages import is_pool

CONVOLVED_PIXELS = 512  # that a thread takes at a time


class RowQueue:
    """Rows in one piece of memory: `append` at the bottom, `drop` from the top."""

    def __init__(self, arithmetic, *shape):
        self.data = torch.empty(0, *shape, dtype=arithmetic.dtype, device=arithmetic.device)
        self.count = 0

    def __len__(self):
        return self.count

    @property
    def rows(self):
        return self.data[: self.count]

    def append(self, rows):
        """Makes room for `rows` rows and returns them, to be written."""
        if self.count + rows > len(self.data):
            data = self.data.new_empty(self.count + rows, *self.data.shape[1:])
            data[: self.count] = self.rows
            self.data = data
        self.count += rows
        return self.data[self.count - rows : self.count]

    def drop(self, rows):
        kept = self.count - rows
        if rows and kept:
            kept_rows = self.data[rows : self.count]
            self.data[:kept] = kept_rows.clone() if kept > rows else kept_rows
        self.count = kept


class RowConv:
    """A folded convolution and ReLU, fed with rows; owns the rows of its input that it still needs.

    Its rows (R, T', W, C) hold the frames of zeros with which it is padded in time, so T' > T. The
    rows of zeros above and below the image are added here, as are the columns beside it.

    Args:
        conv: the convolution.
        kernel: (C_out, C, T, K, K) in place of the convolution's.
    """

    def __init__(self, conv, arithmetic, kernel=None):
        kernel = conv.weight if kernel is None else kernel
        self.reach, self.beside = conv.padding[1:]
        kernel = arithmetic.cast(kernel.transpose(2, 3))  # (C_out, C, row, time, column)
        self.kernel = kernel.contiguous(memory_format=torch.channels_last_3d)
        self.bias = arithmetic.cast(conv.bias)
        self.dilation = tuple(conv.dilation[i] for i in (1, 0, 2))
        self.channels = kernel.shape[1]
        self.shorter = self.dilation[1] * (kernel.shape[3] - 1)  # frames that the output lacks
        self.fused = fuses_layers(arithmetic)

    def start(self, frames, width, arithmetic):
        self.input = RowQueue(arithmetic, frames, width, self.channels)
        self.input.append(self.reach).zero_()

    @property
    def ready(self):
        """How many rows of output the input allows."""
        return max(0, len(self.input) - 2 * self.reach)

    def run(self, workers, receive):
        """Calls receive(top, rows top ... of the output (r, T, W, C_out)); drops used input.

        Calls may come from several threads; the rows are theirs until they return.
        """
        stored, ready = self.input.rows, self.ready
        if ready == 0:
            return
        step = rows_of_a_task(ready, stored.shape[2], workers) if self.fused else ready
        padding = 0, 0, self.beside

        def run(top, _):
            stop = min(ready, top + step)
            image = stored[top : stop + 2 * self.reach].permute(3, 0, 1, 2).unsqueeze(0)
            layer = image, self.kernel, self.bias, padding, self.dilation
            if self.fused:
                out = onednn.convolve_relu(*layer)
            else:
                out = onednn.convolve(*layer).clamp_min_(0)
            receive(top, out.squeeze(0).permute(1, 2, 3, 0))

        workers.run(run, range(0, ready, step))
        self.input.drop(ready)

    def finish(self):
        self.input.append(self.reach).zero_()


def fuses_layers(arithmetic):
    """Whether threads take a few rows each through a layer and its ReLU: by oneDNN, on a CPU."""
    on_cpu = arithmetic.device.type == "cpu"
    return on_cpu and onednn.has_fused_convolution(arithmetic.dtype)


def rows_of_a_task(rows, width, workers):
    """How many of these rows a thread takes at a time."""
    return max(1, min(CONVOLVED_PIXELS // width, -(-rows // workers.threads)))


class RowStem:
    """The first convolution and its ReLU: (R, T, W) intensities to rows (R, T, W, C).

    Computed in float32 as the network as trained computes it, see `models.blocks.Stem`.
    """

    def __init__(self, layer, arithmetic):
        conv, affine, _ = layer
        self.arithmetic, self.out = Arithmetic(torch.float32, arithmetic.device), arithmetic
        self.kernel, self.bias = self.arithmetic.cast(conv.weight), self.arithmetic.cast(conv.bias)
        self.scale, self.shift = (
            self.arithmetic.cast(a.flatten()) for a in (affine.scale, affine.shift)
        )
        self.padding = conv.padding
        self.lag = self.padding[1]  # rows by which the output is behind the input

    def start(self, frames, width, arithmetic):
        self.input = RowQueue(self.arithmetic, frames, width)
        self.input.append(self.lag).zero_()
        return width

    def push(self, band, workers):
        self.input.append(len(band)).copy_(band)
        return self._outputs()

    def finish(self, workers):
        self.input.append(self.lag).zero_()
        return self._outputs()

    def _outputs(self):
        stored = self.input.rows
        count = max(0, len(stored) - 2 * self.lag)
        size = count, *stored.shape[1:], len(self.bias)
        out = torch.empty(size, dtype=self.out.dtype, device=self.out.device)
        if count:
            clip = stored.transpose(0, 1)[None, None]  # (1, 1, T, R, W)
            time, _, columns = self.padding
            y = functional.conv3d(clip, self.kernel, self.bias, padding=(time, 0, columns))
            # scale y + shift, rounded once as in the norm that it was.
            zero, one = torch.zeros_like(self.shift), torch.ones_like(self.scale)
            y = functional.batch_norm(y, zero, one, self.scale, self.shift, eps=0)
            out.copy_(y.clamp_min_(0)[0].permute(2, 1, 3, 0))
            self.input.drop(count)
        return out

    def memory_values(self, rows):
        """What a band of `rows` rows needs, in values per frame and column of the engine's type.

        Returns:
            (kept until the next band, needed besides while this one is computed).
        """
        size = self.arithmetic.dtype.itemsize / self.out.dtype.itemsize
        stored = rows + 2 * self.lag
        return size * stored, size * (stored + 2 * len(self.bias) * rows) + len(self.bias) * rows


class RowPool:
    """Maximum over 2x2 pixels; an odd last row or column is left out."""

    lag = 1

    def start(self, frames, width, arithmetic):
        self.left = None  # an odd row that waits for its partner
        return width // 2

    def push(self, rows, workers):
        if self.left is not None:
            rows = torch.cat([self.left, rows])
        even = len(rows) // 2 * 2
        self.left = rows[even:].clone() if even < len(rows) else None
        side = rows.shape[2] // 2 * 2
        tall = torch.maximum(rows[0:even:2], rows[1:even:2])
        return torch.maximum(tall[:, :, 0:side:2], tall[:, :, 1:side:2])

    def finish(self, workers):
        return None

    def memory_values(self, rows):
        """As `RowStem.memory_values`, per column of the output; for up to 32 channels."""
        return 32, 32 * (2 * rows + 2)


class RowBlock:
    """A folded residual block: rows (R, T, W, C) after the ReLU to such rows."""

    def __init__(self, block, arithmetic):
        kernel = block.conv1.weight
        kernel = torch.stack([-kernel[:, :, 0], kernel[:, :, 2]], 2)
        self.conv1 = RowConv(block.conv1, arithmetic, kernel)
        self.conv2 = RowConv(block.conv2, arithmetic)
        self.lag = self.conv1.reach + self.conv2.reach
        self.mix = arithmetic.cast(channel_matrix(block.conv3))
        self.shortcut = arithmetic.cast(channel_matrix(block.shortcut[0]))
        self.bias = arithmetic.cast(block.conv3.bias)
        self.fused = self.conv1.fused

    def start(self, frames, width, arithmetic):
        self.x = RowQueue(arithmetic, frames, width, self.shortcut.shape[1])
        self.made = self.x.data.new_empty(0, frames, width, len(self.mix))
        self.conv1.start(frames + 2, width, arithmetic)
        self.conv2.start(frames + 2, width, arithmetic)
        return width

    def push(self, rows, workers):
        x, differences = self.x.append(len(rows)), self.conv1.input.append(len(rows))
        step = rows_of_a_task(len(rows), rows.shape[2], workers) if self.fused else len(rows)

        def begin(top, _):
            taken = slice(top, top + step)
            self._begin(rows[taken], x[taken], differences[taken])

        workers.run(begin, range(0, len(rows), step))
        return self._second_half(workers)

    def finish(self, workers):
        self.conv1.finish()
        return self._second_half(workers, last=True)

    def _begin(self, rows, x, differences):
        """Keeps rows (R, T, W, C) in `x`, and their differences for t = -2 ... T-1."""
        x.copy_(rows)
        frames = x.shape[1]
        if frames < 2:
            differences[:, frames:] = 0
            differences[:, :frames] = x
            differences[:, 2:] -= x
        else:
            differences[:, :2] = x[:, :2]
            torch.sub(x[:, 2:], x[:, :-2], out=differences[:, 2:frames])
            torch.neg(x[:, -2:], out=differences[:, frames:])

    def _second_half(self, workers, last=False):
        padded = self.conv2.input.append(self.conv1.ready)

        def keep(top, y):
            rows = padded[top : top + len(y)]
            rows[:, 0] = rows[:, -1] = 0
            rows[:, 1:-1] = y

        self.conv1.run(workers, keep)
        if last:
            self.conv2.finish()
        ready, x = self.conv2.ready, self.x.rows
        out = self._room(ready, last)

        def mix(top, y):
            rows = slice(top, top + len(y))
            self._mix(y, x[rows], out[rows])

        self.conv2.run(workers, mix)
        self.x.drop(ready)
        return out

    def _room(self, rows, last):
        """Rows to be written. They are the caller's until the next call; the last ones for good.

        Memory that is mapped anew for every band costs a tenth of the time.
        """
        if last or len(self.made) < rows:
            made = self.made.new_empty(rows, *self.made.shape[1:])
            if last:
                return made
            self.made = made
        return self.made[:rows]

    def _mix(self, y, x, out):
        """ReLU of projection and shortcut, added: (R, T, W, C) of all three."""
        y, x, out = (a.flatten(1, 2) for a in (y, x, out))
        mix, shortcut = (m.mT.expand(len(y), -1, -1) for m in (self.mix, self.shortcut))
        torch.baddbmm(self.bias, y, mix, out=out).baddbmm_(x, shortcut).clamp_min_(0)

    def memory_values(self, rows):
        """As `RowStem.memory_values`."""
        first, second = self.conv1.channels, self.conv2.channels
        context = self.conv1.reach + self.conv2.reach
        kept = 2 * first * (rows + context) + second * (2 * rows + 2 * self.conv2.reach)
        return kept, 2 * second * (rows + context)


def row_layers(layers, arithmetic):
    """A `RowPool` or `RowBlock` of each pool or folded block."""
    return [RowPool() if is_pool(layer) else RowBlock(layer, arithmetic) for layer in layers]
