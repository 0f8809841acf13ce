"""Networks with spatial kernels, over a clip that arrives in bands of rows, top to bottom.

A network is cut where a layer looks at neighbouring rows. Before a cut rows wait for those below
them; between two cuts a thread takes a few rows through all layers while they are in its cache.
Nothing is computed twice and no halo is cut: the result does not depend on the bands.

Rows are (R, T, W, C), channels last and rows outermost: a band is one piece of memory, and a
channels-last (1, C, R, T, W) image for kernels whose axes are (row, time, column).

A temporal-difference kernel has taps that sum to zero, k0 + k1 + k2 = 0, hence

    k0 x(t-2) + k1 x(t) + k2 x(t+2) = k2 d(t) - k0 d(t-2),    d(t) = x(t+2) - x(t),

two taps on first differences instead of three, which saves a third of its products.
"""

import copy

import torch

from models.engine.heads import LevelHead, channel_matrix
from models.engine.precision import Arithmetic
from models.engine.rows.convolutions import RowConv, StemConv, WinogradConv, works_by_rows
from models.engine.tape import Tape, shaped

PIECE_PIXELS = 512  # that a thread takes from cut to cut


class RowQueue:
    """Rows in one piece of memory: `append` at the bottom, `drop` from the top.

    Args:
        waiting: how many rows may be there before a band comes; room for them is made early.
    """

    def __init__(self, arithmetic, waiting):
        self.waiting = waiting
        self.data = torch.empty(0, dtype=arithmetic.dtype, device=arithmetic.device)
        self.count = 0

    def __deepcopy__(self, memo):
        """An empty one."""
        queue = copy.copy(self)
        queue.data, queue.count = self.data.new_empty(0), 0
        return queue

    def clear(self, *shape):
        """No rows, of this shape. Memory of such rows is used again: mapping it takes time."""
        self.count = 0
        if self.data.shape[1:] != shape:
            self.data = self.data.new_empty(0, *shape)

    def __len__(self):
        return self.count

    @property
    def rows(self):
        return self.data[: self.count]

    def append(self, rows):
        """Makes room for `rows` rows and returns them, to be written."""
        if self.count + rows > len(self.data):
            size = self.count + rows + self.waiting
            data = self.data.new_empty(size, *self.data.shape[1:])
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


class Segment:
    """What is between two cuts: `append` and `write` take rows, `run` computes what they allow.

    Subclasses give `ready`, how many rows of output the input allows, and `run_piece(piece,
    scratch)`, which computes a range of them and hands them on.

    Attributes:
        after: the segments that get its rows.
        lag: rows by which its output is behind its input.
        shrinks: pixels of its input, a side, that one of its output stands for.
        out_channels: of its rows.
        made_values: numbers that a task makes for a pixel and frame of output.
    """

    shrinks = 1

    def __init__(self, channels, waiting, arithmetic, input_type=None):
        self.channels = channels  # of its input
        self.arithmetic = arithmetic  # of its output
        self.input_type = input_type or arithmetic
        self.queue = RowQueue(self.input_type, waiting)
        self.by_rows = works_by_rows(arithmetic)
        self.after = []

    def start(self, frames, width):
        """For frames of this width; returns that of the output."""
        self.queue.clear(frames, width, self.channels)
        self.width = width // self.shrinks
        return self.width

    def append(self, rows):
        """Makes room for `rows` more rows."""
        self.new = self.queue.append(rows)

    def write(self, top, rows):
        """Stores rows (R, T, W, C): of those that were appended the ones from `top` on.

        Calls may come from several threads.
        """
        self.new[top : top + len(rows)] = rows

    def finish(self):
        """No more rows come."""

    def run(self, workers):
        """Computes what the input allows, and drops what is no longer needed of it."""
        ready = self.ready
        if ready == 0:
            return
        self.make_room(ready)
        step = self.rows_of_a_task(ready, self.width, workers.threads)
        workers.run(self.run_piece, self.pieces(ready, step))
        self.drop(ready)

    def pieces(self, rows, step):
        """Ranges of rows of output, one for a task, of about `step` rows each."""
        return [range(top, min(rows, top + step)) for top in range(0, rows, step)]

    def make_room(self, rows):
        for segment in self.after:
            segment.append(rows)

    def hand_on(self, top, rows, scratch):
        for segment in self.after:
            segment.write(top, rows)

    def rows_of_a_task(self, rows, width, threads):
        """How many of its `rows` rows of output a thread makes at a time."""
        if not self.by_rows:
            return rows
        return max(1, min(PIECE_PIXELS // max(1, width), -(-rows // threads)))

    def drop(self, rows):
        """Drops the input that only these rows of output needed."""
        self.queue.drop(self.shrinks * rows)

    def kept_values(self, rows):
        """Numbers per frame and column of input that wait, with `rows` more rows of it."""
        size = self.input_type.dtype.itemsize / self.arithmetic.dtype.itemsize
        return size * self.channels * (rows + self.queue.waiting)


class ConvSegment(Segment):
    """A convolution and what follows it."""

    def __init__(self, conv, arithmetic, input_type=None):
        waiting = 3 * conv.reach + conv.rows_at_once - 1  # with those below the image
        super().__init__(conv.channels, waiting, arithmetic, input_type)
        self.conv = conv
        self.lag = conv.reach + conv.rows_at_once - 1
        self.out_channels = len(conv.bias)
        self.made_values = conv.made_values

    def start(self, frames, width):
        width = super().start(frames, width)
        self._append_zeros()
        self.ended = False
        return width

    def _append_zeros(self):
        """The rows above or below the image."""
        self.queue.append(self.conv.reach).zero_()

    def finish(self):
        self._append_zeros()
        self.ended = True

    @property
    def ready(self):
        rows = max(0, len(self.queue) - 2 * self.conv.reach)
        # Always the same rows are made together, wherever the bands end.
        return rows if self.ended else rows - rows % self.conv.rows_at_once

    def pieces(self, rows, step):
        return self.conv.pieces(super().pieces(rows, step))

    def run_piece(self, piece, scratch):
        for top, out in self.conv(self.queue.rows, piece):
            self.hand_on(top, out, scratch)

    def rows_of_a_task(self, rows, width, threads):
        return max(self.conv.rows_at_once, super().rows_of_a_task(rows, width, threads))


class StemSegment(ConvSegment):
    """The first convolution and its ReLU, in float32, from rows (R, T, W, 1) of the clip."""

    def __init__(self, stem, arithmetic):
        single = Arithmetic(torch.float32, arithmetic.device)
        super().__init__(StemConv(stem, single), arithmetic, single)


class PoolSegment(Segment):
    """Maximum over 2x2 pixels; an odd last row or column is left out."""

    lag = 1
    shrinks = 2

    def __init__(self, channels, arithmetic):
        super().__init__(channels, 1, arithmetic)
        self.out_channels = channels
        self.made_values = 3 * channels

    @property
    def ready(self):
        return len(self.queue) // 2

    def run_piece(self, piece, scratch):
        rows = self.queue.rows[2 * piece.start : 2 * piece.stop]
        side = 2 * self.width
        tall = torch.maximum(rows[0::2], rows[1::2])
        self.hand_on(
            piece.start, torch.maximum(tall[:, :, 0:side:2], tall[:, :, 1:side:2]), scratch
        )


class FirstHalf(ConvSegment):
    """The first convolution of a folded residual block, over differences in time.

    Args:
        second: the `SecondHalf`, which keeps the block's input for its shortcut.
    """

    def __init__(self, block, second, arithmetic):
        kernel = block.conv1.weight
        kernel = torch.stack([-kernel[:, :, 0], kernel[:, :, 2]], 2)
        super().__init__(RowConv(block.conv1, arithmetic, kernel), arithmetic)
        self.second = second
        self.after = [second]

    def start(self, frames, width):
        return super().start(frames + 2, width)

    def append(self, rows):
        super().append(rows)
        self.new_inputs = self.second.inputs.append(rows)

    def write(self, top, rows):
        taken = slice(top, top + len(rows))
        x, differences = self.new_inputs[taken], self.new[taken]  # the latter for t = -2 ... T-1
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


class SecondHalf(ConvSegment):
    """The second convolution of a block, its projection, the shortcut added, ReLU."""

    def __init__(self, block, arithmetic):
        suits = WinogradConv.suits(block.conv2, arithmetic)
        conv = (WinogradConv if suits else RowConv)(block.conv2, arithmetic)
        super().__init__(conv, arithmetic)
        self.mix = arithmetic.cast(channel_matrix(block.conv3))
        self.shortcut = arithmetic.cast(channel_matrix(block.shortcut[0]))
        self.bias = arithmetic.cast(block.conv3.bias)
        self.inputs = RowQueue(arithmetic, self.queue.waiting + block.conv1.padding[1])
        self.made_values += len(self.bias)

    def start(self, frames, width):
        self.inputs.clear(frames, width, self.shortcut.shape[1])
        return super().start(frames, width)

    def hand_on(self, top, rows, scratch):
        x = self.inputs.rows[top : top + len(rows)]
        y, x = rows.flatten(1, 2), x.flatten(1, 2)
        mix, shortcut = (m.mT.expand(len(y), -1, -1) for m in (self.mix, self.shortcut))
        y = torch.baddbmm(self.bias, y, mix).baddbmm_(x, shortcut).clamp_min_(0)
        super().hand_on(top, y.view_as(rows), scratch)

    def drop(self, rows):
        super().drop(rows)
        self.inputs.drop(rows)

    def kept_values(self, rows):
        kept = super().kept_values(rows)
        return kept + self.shortcut.shape[1] * (rows + self.inputs.waiting)


class LastHalf(SecondHalf):
    """The last `SecondHalf` of a level and the level's head, to rows of the level's map.

    Attributes:
        tile: pixels that go through the head at a time.
    """

    def __init__(self, level, merge_matrix, seqlen, arithmetic):
        block = level.layers[-1]
        super().__init__(block, arithmetic)
        self.floor = -self.bias[:, None]  # of the shifted ReLU, see `models.engine.heads`
        self.head = LevelHead(level, merge_matrix, block.conv3.bias.double(), arithmetic)
        self.offset = self.head.offset
        self.seqlen = seqlen

    def start(self, frames, width):
        self.map = None
        return super().start(frames, width)

    def make_room(self, rows):
        size = self.head.out_channels, self.seqlen, rows, self.width
        self.map = self.queue.data.new_empty(size)

    def take_map(self):
        """(8, T, R, W): the map's rows since the last call; None if there are none."""
        out, self.map = self.map, None
        return out

    def hand_on(self, top, rows, scratch):
        x = self.inputs.rows[top : top + len(rows)]
        step = max(1, self.tile // self.width)
        out = self.map[:, :, top : top + len(rows)]
        for part in zip(rows.split(step), x.split(step), out.split(step, 2), strict=True):
            self._run_head(*part, scratch)

    def _run_head(self, y, x, out, scratch):
        """Rows (R, T, W, C) to the map's, (8, T, R, W)."""
        rows = len(y)
        tape, mixed, features, small = scratch.recorded(
            (self, rows, self.width), lambda: self._record_head(rows, scratch)
        )
        # Channels first from here on, so that a channel's profiles are a matrix.
        y, x = (a.flatten(1, 2).mT for a in (y, x))
        mix, shortcut = (m.expand(rows, -1, -1) for m in (self.mix, self.shortcut))
        torch.bmm(mix, y, out=mixed).baddbmm_(shortcut, x)
        torch.maximum(mixed, self.floor, out=mixed)
        if rows > 1:
            by_row = mixed.view(rows, -1, self.seqlen, self.width)
            features.copy_(by_row.permute(1, 2, 0, 3))
        tape.run()
        out.copy_(small)

    def _record_head(self, rows, scratch):
        """(tape, (R, C, T W) mixed rows, the same as (C, T, R, W) features, (8, T, R, W) map).

        Of a single row the features are the mixed row.
        """
        tape = Tape()
        channels, pixels = len(self.bias), rows * self.width
        buffers = scratch.take("head", 2, channels * self.seqlen * pixels)
        features = shaped(buffers[1], channels, self.seqlen, pixels)
        small = self.head.record(tape, features, buffers)
        mixed = shaped(buffers[1 if rows == 1 else 0], rows, channels, self.seqlen * self.width)
        size = rows, self.width
        return tape, mixed, features.unflatten(2, size), small.unflatten(2, size)
