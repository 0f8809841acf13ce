"""Res-U+RFR: recurrent feature refinement (X. Ying et al., code XinyiYing/RFR)."""

import math

import torch
from torch import nn
from torch.nn import functional

from models.baselines import recipes
from models.baselines.deformable_conv import DeformableConv2d
from models.baselines.unet import ResidualUNet, conv3x3
from models.detector import Detector

CHANNELS = 16
SHIFT_GROUPS = 4
DCT_SIDE = 56


class ResURFR(Detector):
    """A U-Net on features that a recurrence carries along, aligned by deformable convolutions.

    1,024,055 parameters. Recurrent, see `Detector`: `forward(frame, state)` takes a frame
    (B, 1, H, W) and the features (B, 16, H, W) that the call before it gave, None at first, and
    gives the frame's logits (B, H, W) and its features. H and W multiples of 8; as in the released
    code, tests pad them to multiples of 32.

    The published network ends in a sigmoid and its loss takes scores; this one gives logits.
    Weights load into either: names and shapes are those of the released code.

    Raises:
        ValueError: a frame that is not (B, 1, H, W), or of sides that are no multiples of 8.
    """

    seqlen = 20
    recurrent = True
    side_multiple = 32
    smallest_side = 8
    learns_all = False
    recipe = recipes.RFR

    def __init__(self, seqlen=None):
        super().__init__(seqlen)
        self.model = RecurrentRefinement()

    def forward(self, frame, state=None):
        if frame.dim() != 4 or frame.shape[1] != 1:
            raise ValueError(
                f"frame of shape {tuple(frame.shape)}: expected (batch, 1, height, width)"
            )
        logits, state = self.model(frame, state)
        return logits.squeeze(1), state


class RecurrentRefinement(nn.Module):
    """frame (B, 1, H, W) and features of the one before to logits (B, 1, H, W) and features."""

    def __init__(self):
        super().__init__()
        self.feat_extract = conv3x3(1, CHANNELS)
        self.deform_align = PyramidAlignment(CHANNELS)
        self.spatio_temporal_fusion = SpatioTemporalFusion(CHANNELS)
        # Never used; the released code's checkpoints hold it.
        self.fusion_align = conv3x3(2 * CHANNELS, CHANNELS)
        self.fusion = conv3x3(2 * CHANNELS, CHANNELS)
        self.detection_head = ResidualUNet(CHANNELS, widths=(16, 32, 64, 128), channels_out=1)

    def forward(self, frame, previous):
        current = self.feat_extract(frame)
        aligned = current if previous is None else self.deform_align(previous, current)
        carried = self.spatio_temporal_fusion(aligned, current)
        return self.detection_head(self.fusion(torch.cat([current, carried], 1))), carried


class PyramidAlignment(nn.Module):
    """Aligns the previous features to the current ones at three sizes, coarse to fine.

    At each size a query is made of both (and of twice the query of the coarser size, upsampled);
    it moves the taps of a deformable convolution of the previous features. Upsampling is bilinear,
    corners not aligned.

    Shapes: previous and current (B, C, H, W), H and W multiples of 4; returns the same.
    """

    def __init__(self, channels):
        super().__init__()
        self.conv_l2_1 = conv3x3(channels, channels, stride=2)
        self.conv_l2_2 = conv3x3(channels, channels)
        self.conv_l3_1 = conv3x3(channels, channels, stride=2)
        self.conv_l3_2 = conv3x3(channels, channels)
        self.offset_conv1, self.offset_conv2, self.offset_conv3, self.dcn_pack, self.feat_conv = (
            nn.ModuleDict() for _ in range(5)
        )
        for level in ("l3", "l2", "l1"):
            coarsest = level == "l3"
            self.offset_conv1[level] = conv3x3(2 * channels, channels)
            self.offset_conv2[level] = conv3x3(channels if coarsest else 2 * channels, channels)
            self.dcn_pack[level] = DeformableConv2d(channels, SHIFT_GROUPS)
            if not coarsest:
                self.offset_conv3[level] = conv3x3(channels, channels)
                self.feat_conv[level] = conv3x3(2 * channels, channels)

    def forward(self, previous, current):
        sizes = zip(self.pyramid(previous), self.pyramid(current), strict=True)
        query = aligned = None
        for level, (before, now) in reversed(list(zip(("l1", "l2", "l3"), sizes, strict=True))):
            query = self.query(level, before, now, query)
            finer = self.dcn_pack[level](before, query)
            if aligned is not None:
                finer = self.feat_conv[level](torch.cat([finer, twice_as_large(aligned)], 1))
            aligned = finer if level == "l1" else torch.relu(finer)
        return aligned

    def pyramid(self, features):
        """The features at full, half and quarter size."""
        half = torch.relu(self.conv_l2_2(torch.relu(self.conv_l2_1(features))))
        return features, half, torch.relu(self.conv_l3_2(torch.relu(self.conv_l3_1(half))))

    def query(self, level, before, now, coarser):
        query = torch.relu(self.offset_conv1[level](torch.cat([before, now], 1)))
        if coarser is None:
            return torch.relu(self.offset_conv2[level](query))
        query = torch.cat([query, 2 * twice_as_large(coarser)], 1)
        query = torch.relu(self.offset_conv2[level](query))
        return torch.relu(self.offset_conv3[level](query))


def twice_as_large(x):
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class SpatioTemporalFusion(nn.Module):
    """Joins aligned and current features, weighed in time, space and frequency.

    Shapes: aligned and current (B, C, H, W); returns the same.
    """

    def __init__(self, channels):
        super().__init__()
        self.temporal_attn1 = conv3x3(channels, channels)
        self.temporal_attn2 = conv3x3(channels, channels)
        self.feat_fusion = nn.Conv2d(2 * channels, channels, 1)
        self.sa = SpatialAttention()
        self.fa = FrequencyAttention(channels)

    def forward(self, aligned, current):
        likeness = self.temporal_attn1(current) * self.temporal_attn2(aligned)
        weighed = aligned * torch.sigmoid(likeness.sum(1, keepdim=True))
        return torch.relu(self.fa(self.sa(self.feat_fusion(torch.cat([weighed, current], 1)))))


class SpatialAttention(nn.Module):
    """x (B, C, H, W) times a weight for each pixel, from the mean and maximum of its channels."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def forward(self, x):
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.conv1(pooled))


class FrequencyAttention(nn.Module):
    """x (B, C, H, W) times a weight for each channel, from one cosine coefficient of each.

    Qin et al., FcaNet, ICCV 2021: the channel, averaged to 56 x 56 pixels, times its `dct_basis`.
    """

    def __init__(self, channels):
        super().__init__()
        self.dct_layer = nn.Module()
        self.dct_layer.register_buffer("weight", dct_basis())
        self.fc = nn.Sequential(
            nn.Linear(channels, 1, bias=False),
            nn.ReLU(),
            nn.Linear(1, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x):
        small = functional.adaptive_avg_pool2d(x, DCT_SIDE) if x.shape[-2:] != (56, 56) else x
        coefficients = (small * self.dct_layer.weight).sum((2, 3))
        return x * self.fc(coefficients)[:, :, None, None]


# Frequency of each channel's basis along rows and along columns, in eighths of DCT_SIDE.
ROW_FREQUENCIES = (0, 0, 6, 0, 0, 1, 1, 4, 5, 1, 3, 0, 0, 0, 3, 2)
COLUMN_FREQUENCIES = (0, 1, 0, 5, 2, 0, 2, 0, 0, 6, 0, 4, 6, 3, 5, 2)


def dct_basis():
    """(16, 56, 56): the product of a cosine along rows and one along columns for each channel."""
    place = torch.arange(DCT_SIDE, dtype=torch.float64) + 0.5

    def cosine(frequency):
        wave = torch.cos(math.pi * 8 * frequency * place / DCT_SIDE) / math.sqrt(DCT_SIDE)
        return wave if frequency == 0 else wave * math.sqrt(2)

    pairs = zip(ROW_FREQUENCIES, COLUMN_FREQUENCIES, strict=True)
    basis = [torch.outer(cosine(row), cosine(column)) for row, column in pairs]
    return torch.stack(basis).float()
