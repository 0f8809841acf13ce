"""Networks with spatial kernels, over a clip that arrives in bands of rows, top to bottom.

A network is cut where a layer looks at neighbouring rows. Before a cut rows wait for those below
them; between two cuts a thread takes a few rows through all layers while they are in its cache.
Nothing is computed twice and no halo is cut. Rows depend neither on the bands nor on the threads:
the four that a Winograd convolution makes together are the same four wherever bands end. After them
the last bits may depend on how many pixels a head takes at a time, as libraries sum products of
other sizes in another order.

Rows are (R, T, W, C), channels last and rows outermost: a band is one piece of memory, and a
channels-last (1, C, R, T, W) image for kernels whose axes are (row, time, column).
"""

import copy
import math

import torch

from models.engine.centring import centring
from models.engine.precision import Arithmetic
from models.engine.rows.convolutions import StemConv, cut_rows

PIECE_PIXELS = 512  # that a thread takes from cut to cut


class RowQueue:
    """Rows in one piece of memory: `append` at the bottom, `drop` from the top.

    Args:
        waiting: how many rows may be there before others come.
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

    def clear(self, rows, *shape):
        """No rows, of this shape; `rows` of them may come at once."""
        self.count = 0
        if self.data.shape[1:] != shape or len(self.data) < rows + self.waiting:
            self.data = self.data.new_empty(0)  # gone before there is other memory
            self.data = self.data.new_empty(rows + self.waiting, *shape)

    def bytes_for(self, rows, *shape):
        """What `clear` takes."""
        return (rows + self.waiting) * math.prod(shape) * self.data.element_size()

    def __len__(self):
        return self.count

    @property
    def rows(self):
        return self.data[: self.count]

    def append(self, rows):
        """Makes room for `rows` rows and returns them, to be written."""
        self.count += rows
        return self.data[self.count - rows : self.count]

    def drop(self, rows):
        self.count -= rows
        for top in range(0, self.count, rows):  # no part overlaps its new place
            stop = min(top + rows, self.count)
            self.data[top:stop] = self.data[top + rows : stop + rows]


class Segment:
    """What is between two cuts: rows come by `append` and `write`, `run` computes what they allow.

    Subclasses give `ready`, how many rows of output the input allows, and `run_piece(piece,
    scratch)`, which computes a range of them and hands them on.

    Attributes:
        after: the segments that get its rows.
        shrinks: pixels of its input, a side, that one of its output stands for.
        rows_at_once: of output; fewer are only made at the end.
        out_channels: of its rows.
    """

    shrinks = rows_at_once = 1
    pieces = staticmethod(cut_rows)

    def __init__(self, channels, waiting, arithmetic):
        self.channels, self.arithmetic = channels, arithmetic  # of its input
        self.queue = RowQueue(arithmetic, waiting)
        self.after = []

    def start(self, rows, frames, width):
        """For frames of this width, of which at most `rows` rows come at once."""
        self.queue.clear(rows, frames, width, self.channels)
        self.width, self.most = width // self.shrinks, self.rows_out(rows)

    def rows_out(self, rows):
        """The most rows of output that are made at once, where `rows` of input come at once."""
        rows //= self.shrinks
        return max(rows - rows % self.rows_at_once, self.rows_at_once)

    def append(self, rows):
        """Makes room for `rows` more rows."""
        self.new = self.queue.append(rows)

    def write(self, top, rows):
        """Stores rows (R, T, W, C): of those that were appended the ones from `top` on.

        Calls may come from several threads.
        """
        self.room(top, len(rows)).copy_(rows)
        self.written(top, len(rows))

    def room(self, top, count):
        """Memory for rows that were appended, for who writes them in place of `write`."""
        return self.new[top : top + count]

    def written(self, top, count):
        """They are written."""

    def finish(self):
        """No more rows come."""

    def run(self, workers):
        """Computes what the input allows, here and after, and drops what is no longer needed."""
        while rows := min(self.ready, self.most):
            self.make_room(rows)
            step = self.rows_of_a_task(rows, self.width, workers.threads)
            workers.run(self.run_piece, self.pieces(rows, step))
            self.drop(rows)
            for segment in self.after:
                segment.run(workers)

    def kept_bytes(self, rows, frames, width):
        """Of the input that waits, where `rows` rows of it come at once."""
        return self.queue.bytes_for(rows, frames, width, self.channels)

    def buffers(self, rows, frames, width, tile):
        """{(name, type): how many numbers} of what a task of so many rows of output works in.

        Args:
            tile: pixels that the head of a level takes at a time.
        """
        return {}

    def make_room(self, rows):
        for segment in self.after:
            segment.append(rows)

    def hand_on(self, top, rows, scratch):
        for segment in self.after:
            segment.write(top, rows)

    def rows_of_a_task(self, rows, width, threads):
        """How many of its `rows` rows of output a thread makes at a time."""
        if self.arithmetic.device.type != "cpu":
            return rows
        return max(1, min(PIECE_PIXELS // max(1, width), -(-rows // threads)))

    def drop(self, rows):
        """Drops the input that only these rows of output needed."""
        self.queue.drop(self.shrinks * rows)


class ConvSegment(Segment):
    """A convolution and what follows it.

    Attributes:
        beyond: what is beyond the image.
        biases: of the convolution, (C_out,) or, for each frame, (T', 1, C_out).
    """

    beyond = 0

    def __init__(self, conv, arithmetic):
        waiting = 3 * conv.reach + conv.rows_at_once - 1  # with those below the image
        super().__init__(conv.channels, waiting, arithmetic)
        self.conv, self.rows_at_once, self.biases = conv, conv.rows_at_once, conv.bias
        self.out_channels = len(conv.bias)

    def start(self, rows, frames, width):
        super().start(rows, frames, width)
        self.frames = self.conv.frames_made(frames)
        self._append_beyond()
        self.ended = False

    def _append_beyond(self):
        """The rows above or below the image."""
        self.queue.append(self.conv.reach)[:] = self.beyond

    def finish(self):
        self._append_beyond()
        self.ended = True

    @property
    def ready(self):
        rows = max(0, len(self.queue) - 2 * self.conv.reach)
        # Always the same rows are made together, wherever the bands end.
        return rows if self.ended else rows - rows % self.conv.rows_at_once

    def pieces(self, rows, step):
        return self.conv.pieces(rows, step)

    def buffers(self, rows, frames, width, tile):
        made = self.out_channels * rows * frames * width
        return self.conv.buffers(rows, frames, width) | {("made", self.conv.bias.dtype): made}

    def run_piece(self, piece, scratch):
        size = len(piece), self.frames, self.width, self.out_channels
        out = scratch.take("made", *size, dtype=self.conv.bias.dtype)
        self.conv(self.queue.rows, piece, out, self.biases, scratch)
        if piece.step == 1:
            self.hand_on(piece.start, out, scratch)
        else:
            for top, row in zip(piece, out.split(1), strict=True):
                self.hand_on(top, row, scratch)


class StemSegment(ConvSegment):
    """The first convolution and its ReLU, in float32, from rows (R, T, W, 1) of the clip.

    Its queue holds rows less the frames' means, see `models.engine.centring`, with the columns
    beside the image.
    """

    def __init__(self, stem, arithmetic):
        single = Arithmetic(torch.float32, arithmetic.device)
        self.layer = stem[0]
        super().__init__(StemConv(self.layer, single), single)

    def centre(self, clip):
        """Rows of this clip (T, H, W) will follow `start`."""
        means, biases = centring(self.layer, clip)
        self.beyond, self.biases = -means[:, None, None], biases[:, None]

    def start(self, rows, frames, width):
        beside = self.layer.padding[2]
        super().start(rows, frames, width + 2 * beside)
        self.width, self.image = width, slice(beside, beside + width)

    def kept_bytes(self, rows, frames, width):
        return super().kept_bytes(rows, frames, width + 2 * self.layer.padding[2])

    def write(self, top, rows):
        new = self.room(top, len(rows))
        new[:] = self.beyond
        new[:, :, self.image] += rows


class PoolSegment(Segment):
    """Maximum over 2x2 pixels; an odd last row or column is left out."""

    shrinks = 2

    def __init__(self, channels, arithmetic):
        super().__init__(channels, 1, arithmetic)
        self.out_channels = channels

    @property
    def ready(self):
        return len(self.queue) // 2

    def run_piece(self, piece, scratch):
        rows = self.queue.rows[2 * piece.start : 2 * piece.stop]
        side = 2 * self.width
        tall = torch.maximum(rows[0::2], rows[1::2])
        small = torch.maximum(tall[:, :, 0:side:2], tall[:, :, 1:side:2])
        self.hand_on(piece.start, small, scratch)

    def buffers(self, rows, frames, width, tile):
        # Of two rows the larger, then of two columns.
        return {("pooled", self.arithmetic.dtype): 3 * self.channels * rows * frames * width}
