"""Overlap of positive pixels and mask."""

from dataclasses import dataclass

import numpy as np

from utils.protocols.base import Counts, Protocol, ratios
from utils.protocols.components import COMPONENT_THRESHOLDS

UNIT = 1 << 40  # ratios are added as whole multiples of 1 / UNIT, so that sums are exact


@dataclass(frozen=True)
class OverlapProtocol(Protocol):
    """IoU of positive pixels and mask over all frames, and the three meanings of nIoU.

    Positive are pixels with score > threshold, as in training. IoU = sum of the frames'
    intersections / sum of their unions. nIoU is the mean over frames of intersection / union. Of a
    frame with neither a positive nor a mask pixel this is 0 / 0, and it counts

    - 0 in `niou_empty_0`, as for MIST,
    - 1 in `niou_empty_1`, as for LMAFormer, which calls it IoU,
    - not at all in `niou_without_empty`.

    MISTNet and DQAligner report IoU on NUDT-MIRSDT, MISTNet nIoU, too. Where pictures need them,
    found targets are those with a positive pixel and false alarms the positive pixels off the mask.
    """

    name: str
    title: str

    thresholds = COMPONENT_THRESHOLDS
    columns = (
        ("IoU", "iou", 1, 4),
        ("nIoU, empty frames 0", "niou_empty_0", 1, 4),
        ("nIoU, empty frames 1", "niou_empty_1", 1, 4),
        ("nIoU, empty frames left out", "niou_without_empty", 1, 4),
    )
    counted = ("all_frames", "intersection", "union", "share", "empty_frames")

    def count(self, block):
        masks = block.masks > 0
        mask_pixels = np.count_nonzero(masks, axis=(1, 2))
        intersections, unions, shares, empty = [], [], [], []
        for threshold in self.thresholds:
            positive = self._positive(block, threshold)
            intersection = np.count_nonzero(positive & masks, axis=(1, 2))
            union = np.count_nonzero(positive, axis=(1, 2)) + mask_pixels - intersection
            share = np.rint(intersection / np.maximum(union, 1) * UNIT)
            intersections.append(intersection.sum())
            unions.append(union.sum())
            shares.append(share.astype(np.int64).sum())
            empty.append(np.count_nonzero(union == 0))
        return Counts(
            all_frames=len(masks),
            intersection=intersections,
            union=unions,
            share=shares,
            empty_frames=empty,
        )

    def figures(self, counts):
        """{"iou": list, "niou_empty_0": list, ...} over the thresholds."""
        frames, empty, share = (counts[n] for n in ("all_frames", "empty_frames", "share"))
        share = share / UNIT
        return {
            "iou": ratios(counts["intersection"], counts["union"]),
            "niou_empty_0": ratios(share, frames),
            "niou_empty_1": ratios(share + empty, frames),
            "niou_without_empty": ratios(share, frames - empty),
        }

    def found(self, block, threshold):
        return block.best_scores(0) > block.scores.dtype.type(threshold)

    def alarms(self, block, threshold):
        return self._positive(block, threshold) & (block.masks == 0)

    def _positive(self, block, threshold):
        return block.scores > block.scores.dtype.type(threshold)
