"""Region similarity J and contour accuracy F of two masks, as DAVIS defines them. Knows masks only, no clips.

Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

BOUNDARY_TOLERANCE = 0.008
"""Distance at which two boundary pixels still match, as a share of the image diagonal."""


def region_similarity(predicted: Mask, truth: Mask) -> float:
    """J: intersection over union of two [H, W] masks; 1 when both are empty."""
    union = int(np.count_nonzero(predicted | truth))
    if union == 0:
        return 1.0
    return int(np.count_nonzero(predicted & truth)) / union


def boundary(mask: Mask) -> Mask:
    """[H, W] pixels that differ from their right, lower or lower-right neighbour: a contour one pixel wide."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here = padded[:-1, :-1]
    return np.asarray((here != padded[:-1, 1:]) | (here != padded[1:, :-1]) | (here != padded[1:, 1:]), np.bool_)


def _disk(radius: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= radius * radius, np.uint8)


def _near(contour: Mask, radius: int) -> Mask:
    grown = cv2.dilate(contour.astype(np.uint8), _disk(radius), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(grown, dtype=np.uint8).astype(np.bool_)


def contour_accuracy(predicted: Mask, truth: Mask, tolerance: float = BOUNDARY_TOLERANCE) -> float:
    """F: harmonic mean of boundary precision and recall of two [H, W] masks; 1 when neither has a boundary.

    A boundary pixel matches when the other boundary lies within ceil(tolerance x image diagonal) pixels.
    """
    radius = math.ceil(tolerance * math.hypot(*truth.shape))
    ours, theirs = boundary(predicted), boundary(truth)
    n_ours, n_theirs = int(ours.sum()), int(theirs.sum())
    if n_ours == 0 and n_theirs == 0:
        return 1.0
    if n_ours == 0 or n_theirs == 0:
        return 0.0
    precision = int((ours & _near(theirs, radius)).sum()) / n_ours
    recall = int((theirs & _near(ours, radius)).sum()) / n_theirs
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)
