"""DeepPro: a detector that multiplies and adds along time only (Li et al., TPAMI 48(8), 2026)."""

from torch import nn

from models.blocks import ConvBNReLU, TDResBlock, projection
from models.stages import Level, StagedDetector, Stages
from models.tpro import TPro


class DeepPro(StagedDetector):
    """Three levels of temporal-difference blocks, each with its temporal probe.

    Space enters only through max-pooling before levels 2 and 3 and through the bilinear upsampling
    after them; every other layer sees one temporal profile at a time. 49,129 parameters at T = 40.
    See `Detector` for shapes. Attribute names are those of the released checkpoints.
    """

    smallest_side = 4  # level 3 pools twice

    def __init__(self, seqlen=None):
        super().__init__(seqlen)
        pool = nn.MaxPool3d((1, 2, 2))
        self.conv_in = ConvBNReLU(nn.Conv3d(1, 8, (5, 1, 1), padding=(2, 0, 0)))
        self.layer1 = nn.Sequential(TDResBlock(8, 16), TDResBlock(16, 32))
        self.layer2 = nn.Sequential(pool, TDResBlock(8, 16), TDResBlock(16, 32))
        self.layer3 = nn.Sequential(pool, TDResBlock(8, 16), pool, TDResBlock(16, 32))
        self.TPro1 = TPro(32, heads=4, seqlen=self.seqlen)
        self.conv_out1_1 = projection(32, 8)
        self.TPro2 = TPro(32, heads=4, seqlen=self.seqlen)
        self.conv_out1_2 = projection(32, 8)
        self.TPro3 = TPro(32, heads=4, seqlen=self.seqlen)
        self.conv_out1_3 = projection(32, 8)
        self.conv_out2 = projection(24, 8)
        self.final = nn.Conv3d(8, 1, kernel_size=1)

    def stages(self):
        levels = [
            Level([*self.layer1], self.TPro1, self.conv_out1_1),
            Level([*self.layer2], self.TPro2, self.conv_out1_2),
            Level([*self.layer3], self.TPro3, self.conv_out1_3),
        ]
        return Stages([self.conv_in], levels, self.conv_out2, self.final)
