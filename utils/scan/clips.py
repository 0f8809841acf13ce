"""Clips: how a sequence is cut into them, and one run of a network of any kind over one.

Where windows start, how frames are normalised and padded, and how a recurrent network is unrolled.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def window_overlap(seqlen):
    """Frames that consecutive test windows share: int(0.1 T)."""
    return int(0.1 * seqlen)


def window_starts(frames, seqlen):
    """First frames of the windows that cover a sequence at test time.

    The stride is T - int(0.1 T); there are ceil((N - overlap) / stride) windows and the last is
    moved back to end at the last frame: 0, 36, 60 for N = 100, T = 40. A sequence of at most T
    frames has one window, which starts at 0 and may reach past its end.

    Raises:
        ValueError: `frames` or `seqlen` is below 1.
    """
    if frames < 1 or seqlen < 1:
        raise ValueError(f"{frames} frames in windows of {seqlen}: expected at least 1 of each")
    stride = seqlen - window_overlap(seqlen)
    starts = range(0, max(frames - window_overlap(seqlen), 1), stride)
    return [max(min(start, frames - seqlen), 0) for start in starts]


def normalised(frames, mean, std):
    """(x - mean) / std in float32, whatever number type the frames have.

    Levels that float32 does not hold exactly lose their mean in float64.
    """
    wide = np.promote_types(frames.dtype, np.float32)  # float32 for uint8 and uint16
    out = np.empty(frames.shape, np.float32)
    np.subtract(frames, wide.type(mean), out=out, dtype=wide, casting="unsafe")
    out /= np.float32(std)
    return out


def run_clip(network, clip, detector, canvas=True):
    """Logits (B, n, H, W) of the last n frames of a clip (B, 1, T, H, W), for any detector.

    Pads to the canvas or the multiple that the detector asks for, with zeros below and at the
    right, runs a recurrent network frame by frame, and cuts the logits to the size of the clip.
    Gradients pass. Without `canvas` clips are padded to the multiple only: training crops.
    """
    height, width = clip.shape[-2:]
    rows, columns = padded_size(detector, height, width, canvas)
    if (rows, columns) != (height, width):
        clip = functional.pad(clip, (0, columns - width, 0, rows - height))
    if detector.recurrent:
        state, logits = None, []
        for index in range(clip.shape[2]):
            frame, state = network(clip[:, :, index], state)
            logits.append(frame)
        logits = torch.stack(logits, dim=1)
    else:
        logits = network(clip)
    return logits[..., :height, :width]


def padded_size(detector, height, width, canvas=True):
    """(height, width) that a detector wants frames of this size padded to."""
    side = detector.pads_to
    if canvas and side is not None and max(height, width) <= side:
        return side, side
    multiple = detector.side_multiple
    return tuple(-(-side // multiple) * multiple for side in (height, width))


class ClipNetwork(nn.Module):
    """A network as one module from training crops (B, 1, T, H, W) to logits (B, n, H, W).

    See `run_clip`. Crops are not put on a canvas, which is far larger than most of them.
    """

    def __init__(self, network, detector):
        super().__init__()
        self.network, self.promises = network, (detector,)  # a tuple: not a second submodule

    def forward(self, clip):
        return run_clip(self.network, clip, self.promises[0], canvas=False)
