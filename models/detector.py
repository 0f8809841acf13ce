"""What every detector promises, and the check of a clip's shape."""

from torch import nn

# What a detector promises, as attributes: see `Detector`.
PROMISES = (
    *("seqlen", "predicts", "recurrent", "streams"),
    *("pads_to", "side_multiple", "smallest_side"),
)


class Detector(nn.Module):
    """Base of the detectors: what a network promises to the rest of the house.

    The promises are class attributes. Nothing outside `models` asks what else a network is.

    **One shape rule.** A clip is (B, 1, T, H, W) float32, normalised, oldest frame first. The
    logits (B, n, H, W) are of the last n frames of the clip: n = T where the network predicts all
    frames, n = 1 where it predicts the last.

    A recurrent network is called frame by frame: `forward(frame, state) -> (logits, state)` with a
    frame (B, 1, H, W), logits (B, H, W), and `state` what the call before it gave, None at first.
    Any tensor, tuple or list of tensors can be a state.

    Subclasses that are not recurrent write `detect`, from a checked clip to logits (B, 1, n, H, W).

    Attributes:
        seqlen: T, the frames of a clip; a class gives its default, an object its own. A recurrent
            network is trained on clips of T frames and tested on sequences of any length.
        predicts: "all" frames of the clip, or the "last" alone.
        recurrent: as above.
        streams: of one that predicts the last frame: whether it has
            `stream(frame, state, earlier) -> (logits, state)`, the same frame by frame, which keeps
            in `state` what it made of the frames before; `earlier`, at a first frame, are the
            T - 1 frames (B, 1, T - 1, H, W) before it, or None: the first frame stands for them.
        pads_to: side of a square canvas, in pixels: clips go into its top left corner, zeros
            elsewhere. Frames larger than it are padded to `side_multiple` only. None: no canvas.
        side_multiple: height and width are padded with zeros, below and at the right, to a
            multiple of this.
        smallest_side: the least height and width that the network takes.
        learns_all: whether every parameter gets a gradient.
        recipe: how its authors trained it, see `models.baselines.recipes`; {}: as DeepPro was, or
            not known.
            None: it has no weights to train.

    Args:
        seqlen: T; the class's default if None.

    Raises:
        ValueError: the clip is not (B, 1, T, H, W) with H and W at least `smallest_side`.
    """

    seqlen = 40
    predicts = "all"
    recurrent = False
    streams = False
    pads_to = None
    side_multiple = 1
    smallest_side = 1
    learns_all = True
    recipe = {}

    def __init__(self, seqlen=None):
        super().__init__()
        self.seqlen = type(self).seqlen if seqlen is None else seqlen

    @classmethod
    def clip_length(cls, weights):
        """T of a network with these weights, a state dict; None where they do not tell."""
        return None

    def stages(self):
        """The network as `models.stages.Stages`; None where it cannot be described so.

        Only a network with this description has a fast engine.
        """
        return None

    def excerpt(self, shape, box):
        """What of frames (height, width) the logits in a box (top, left, bottom, right) depend on:
        a `models.excerpt.Excerpt`; None where it may be the whole frame."""
        return None

    def check_clip(self, clip):
        side = self.smallest_side
        expected = f"expected (batch, 1, {self.seqlen}, height, width)"
        if clip.dim() != 5:
            raise ValueError(f"clip of shape {tuple(clip.shape)}: {expected}, which is of rank 5")
        _, channels, frames, height, width = clip.shape
        if channels != 1:
            raise ValueError(f"clip of {channels} channels: {expected}, infrared has 1 channel")
        if frames != self.seqlen:
            raise ValueError(
                f"clip of {frames} frames: {expected}, this network was made for clips of "
                f"{self.seqlen} frames"
            )
        if min(height, width) < side:
            raise ValueError(f"frames of {height}x{width}: {expected} with sides of {side} or more")

    def forward(self, clip):
        self.check_clip(clip)
        return self.detect(clip).squeeze(1)
