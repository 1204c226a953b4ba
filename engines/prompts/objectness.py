"""How likely each of many proposals is an object: one logistic rule over what was seen and what the picture shows.

Fitted on scenes of held-out stills in the way of `benchmarks.fit_objectness`; benchmarks/RESULTS.md says on which.
Knows masks and colours, not who proposed them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.prompts.colours import to_lab
from engines.prompts.contrast import colour_bins, frequency
from engines.proposals.ranking import pairwise_iou
from engines.protocols import Proposal
from engines.types import Frame

Mask = NDArray[np.bool_]
_LONG_SIDE = 400
_AGREEING = 0.5  # IoU from which two proposals speak of one thing
_RING = 0.25  # width of a mask's surroundings, as a share of the root of its area
_LEAST_PIXELS = 12


@dataclass(frozen=True)
class ObjectnessConfig:
    """Weights of the logistic rule, in the order of `features`: see there."""

    weights: tuple[float, ...] = (3.11, 0.15, -1.23, 0.29, 3.51, 5.92)
    bias: float = -5.30


def judge(
    frame: Frame, ranked: Sequence[Proposal], voted: Sequence[Proposal], config: ObjectnessConfig | None = None
) -> list[Proposal]:
    """All proposals, likeliest first; their scores are the probability of being an object.

    ranked: with scores of `rank`. voted: with shares of votes as scores. Specks are left out.
    """
    config = config or ObjectnessConfig()
    proposals, rows = features(frame, ranked, voted)
    logits = rows @ np.array(config.weights) + config.bias
    likely = [Proposal(each.mask, float(p)) for each, p in zip(proposals, 1 / (1 + np.exp(-logits)), strict=True)]
    return sorted(likely, key=lambda each: each.score, reverse=True)


def features(
    frame: Frame, ranked: Sequence[Proposal], voted: Sequence[Proposal]
) -> tuple[list[Proposal], NDArray[np.float64]]:
    """Proposals that are no specks, ranked ones first, and [n, 6] of each.

    Difference of colours to its surroundings, 0..1; contrast along its edge, in means of the picture; solidity;
    log of its share of the frame; root of the best rank of what agrees with it; best vote, the same way.
    """
    import cv2

    height, width = frame.shape[:2]
    scale = min(1.0, _LONG_SIDE / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    pairs = [(each, _shrink(each.mask, size), number < len(ranked)) for number, each in enumerate([*ranked, *voted])]
    pairs = [pair for pair in pairs if pair[1].sum() >= _LEAST_PIXELS]
    if not pairs:
        return [], np.zeros((0, 6))
    small = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
    masks = np.stack([mask for _, mask, _ in pairs])
    agreeing = _agreement(masks)
    rank = np.array([np.sqrt(each.score) if from_rank else 0.0 for each, _, from_rank in pairs])
    vote = np.array([0.0 if from_rank else each.score for each, _, from_rank in pairs])
    support = np.stack([(agreeing * rank).max(1), (agreeing * vote).max(1)], 1)
    return [each for each, _, _ in pairs], np.concatenate([_looks(small, masks), support], 1)


def _shrink(mask: Mask, size: tuple[int, int]) -> Mask:
    import cv2

    return np.asarray(cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)) >= 0.5


def _agreement(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[n, n] IoU where two agree, else 0; 1 with itself."""
    overlap = pairwise_iou(masks[:, ::2, ::2].astype(np.float32))
    np.fill_diagonal(overlap, 1.0)
    return np.where(overlap > _AGREEING, overlap, 0.0).astype(np.float64)


def _looks(image: Frame, masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[n, 4] of what the picture itself says of each mask."""
    bins, gradient = colour_bins(image), _gradient(image)
    return np.array([_look(mask, bins, gradient) for mask in masks])


def _look(mask: Mask, bins: NDArray[np.int64], gradient: NDArray[np.float32]) -> tuple[float, float, float, float]:
    import cv2

    solid, area = mask.astype(np.uint8), int(mask.sum())
    radius = max(2, round(_RING * np.sqrt(area)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    ring = np.asarray(cv2.dilate(solid, kernel), bool) & ~mask
    inside = frequency(bins, mask)
    different = 1.0 - float(np.minimum(inside, frequency(bins, ring)).sum()) if ring.any() else 0.0
    edge = mask & (np.asarray(cv2.erode(solid, np.ones((3, 3), np.uint8))) == 0)
    edge[[0, -1]] = edge[:, [0, -1]] = False  # the frame's border is no edge of the object
    contours, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.contourArea(cv2.convexHull(np.concatenate(contours)))
    sharp = float(gradient[edge].mean()) if edge.any() else 0.0
    return different, sharp, min(1.0, area / max(1.0, hull)), float(np.log(area / mask.size))


def _gradient(image: Frame) -> NDArray[np.float32]:
    """[H, W] length of the Lab gradient, the strongest next to each pixel, in means of the picture."""
    import cv2

    smooth = np.asarray(cv2.GaussianBlur(to_lab(image), (0, 0), 1.0))
    squares = sum(
        np.asarray(cv2.Sobel(smooth[..., axis], cv2.CV_32F, *way)) ** 2 for axis in range(3) for way in ((1, 0), (0, 1))
    )
    length = np.sqrt(np.asarray(squares, np.float32))
    return np.asarray(cv2.dilate(length / (float(length.mean()) + 1e-3), np.ones((3, 3), np.uint8)), np.float32)
