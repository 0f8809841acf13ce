"""The detectors by their command-line names."""

from models.deeppro import DeepPro
from models.deeppro_plus import DeepProPlus, DeepProPlusMovingScenes

MODELS = {
    "DeepPro": DeepPro,
    "DeepPro-Plus": DeepProPlus,
    "DeepPro-Plus_forMovingScenes": DeepProPlusMovingScenes,
}


def build_model(name, seqlen=40):
    """A freshly initialised detector for clips of `seqlen` frames; logits out.

    Raises:
        ValueError: no detector has this name.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: expected one of {', '.join(MODELS)}")
    return MODELS[name](seqlen)
