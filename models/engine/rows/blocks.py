"""The segments of residual blocks: their halves, and the heads of levels."""

import torch

from models.engine.differences import difference_taps, write_differences
from models.engine.heads import LevelHead, channel_matrix
from models.engine.rows.convolutions import best_conv
from models.engine.rows.segments import ConvSegment, RowQueue
from models.engine.tape import Tape, shaped


class FirstHalf(ConvSegment):
    """The first convolution of a folded residual block, over differences in time.

    Args:
        second: the `SecondHalf`, which keeps the block's input for its shortcut.
    """

    def __init__(self, block, second, arithmetic):
        kernel = difference_taps(block.conv1.weight)
        super().__init__(best_conv(block.conv1, arithmetic, kernel), arithmetic)
        self.second = second
        self.after = [second]
        behind = [half.conv.reach + half.rows_at_once - 1 for half in (self, second)]
        self.inputs = second.inputs = RowQueue(arithmetic, sum(behind))

    def start(self, rows, frames, width):
        super().start(rows, frames + 2, width)
        self.inputs.clear(rows, frames, width, self.channels)

    def append(self, rows):
        super().append(rows)
        self.new_inputs = self.inputs.append(rows)

    def room(self, top, count):
        return self.new_inputs[top : top + count]

    def written(self, top, count):
        write_differences(self.room(top, count), 2, self.new[top : top + count])

    def run_piece(self, piece, scratch):
        out = self.second.new[piece.start : piece.stop : piece.step]
        self.conv(self.queue.rows, piece, out, self.biases, scratch)

    def kept_bytes(self, rows, frames, width):
        inputs = self.inputs.bytes_for(rows, frames, width, self.channels)
        return super().kept_bytes(rows, frames, width) + inputs

    def buffers(self, rows, frames, width, tile):
        return self.conv.buffers(rows, frames, width)


class SecondHalf(ConvSegment):
    """The second convolution of a block, its projection, the shortcut added, ReLU.

    Attributes:
        inputs: a `RowQueue` of the block's input, for the shortcut; set by its `FirstHalf`.
    """

    def __init__(self, block, arithmetic):
        super().__init__(best_conv(block.conv2, arithmetic), arithmetic)
        self.mix = arithmetic.cast(channel_matrix(block.conv3))
        self.shortcut = arithmetic.cast(channel_matrix(block.shortcut[0]))
        self.bias = arithmetic.cast(block.conv3.bias)

    def hand_on(self, top, rows, scratch):
        x = self.inputs.rows[top : top + len(rows)]
        first, *others = self.after
        out = first.room(top, len(rows))
        y, x, mixed = (a.flatten(1, 2) for a in (rows, x, out))
        mix, shortcut = (m.mT.expand(len(y), -1, -1) for m in (self.mix, self.shortcut))
        torch.baddbmm(self.bias, y, mix, out=mixed).baddbmm_(x, shortcut).clamp_min_(0)
        first.written(top, len(rows))
        for segment in others:
            segment.write(top, out)

    def drop(self, rows):
        super().drop(rows)
        self.inputs.drop(rows)


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

    def start(self, rows, frames, width):
        super().start(rows, frames, width)
        self.maps = []

    def make_room(self, rows):
        size = self.head.out_channels, self.seqlen, rows, self.width
        self.maps.append(self.queue.data.new_empty(size))

    def take_map(self):
        """(8, T, R, W): the map's rows since the last call; None if there are none."""
        maps, self.maps = self.maps, []
        return torch.cat(maps, 2) if len(maps) > 1 else next(iter(maps), None)

    def hand_on(self, top, rows, scratch):
        x = self.inputs.rows[top : top + len(rows)]
        step = max(1, self.tile // self.width)
        out = self.maps[-1][:, :, top : top + len(rows)]
        for part in zip(rows.split(step), x.split(step), out.split(step, 2), strict=True):
            self._run_head(*part, scratch)

    def buffers(self, rows, frames, width, tile):
        head = 2 * self.out_channels * frames * max(tile, width)  # as `LevelHead.record` says
        return super().buffers(rows, frames, width, tile) | {("head", self.bias.dtype): head}

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
