"""The detectors by their command-line names."""

from models.deeppro import DeepPro
from models.deeppro_plus import DeepProPlus, DeepProPlusMovingScenes

MODELS = {
    "DeepPro": DeepPro,
    "DeepPro-Plus": DeepProPlus,
    "DeepPro-Plus_forMovingScenes": DeepProPlusMovingScenes,
}


def build_model(name, seqlen=None):
    """A freshly initialised detector for clips of `seqlen` frames, by default the network's own: 40
    for DeepPro; see `models.detector.Detector` for what it promises.

    Raises:
        ValueError: no detector has this name.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: expected one of {', '.join(MODELS)}")
    return MODELS[name](seqlen)
