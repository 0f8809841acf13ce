"""The protocols by name: by what rule detections are counted as found targets and false alarms.

This package is the one place that knows radii, distances, threshold grids and rules.
"""

import math

from utils.protocols.base import OPERATING_POINT, Protocol, count_marked, operating_point
from utils.protocols.components import CentroidProtocol, F1Protocol
from utils.protocols.pixels import OverlapProtocol
from utils.protocols.radius import RadiusProtocol
from utils.protocols.roc3d import Roc3dProtocol

__all__ = [
    "ALWAYS",
    "MAIN",
    "OPERATING_POINT",
    "PROTOCOLS",
    "Protocol",
    "choose",
    "count_marked",
    "find_by_guard",
    "find_guarding_alike",
    "operating_point",
]

# DeepPro-Plus and DTUM were published with the first, DeepPro with the second.
_RADII = (RadiusProtocol(1, 4), RadiusProtocol(2, 5))
_OTHERS = (
    CentroidProtocol("centroid3", "centroid within 3 px", 3),
    CentroidProtocol("centroid3_legacy", "centroid within 3 px, legacy Fa", 3, by_area=True),
    F1Protocol("f1_2px", "one to one within 2 px", 2),
    F1Protocol("f1_3px", "one to one within 3 px", 3),
    OverlapProtocol("iou_niou", "overlap with the mask"),
    Roc3dProtocol("roc3d", "3-D ROC"),
)
PROTOCOLS = {protocol.name: protocol for protocol in (*_RADII, *_OTHERS)}
ALWAYS = tuple(protocol.name for protocol in _RADII)  # every test counts by these
MAIN = ALWAYS[0]  # what tables are sorted by, and pictures drawn by, if not told


def choose(names=()):
    """The protocols that a test counts by: those of `ALWAYS` and those named, in table order."""
    return tuple(PROTOCOLS[name] for name in PROTOCOLS if name in ALWAYS or name in names)


def find_by_guard(area):
    """The radius protocol of counts in which each target guards so many pixels, within 10 %.

    Borders and targets close to each other make it fewer than the square of its guard.

    Raises:
        ValueError: there is none.
    """
    for protocol in _RADII:
        square = (2 * protocol.guard + 1) ** 2
        if abs(area - square) <= 0.1 * square:
            return protocol
    raise ValueError(
        f"{area:.1f} pixels guarded for each target: no known protocol does that, unless targets "
        "lie at the border or close to each other; expected the metrics.json of such a test"
    )


def find_guarding_alike(protocol, area):
    """[(another radius protocol, side)]: guards so many pixels around targets of side x side.

    Args:
        protocol: from `find_by_guard`, where targets are of one pixel.
        area: as there.
    """
    sides = [(other, round(math.sqrt(area)) - 2 * other.guard) for other in _RADII]
    return [(other, side) for other, side in sides if other != protocol and side > 1]
