"""The 3-D ROC of the tensor methods: detection and false alarms, each over the threshold."""

from dataclasses import dataclass

import numpy as np

from utils.metrics import count_reached
from utils.protocols.base import Counts, Protocol, ratios
from utils.protocols.components import target_components

BOX = (-1, 0, 1)  # rows and columns of a target's box, from its centroid


@dataclass(frozen=True)
class Roc3dProtocol(Protocol):
    """TPR and FPR over thresholds tau = 0, 0.01 ... 1, and the areas that sum them up.

    A target's box is the 3x3 pixels around its rounded centroid, cut at the border. TPR(tau): the
    share of targets with a score >= tau in their box. FPR(tau): the share of the pixels outside all
    boxes with a score >= tau. Areas are trapezoids, no end points added; AUC(F,D) is of TPR over
    FPR, AUC(tau,D) of TPR and AUC(tau,F) of FPR over tau. After C.-I Chang, "An effective
    evaluation tool for hyperspectral target detection", TGRS 59(6), 2021, taken over by low-rank
    and tensor methods for infrared small targets:

        TD = AUC(F,D) + AUC(tau,D)         BS = AUC(F,D) - AUC(tau,F)
        TDBS = AUC(tau,D) - AUC(tau,F)     SNPR = AUC(tau,D) / AUC(tau,F)
        OD = AUC(F,D) + AUC(tau,D) - AUC(tau,F)

    They report the mean over images or sequences; here counts are pooled, as for all protocols.
    """

    name: str
    title: str

    thresholds = tuple(k / 100 for k in range(101))
    columns = (
        ("AUC(F,D)", "auc_fd", 1, 4),
        ("AUC(tau,D)", "auc_td", 1, 4),
        ("AUC(tau,F)", "auc_tf", 1, 6),
        ("OD", "od", 1, 4),
        ("TD", "td", 1, 4),
        ("BS", "bs", 1, 4),
        ("TDBS", "tdbs", 1, 4),
        ("SNPR", "snpr", 1, 2),
    )

    def count(self, block):
        boxes = target_boxes(block)
        inside = np.unique(boxes.places[boxes.inside])
        alarms = block.reached(self.thresholds)
        alarms = alarms - count_reached(block.scores.ravel()[inside], self.thresholds)
        return Counts(
            targets=len(boxes.places),
            detected=count_reached(boxes.best(block.scores), self.thresholds),
            background_pixels=block.scores.size - len(inside),
            background_alarms=alarms,
        )

    def figures(self, counts):
        """{"tpr": list, "fpr": list} over the thresholds; the areas, None without targets."""
        curves = {
            "tpr": ratios(counts["detected"], counts["targets"]),
            "fpr": ratios(counts["background_alarms"], counts["background_pixels"]),
        }
        if None in (curves["tpr"][0], curves["fpr"][0]):
            return curves | {key: None for _, key, _, _ in self.columns}
        tpr, fpr = (np.array(curves[name]) for name in ("tpr", "fpr"))
        fd = float(np.trapezoid(tpr[::-1], fpr[::-1]))
        td, tf = (float(np.trapezoid(rate, self.thresholds)) for rate in (tpr, fpr))
        return curves | {
            "auc_fd": fd,
            "auc_td": td,
            "auc_tf": tf,
            "od": fd + td - tf,
            "td": fd + td,
            "bs": fd - tf,
            "tdbs": td - tf,
            "snpr": td / tf if tf else None,
        }

    def found(self, block, threshold):
        return target_boxes(block).best(block.scores) >= block.scores.dtype.type(threshold)

    def alarms(self, block, threshold):
        boxes = target_boxes(block)
        alarms = block.scores >= block.scores.dtype.type(threshold)
        alarms.ravel()[boxes.places[boxes.inside]] = False
        return alarms


@dataclass(frozen=True)
class Boxes:
    """The boxes of some targets.

    Attributes:
        places: (targets, 9) flat indices into the block's scores.
        inside: (targets, 9) bool, where they count; the others stand at some valid index.
    """

    places: np.ndarray
    inside: np.ndarray

    def best(self, scores):
        """(targets,): the largest score in each box."""
        nearby = np.where(self.inside, scores.ravel()[self.places], scores.dtype.type(-np.inf))
        return nearby.max(axis=1, initial=-np.inf)


def target_boxes(block):
    """The `Boxes` of a block's targets; looked for once."""
    return block.remember("boxes", lambda: _target_boxes(block))


def _target_boxes(block):
    _, height, width = block.scores.shape
    targets = target_components(block)
    # Halves go up, as in the Matlab code of these methods.
    centre = np.floor(targets.centroid + 0.5).astype(int)
    down, right = (step.ravel() for step in np.meshgrid(BOX, BOX, indexing="ij"))
    rows, columns = centre[:, :1] + down, centre[:, 1:] + right
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = (targets.frame[:, None] * height + rows) * width + columns
    return Boxes(np.where(inside, places, 0), inside)
