"""Runs networks with spatial kernels over a clip that arrives in bands of rows, top to bottom.

Every layer keeps the few rows of its input that later rows still need, so nothing is computed twice
and no halo is cut: the result does not depend on the bands. Rows are (R, T, W, C), channels last
and rows outermost: a band is one piece of memory, and a channels-last (1, C, R, T, W) image for
kernels whose axes are (row, time, column).

A temporal-difference kernel has taps that sum to zero, k0 + k1 + k2 = 0, hence

    k0 x(t-2) + k1 x(t) + k2 x(t+2) = k2 d(t) - k0 d(t-2),    d(t) = x(t+2) - x(t),

two taps on first differences instead of three, which saves a third of its products.

Threads share rows, each computing its own alone: to meet in every product costs them milliseconds
where other programs want the cores too.

Rounding in float32 after the stem comes out as up to 1e-5 in the scores: in the network as trained,
and here too if sums were taken as they come. On a CPU less is lost: long sums are taken in pieces,
the products of the heads in float64.
"""

import torch
from torch.nn import functional

from models.engine import onednn
from models.engine.heads import ProbeHead, matrix
from models.engine.program import Numbers, Program, view

CHUNK = 512  # pixels that a thread takes at a time


class Rows:
    """A queue of rows in one piece of memory: `append` at the bottom, `drop` from the top."""

    def __init__(self, numbers, *shape):
        self.data = torch.empty(0, *shape, dtype=numbers.dtype, device=numbers.device)
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
    """A folded convolution, fed with rows; owns the rows of its input that it still needs.

    Rows are (R, T', W, C) with every frame of its padding in time, so T' > T. Zero rows above and
    below the image, and zero columns beside it, are as its padding says.

    Args:
        conv: the convolution.
        kernel: (C_out, C, T, K, K) in place of the convolution's.
    """

    def __init__(self, conv, numbers, kernel=None):
        kernel = conv.weight if kernel is None else kernel
        self.reach, self.beside = conv.padding[1:]
        kernel = numbers.cast(kernel.transpose(2, 3))  # (C_out, C, row, time, column)
        self.kernel = kernel.contiguous(memory_format=torch.channels_last_3d)
        self.bias = numbers.cast(conv.bias)
        self.dilation = tuple(conv.dilation[i] for i in (1, 0, 2))
        self.channels = kernel.shape[1]
        self.shorter = self.dilation[1] * (kernel.shape[3] - 1)  # frames that the output lacks
        self.pieces = self._cut() if sums_in_pieces(numbers) else None

    def start(self, frames, width, numbers):
        self.input = Rows(numbers, frames, width, self.channels)
        self.input.append(self.reach).zero_()

    @property
    def ready(self):
        """How many rows of output the input allows."""
        return max(0, len(self.input) - 2 * self.reach)

    def run(self, workers, use):
        """Calls use(top, rows top ... of the output (r, T, W, C_out)); drops used input.

        Calls may come from several threads; the rows are theirs until they return.
        """
        stored, ready = self.input.rows, self.ready
        if ready == 0:
            return
        if self.pieces is None:
            image = stored.permute(3, 0, 1, 2).unsqueeze(0)
            padding = (0, 0, self.beside)
            out = onednn.convolve(image, self.kernel, self.bias, padding, self.dilation)
            use(0, out.squeeze(0).permute(1, 2, 3, 0))
        else:
            step = chunk_rows(ready, stored.shape[2], workers)

            def run(top, scratch):
                use(top, self._sum_pieces(stored, top, min(ready, top + step), scratch))

            workers.run(run, range(0, ready, step))
        self.input.drop(ready)

    def _cut(self):
        """[((rows, frames) by which the input is shifted, (C_out, C, 1, column) kernel, bias)]."""
        rows, times = self.kernel.shape[2:4]
        last = rows - 1, times - 1  # adds the bias, which would round all sums before it
        return [
            (
                (row * self.dilation[0], time * self.dilation[1]),
                self.kernel[:, :, row, time, None].contiguous(memory_format=torch.channels_last),
                self.bias if (row, time) == last else None,
            )
            for row in range(rows)
            for time in range(times)
        ]

    def _sum_pieces(self, stored, top, stop, scratch):
        """Rows [top, stop) of the output, as one sum of sums over a kernel's columns and channels.

        Shorter sums round less: their errors grow with what has been added up so far. Rows and
        frames are one axis here, so each piece is a convolution along a shifted line of frames.
        """
        _, frames, width, _ = stored.shape
        line = stored.flatten(0, 1).permute(2, 0, 1).unsqueeze(0)  # (1, C, rows x frames, W)
        out = scratch.take("sums", (stop - top) * frames, width, len(self.kernel)).zero_()
        length = len(out) - self.shorter  # what is left lies between the images
        sums = out[:length].permute(2, 0, 1).unsqueeze(0)
        for (rows, later), kernel, bias in self.pieces:
            first = (top + rows) * frames + later
            shifted = line[:, :, first : first + length]
            onednn.add_convolution(sums, shifted, kernel, bias, self.beside, self.dilation[2])
        return out.unflatten(0, (stop - top, frames))[:, : frames - self.shorter]

    def finish(self):
        self.input.append(self.reach).zero_()


def sums_in_pieces(numbers):
    """Whether products are summed in pieces: in float32, on a CPU that adds convolutions."""
    on_cpu_in_float32 = numbers.dtype == torch.float32 and numbers.device.type == "cpu"
    return on_cpu_in_float32 and onednn.has_added_convolution()


def wider(numbers):
    """In what the heads compute: in float64 where long sums are taken in pieces."""
    return Numbers(torch.float64, numbers.device) if sums_in_pieces(numbers) else numbers


def chunk_rows(rows, width, workers):
    """How many rows a thread takes at a time."""
    return max(1, min(CHUNK // width, -(-rows // workers.threads)))


class RowStem:
    """The first convolution, from intensities to rows before the ReLU: (R, T, W) to (R, T, W, C).

    Computed in float32 as the network as trained computes it, see `models.blocks.Stem`.
    """

    def __init__(self, layer, numbers):
        conv, affine, _ = layer
        self.numbers, self.out = Numbers(torch.float32, numbers.device), numbers
        self.kernel, self.bias = self.numbers.cast(conv.weight), self.numbers.cast(conv.bias)
        self.scale, self.shift = (
            self.numbers.cast(part.flatten()) for part in (affine.scale, affine.shift)
        )
        self.padding = conv.padding
        self.lag = self.padding[1]  # rows by which the output is behind the input

    def start(self, frames, width, numbers):
        self.input = Rows(self.numbers, frames, width)
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
            out.copy_(y[0].permute(2, 1, 3, 0))
            self.input.drop(count)
        return out

    def values(self, rows):
        """(kept, passing) values per frame and column, of the engine's type, for a band of rows."""
        size = self.numbers.dtype.itemsize / self.out.dtype.itemsize
        stored = rows + 2 * self.lag
        return size * stored, size * (stored + 2 * len(self.bias) * rows) + len(self.bias) * rows


class RowPool:
    """Maximum over 2x2 pixels; an odd last row or column is left out."""

    lag = 1

    def __init__(self, layer, numbers):
        pass

    def start(self, frames, width, numbers):
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

    def values(self, rows):
        """Per frame and column of the output, which is half as wide; channels: at most 32."""
        return 32, 32 * (2 * rows + 2)


class RowBlock:
    """A folded STDResBlock: rows before the ReLU in, rows before the ReLU out.

    With `ends_level` the output is (R, C, T * W) instead, its bias not yet added, for `ProbeHead`.
    """

    def __init__(self, block, numbers, ends_level=False):
        kernel = block.conv1.weight
        kernel = torch.stack([-kernel[:, :, 0], kernel[:, :, 2]], 2)
        self.conv1 = RowConv(block.conv1, numbers, kernel)
        self.conv2 = RowConv(block.conv2, numbers)
        self.lag = self.conv1.reach + self.conv2.reach
        self.mix = numbers.cast(matrix(block.conv3))
        self.shortcut = numbers.cast(matrix(block.shortcut))
        self.offset = block.conv3.bias.double()
        self.bias = numbers.cast(self.offset)
        self.ends_level = ends_level

    def start(self, frames, width, numbers):
        self.x = Rows(numbers, frames, width, self.shortcut.shape[1])
        self.conv1.start(frames + 2, width, numbers)
        self.conv2.start(frames + 2, width, numbers)
        return width

    def push(self, rows, workers):
        x, differences = self.x.append(len(rows)), self.conv1.input.append(len(rows))
        step = len(rows)
        if self.conv1.pieces is not None:
            step = chunk_rows(len(rows), rows.shape[2], workers)

        def begin(top, _):
            chunk = slice(top, top + step)
            self._begin(rows[chunk], x[chunk], differences[chunk])

        workers.run(begin, range(0, len(rows), step))
        return self._second_half(workers)

    def finish(self, workers):
        self.conv1.finish()
        return self._second_half(workers, last=True)

    def _begin(self, rows, x, differences):
        """ReLU of rows (R, T, W, C) to `x`, and its differences for t = -2 ... T-1."""
        torch.clamp_min(rows, 0, out=x)
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
            torch.clamp_min(y, 0, out=rows[:, 1:-1])

        self.conv1.run(workers, keep)
        if last:
            self.conv2.finish()
        ready, x = self.conv2.ready, self.x.rows
        frames, width, channels = *x.shape[1:3], len(self.mix)
        size = (channels, frames * width) if self.ends_level else (frames * width, channels)
        mixed = x.new_empty(ready, *size)

        def mix(top, z):
            rows = slice(top, top + len(z))
            self._mix(z.clamp_min_(0).flatten(1, 2), x[rows].flatten(1, 2), mixed[rows])

        self.conv2.run(workers, mix)
        self.x.drop(ready)
        return mixed if self.ends_level else mixed.unflatten(1, (frames, width))

    def _mix(self, z, x, out):
        """Projection and shortcut, added: (R, T W, C) of both to `out`, of what `push` gives."""
        mix, shortcut = (m.expand(len(z), -1, -1) for m in (self.mix, self.shortcut))
        if self.ends_level:
            torch.bmm(mix, z.mT, out=out).baddbmm_(shortcut, x.mT)
        else:
            torch.baddbmm(self.bias, z, mix.mT, out=out).baddbmm_(x, shortcut.mT)

    def values(self, rows):
        first, second = self.conv1.channels, self.conv2.channels
        context = self.conv1.reach + self.conv2.reach
        kept = 2 * first * (rows + context) + second * (rows + 2 * self.conv2.reach)
        return kept, 3 * second * (rows + context)


class RowLevel:
    """Blocks, pools and head of one level, fed with rows of the trunk."""

    def __init__(self, level, share, seqlen, numbers):
        self.stages = row_stages(level.layers, numbers, ends_level=True)
        offset = self.stages[-1].offset
        self.channels = len(offset)
        self.wide = wider(numbers)
        self.bias = self.wide.cast(offset[:, None, None, None])
        self.head = ProbeHead(level, share, torch.zeros_like(offset), self.wide)
        self.offset = self.head.offset
        self.seqlen = seqlen

    def start(self, width, numbers):
        for stage in self.stages:
            width = stage.start(self.seqlen, width, numbers)
        self.width = width

    def finish_head(self, features, strip_pixels, workers):
        """(R, C, T * W) before the ReLU to (8, T, R, W)."""
        rows, _, _ = features.shape
        out = features.new_empty(self.head.out_channels, self.seqlen, rows, self.width)
        step = max(1, strip_pixels // self.width)

        def run(i, scratch):
            strip = features[i : i + step]
            program, stored, small = scratch.program(
                (self, len(strip), self.width), lambda: self._record_head(len(strip), scratch)
            )
            strip = strip.unflatten(2, (self.seqlen, self.width)).permute(1, 2, 0, 3)
            torch.add(strip, self.bias, out=stored)
            stored.clamp_min_(0)
            program.run()
            out[:, :, i : i + step] = small

        workers.run(run, range(0, rows, step))
        return out

    def _record_head(self, rows, scratch):
        """(program, (C, T, R, W) features to be written, (8, T, R, W) map)."""
        program = Program()
        channels, pixels = self.channels, rows * self.width
        values = channels * self.seqlen * pixels
        pieces = scratch.take("pieces", 2, values, dtype=self.wide.dtype)
        features = view(pieces[1], channels, self.seqlen, pixels)
        small = self.head.record(program, features, pieces)
        size = rows, self.width
        return program, features.unflatten(2, size), small.unflatten(2, size)


def row_stages(layers, numbers, ends_level=False):
    """Row stages of pools and folded blocks."""
    stages = []
    for i, layer in enumerate(layers):
        if hasattr(layer, "conv1"):
            last = ends_level and i == len(layers) - 1
            stages.append(RowBlock(layer, numbers, ends_level=last))
        else:
            stages.append(RowPool(layer, numbers))
    return stages


def feed(stages, rows, workers, finish=False):
    """Pushes rows (or None) through stages in turn; with `finish`, what waits in them comes too."""
    for stage in stages:
        pushed = [stage.push(rows, workers)] if rows is not None and len(rows) else []
        if finish:
            pushed.append(stage.finish(workers))
        pushed = [part for part in pushed if part is not None and len(part)]
        rows = None if not pushed else pushed[0] if len(pushed) == 1 else torch.cat(pushed)
    return rows
