"""Res-UNet+DTUM: direction-coded temporal U-shape module (Li et al., TNNLS 2023)."""

import torch
from torch import nn
from torch.nn import functional

from models.baselines import recipes
from models.baselines.unet import ResidualUNet
from models.detector import Detector

CLIP_FRAMES = 5  # of a clip: the module's last temporal convolution takes them to one
FEATURES = 32


class ResUNetDTUM(Detector):
    """The score of the last of five frames: a U-Net on each frame, then `TemporalUNet` on all five.

    298,305 parameters. See `Detector` for shapes: clip (B, 1, 5, H, W) to logits (B, 1, H, W) of
    the fifth frame, H and W multiples of 8. `stream` gives the same frame by frame with one U-Net
    pass each. Attribute names are those of the released checkpoint, which loads strictly.

    As published, no gradient passes from the last level of the temporal module to the levels below
    (`TemporalUNet`): 20 tensors, 36,320 values, stay as they were initialised, in the released
    weights too.

    Raises:
        ValueError: another clip length than 5; sides that are no multiples of 8.
    """

    seqlen = CLIP_FRAMES
    predicts = "last"
    streams = True
    pads_to = 512
    side_multiple = 8
    smallest_side = 8
    learns_all = False
    recipe = recipes.DTUM

    def __init__(self, seqlen=None):
        if seqlen not in (None, CLIP_FRAMES):
            raise ValueError(f"Res-UNet+DTUM takes clips of {CLIP_FRAMES} frames, not of {seqlen}")
        super().__init__(seqlen)
        self.UNet = ResidualUNet(3, widths=(8, 16, 32, 64), channels_out=FEATURES)
        self.DTUM = TemporalUNet(FEATURES)

    @classmethod
    def clip_length(cls, weights):
        return CLIP_FRAMES

    def detect(self, clip):
        features = [self.frame_features(frame) for frame in clip.unbind(2)]
        return self.DTUM(torch.stack(features, dim=2))

    def frame_features(self, frame):
        """(B, 1, H, W) to (B, 32, H, W). Frame by frame, so that BN's statistics are a frame's."""
        return self.UNet(frame.expand(-1, 3, -1, -1))

    def stream(self, frame, state=None, earlier=None):
        """Logits of the next frame of a sequence; equal to those of its window of five frames.

        Args:
            frame: (B, 1, H, W), normalised.
            state: what the call before gave; None at a sequence's first frame.
            earlier: at the first frame, (B, 1, 4, H, W), the four frames before it, oldest first.
                If None the first frame stands for them.

        Returns:
            logits (B, H, W), state (B, 32, 4, H, W): the features of the last four frames.
        """
        features = self.frame_features(frame).unsqueeze(2)
        if state is None and earlier is None:
            state = features.expand(-1, -1, CLIP_FRAMES - 1, -1, -1)
        elif state is None:
            state = torch.stack([self.frame_features(each) for each in earlier.unbind(2)], dim=2)
        features = torch.cat([state, features], dim=2)
        return self.DTUM(features).squeeze(1).squeeze(1), features[:, :, 1:]


class TemporalUNet(nn.Module):
    """DTUM: features (B, 32, 5, H, W) of five frames to logits (B, 1, 1, H, W) of the last.

    Convolutions reach along time only, but for the final 3x3. Each way down takes the winners of a
    2x2 max-pooling times `motion_code`, so that a target's move within the 2x2 cell shows over
    time; each way up joins [upsampled, level's own]. The gradient stops before the last join.
    Attribute names are those of the released checkpoint.
    """

    def __init__(self, channels):
        super().__init__()
        self.bn0 = nn.BatchNorm3d(channels)
        for level in (1, 2, 3, 4):
            self.add_module(f"conv{level}_1", temporal_conv(channels, channels))
            self.add_module(f"bn{level}_1", nn.BatchNorm3d(channels))
        for level in (3, 2, 1):
            padding = 0 if level == 1 else CLIP_FRAMES // 2
            self.add_module(f"conv{level}_2", temporal_conv(2 * channels, channels, padding))
            self.add_module(f"bn{level}_2", nn.BatchNorm3d(channels))
        self.up = nn.Upsample(scale_factor=(1, 2, 2), mode="nearest")
        self.final = nn.Sequential(
            nn.Conv3d(2 * channels, channels, (1, 3, 3), padding=(0, 1, 1)),
            nn.BatchNorm3d(channels),
            nn.ReLU(),
            nn.Dropout3d(0.5),
            nn.Conv3d(channels, 1, 1),
        )

    def forward(self, features):
        x0 = torch.relu(self.bn0(features))
        x1 = torch.relu(self.bn1_1(self.conv1_1(x0)))
        x2 = torch.relu(self.bn2_1(self.conv2_1(motion_code(x1)).abs()))
        x3 = torch.relu(self.bn3_1(self.conv3_1(motion_code(x2)).abs()))
        x4 = torch.relu(self.bn4_1(self.conv4_1(motion_code(x3)).abs()))
        o3 = torch.relu(self.bn3_2(self.conv3_2(torch.cat([self.up(x4), x3], 1))))
        o2 = torch.relu(self.bn2_2(self.conv2_2(torch.cat([self.up(o3), x2], 1))))
        if self.conv2_2.weight.requires_grad:  # of the input alone, the whole gradient is wanted
            o2 = o2.detach()
        o1 = torch.relu(self.bn1_2(self.conv1_2(torch.cat([self.up(o2), x1], 1))))  # one frame
        return self.final(torch.cat([o1, x0[:, :, -1:]], 1))


def temporal_conv(channels_in, channels_out, padding=CLIP_FRAMES // 2):
    """Convolution along time, 5 taps."""
    return nn.Conv3d(channels_in, channels_out, (CLIP_FRAMES, 1, 1), padding=(padding, 0, 0))


def motion_code(x):
    """Each 2x2 cell's largest value times where in the cell it was found.

    The factor is -1.5 top left, -0.5 top right, 0.5 bottom left, 1.5 bottom right.

    Args:
        x: (B, C, T, H, W), H and W even.

    Returns:
        (B, C, T, H / 2, W / 2).
    """
    height, width = x.shape[-2:]
    assert height % 2 == width % 2 == 0
    values, places = functional.max_pool3d(x, (1, 2, 2), return_indices=True)
    # Places count through (T, H, W): with even sides their parities are those of row and column.
    code = places % 2 + 2 * (places // width % 2) - 1.5
    return values * code
