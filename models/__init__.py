"""The detectors by their command-line names."""

from models.baselines.dtum import ResUNetDTUM
from models.baselines.filters import TemporalZScore, TopHat
from models.baselines.rfr import ResURFR
from models.baselines.stdmanet import STDMANet
from models.deeppro import DeepPro
from models.deeppro_plus import DeepProPlus, DeepProPlusMovingScenes

MODELS = {
    "DeepPro": DeepPro,
    "DeepPro-Plus": DeepProPlus,
    "DeepPro-Plus_forMovingScenes": DeepProPlusMovingScenes,
    "Res-UNet+DTUM": ResUNetDTUM,
    "Res-U+RFR": ResURFR,
    "STDMANet": STDMANet,  # a reconstruction
    "TopHat": TopHat,
    "TemporalZScore": TemporalZScore,
}


def build_model(name, seqlen=None):
    """A freshly initialised detector for clips of `seqlen` frames, by default the network's own: 40
    for DeepPro; see `models.detector.Detector` for what it promises.

    Raises:
        ValueError: no detector has this name, or it takes no clips of this length.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: expected one of {', '.join(MODELS)}")
    return MODELS[name](seqlen)
