"""The losses by their command-line names. All take logits and a mask, both (B, n, H, W), see
`models.detector.Detector` for n.

A loss is the mean over the clips of a batch, but for SoftIoU-batch and SoftIoU-frame, which look at
a process's share of the batch as a whole. One that is a sum over them says `summed = True`, so
that it is scaled where several processes train; one that is a mean over all pixels says
`averaged = True`, so that `losses.options.WithoutPadding` makes it the mean over the real ones.
"""

from functools import partial

from losses.hard_mining import HardMiningLoss
from losses.options import OfSeveral, WithEmptyClips, WithoutPadding
from losses.pixelwise import BCELoss
from losses.soft_iou import SmoothedSoftIoULoss, SoftIoULoss

LOSSES = {
    "SoftIoU": SoftIoULoss,
    "SoftIoU-batch": partial(SmoothedSoftIoULoss, summed_over=(0, 1, 2, 3)),
    "SoftIoU-frame": partial(SmoothedSoftIoULoss, summed_over=(0, 2, 3)),
    "BCE": BCELoss,
    "HAM": partial(HardMiningLoss, dilate_weight=True),
    "HPM": partial(HardMiningLoss, dilate_weight=False),
}


def build_loss(name, without_padding=False, empty_clips=0.0, processes=1):
    """The loss of this name: callable(logits, mask) -> scalar.

    Args:
        name: a key of `LOSSES`.
        without_padding: it is `losses.options.WithoutPadding`.
        empty_clips: weight of the term of `losses.options.WithEmptyClips`; 0: there is none.
        processes: that train together, each with its share of the clips. The gradient is the mean
            of theirs, so that what is summed over clips counts as often as there are processes.

    Raises:
        ValueError: no loss has this name.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}: expected one of {', '.join(LOSSES)}")
    loss = LOSSES[name]()
    if processes > 1 and getattr(loss, "summed", False):
        loss = OfSeveral(loss, processes)
    if without_padding:
        loss = WithoutPadding(loss)
    return WithEmptyClips(loss, empty_clips) if empty_clips else loss
