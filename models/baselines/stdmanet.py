"""STDMANet, a reconstruction: after Yan et al., TGRS 2023, of which no code is public."""

import numpy as np
import torch
from torch import nn

from models.baselines.unet import check_sides
from models.detector import Detector
from models.registration import find_shift, overlap

PATH_CHANNELS = 64
ATTENTION_RATIO = 16
REFINER_WIDTHS = (48, 144, 432)  # channels at full, half and quarter size
REFINER_BLOCKS = (1, 3, 3)  # on the way down


class STDMANet(Detector):
    """A RECONSTRUCTION of the spatio-temporal differential multiscale attention network.

    Nothing public gives its layers. This one is made of the parts that Yan et al. (TGRS 2023) name
    and that others who compare with it describe; widths and depths were searched until both
    published numbers were met: 11,899,097 parameters for 11,879,424, and 501.7 G
    multiply-accumulates (with 4 per element of BatchNorm) a frame at 480x720 for 503.8 G. What it
    scores is ours, not theirs. Nor is the clip's length, 5 frames, theirs, nor the training: they
    weigh a heat map's loss by the mask.

    1. `register`: earlier frames are moved onto the last.
    2. Temporal multiscale features: three paths, an `AttentiveBlock` to 64 channels each, of the
       last frame's differences to each earlier one, of all frames, and of the last frame.
    3. Spatial multiscale refiner: a U-shape of `AttentiveBlock`s over three sizes.

    See `Detector` for shapes: clip (B, 1, T, H, W) to logits (B, 1, H, W) of the last frame, H and
    W multiples of 4.

    Raises:
        ValueError: T below 2; sides that are no multiples of 4.
    """

    seqlen = 5
    predicts = "last"
    side_multiple = 4
    smallest_side = 4

    def __init__(self, seqlen=None):
        super().__init__(seqlen)
        if self.seqlen < 2:
            raise ValueError(f"STDMANet takes clips of 2 frames or more, not of {self.seqlen}")
        self.differences = AttentiveBlock(self.seqlen - 1, PATH_CHANNELS)
        self.frames = AttentiveBlock(self.seqlen, PATH_CHANNELS)
        self.last = AttentiveBlock(1, PATH_CHANNELS)
        self.refiner = Refiner(3 * PATH_CHANNELS, REFINER_WIDTHS, REFINER_BLOCKS)
        self.final = nn.Conv2d(REFINER_WIDTHS[0], 1, 1)

    @classmethod
    def clip_length(cls, weights):
        kernel = weights.get("frames.conv1.weight")
        return None if kernel is None else kernel.shape[1]

    def forward(self, clip):
        self.check_clip(clip)
        return self.detect(register(clip)).squeeze(1)

    def detect(self, clip):
        """As in `Detector`, for a clip that is registered already."""
        check_sides(clip, self.side_multiple)
        frames = clip.squeeze(1)
        earlier, last = frames[:, :-1], frames[:, -1:]
        # A registered frame is zero where nothing of it covers the last.
        differences = (last - earlier) * (earlier != 0)
        paths = [self.differences(differences), self.frames(frames), self.last(last)]
        return self.final(self.refiner(torch.cat(paths, 1))).unsqueeze(1)


class AttentiveBlock(nn.Module):
    """Residual block with channel and spatial attention: (B, C_in, H, W) to (B, C_out, H, W).

    y = BN(conv(ReLU(BN(conv(x))))) with 3x3 convolutions; times a weight for each channel, from its
    mean and maximum (ratio 16); times a weight for each pixel, from the mean and maximum of its
    channels (7x7; both as in Woo et al., CBAM, ECCV 2018); plus BN(1x1 convolution of x); ReLU.
    """

    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels_out)
        hidden = channels_out // ATTENTION_RATIO
        self.channel_attention = nn.Sequential(
            nn.Conv2d(channels_out, hidden, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, channels_out, 1, bias=False),
        )
        self.spatial_attention = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.shortcut = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 1), nn.BatchNorm2d(channels_out)
        )

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        mean, largest = y.mean((2, 3), keepdim=True), y.amax((2, 3), keepdim=True)
        y = y * torch.sigmoid(self.channel_attention(mean) + self.channel_attention(largest))
        pooled = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
        y = y * torch.sigmoid(self.spatial_attention(pooled))
        return torch.relu(y + self.shortcut(x))


class Refiner(nn.Module):
    """U-shape over len(widths) sizes: (B, C_in, H, W) to (B, widths[0], H, W).

    Down: 2x2 max-pooling and `blocks` blocks at each size. Up: bilinear, corners aligned, then one
    block on [map of the way down, upsampled map].
    """

    def __init__(self, channels_in, widths, blocks):
        super().__init__()
        self.down = nn.ModuleList()
        for width, count in zip(widths, blocks, strict=True):
            channels = [channels_in] + [width] * count
            pairs = zip(channels, channels[1:], strict=False)
            self.down.append(nn.Sequential(*(AttentiveBlock(*pair) for pair in pairs)))
            channels_in = width
        finer = zip(widths, widths[1:], strict=False)
        self.up = nn.ModuleList(AttentiveBlock(width + below, width) for width, below in finer)
        self.pool = nn.MaxPool2d(2)
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    def forward(self, x):
        sizes = []
        for i, blocks in enumerate(self.down):
            x = blocks(x if i == 0 else self.pool(x))
            sizes.append(x)
        for level, block in reversed(list(enumerate(self.up))):
            x = block(torch.cat([sizes[level], self.enlarge(x)], 1))
        return x


def register(clip):
    """Moves every earlier frame onto the last by whole pixels; zero where it then has none.

    The shift is that of `models.registration.find_shift`. Shifts have no gradient; what is moved
    keeps its own.

    Args:
        clip: (B, 1, T, H, W). Rows at the bottom and columns at the right that are zero in all
            frames are padding and do not take part.

    Returns:
        (B, 1, T, H, W).
    """
    shifts = find_shifts(clip)
    if not shifts.any():
        return clip
    registered = torch.zeros_like(clip)
    for b, t in np.ndindex(*shifts.shape[:2]):
        source, target = overlap(shifts[b, t], clip.shape[-2:])
        registered[b, 0, t][target] = clip[b, 0, t][source]
    return registered


def find_shifts(clip):
    """(B, T, 2) int: rows and columns to move each frame by; see `register`."""
    clip = clip.detach().squeeze(1).float().cpu().numpy()
    shifts = np.zeros((*clip.shape[:2], 2), int)
    for b, frames in enumerate(clip):
        used = np.argwhere(frames.any(0))
        height, width = used.max(0) + 1 if len(used) else (0, 0)
        *earlier, last = frames[:, :height, :width]
        for t, frame in enumerate(earlier):
            if frame.any() and last.any() and not np.array_equal(frame, last):
                shifts[b, t] = find_shift(frame, last)
    return shifts
