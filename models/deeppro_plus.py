"""DeepPro-Plus and its variant for moving scenes (Li et al., TPAMI 48(8), 2026)."""

from torch import nn

from models.blocks import ConvBNReLU, STDResBlock, projection
from models.difference_conv import SpatialDifferenceConv3d
from models.stages import Level, StagedDetector, Stages
from models.tpro import TPro


def _stem():
    """Spatial-difference convolution (5,7,7), one channel to eight, BatchNorm, ReLU."""
    return ConvBNReLU(SpatialDifferenceConv3d(1, 8, (5, 7, 7), padding=(2, 3, 3)))


class DeepProPlus(StagedDetector):
    """One level at full resolution, with spatial as well as temporal differences.

    70,913 parameters at T = 40. See `Detector` for shapes. Attribute names are those of the
    released checkpoints.
    """

    def __init__(self, seqlen=None):
        super().__init__(seqlen)
        self.conv_in = _stem()
        self.layer1 = nn.Sequential(STDResBlock(8, 16), STDResBlock(16, 32))
        self.TPro = TPro(32, heads=8, seqlen=self.seqlen)
        self.conv_out1 = projection(32, 8)
        self.conv_out2 = nn.Conv3d(8, 1, kernel_size=1)

    def stages(self):
        level = Level([*self.layer1], self.TPro, self.conv_out1)
        return Stages([self.conv_in], [level], None, self.conv_out2)


class DeepProPlusMovingScenes(StagedDetector):
    """DeepPro-Plus at half and quarter resolution, for scenes that move under the sensor.

    129,041 parameters at T = 40. See `Detector` for shapes. No weights of it were released.
    """

    smallest_side = 4  # two poolings

    def __init__(self, seqlen=None):
        super().__init__(seqlen)
        pool = nn.MaxPool3d((1, 2, 2))
        self.conv_in = _stem()
        self.layer0 = nn.Sequential(pool, STDResBlock(8, 16))
        self.layer1 = STDResBlock(16, 32)
        self.layer2 = nn.Sequential(pool, STDResBlock(16, 32))
        self.TPro1 = TPro(32, heads=8, seqlen=self.seqlen)
        self.conv_out1_1 = projection(32, 8)
        self.TPro2 = TPro(32, heads=8, seqlen=self.seqlen)
        self.conv_out1_2 = projection(32, 8)
        self.conv_out2 = projection(16, 8)
        self.final = nn.Conv3d(8, 1, kernel_size=1)

    def stages(self):
        levels = [
            Level([self.layer1], self.TPro1, self.conv_out1_1),
            Level([*self.layer2], self.TPro2, self.conv_out1_2),
        ]
        return Stages([self.conv_in, *self.layer0], levels, self.conv_out2, self.final)
