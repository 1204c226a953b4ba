"""Order proposals, drop repeats, and lay the best ones into one label map. Knows masks, not how they were found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.protocols import Proposal
from engines.types import LabelMap


@dataclass(frozen=True)
class RankingConfig:
    """min_share, max_share: size of an object as a share of the frame. same_iou: from there on two proposals are one.

    still_weight: what a proposal keeps of its score when it does not move although something else does.
    moving_from: residual motion, in units of the background's noise, from which a pixel moves.
    frame_edge: what a proposal keeps of its score when it covers all of the frame's border, as background does.
    """

    min_share: float = 0.002
    max_share: float = 0.7
    same_iou: float = 0.6
    still_weight: float = 0.2
    moving_from: float = 2.5
    frame_edge: float = 0.3


def rank(
    proposals: Iterable[Proposal], motion: NDArray[np.float32] | None = None, config: RankingConfig | None = None
) -> list[Proposal]:
    """Best first, repeats dropped: score x square root of the area, x how much of it moves on its own.

    motion: residual_motion() of the frame, or None for a still. The scores returned are the ranking values, 0..1.
    """
    config = config or RankingConfig()
    weigh = motion_weight(motion, config)
    weighed = [(each, _weight(each, config)) for each in proposals]
    found = [Proposal(each.mask, weight * weigh(each.mask)) for each, weight in weighed if weight > 0.0]
    return drop_repeats(found, config.same_iou)


def motion_weight(motion: NDArray[np.float32] | None, config: RankingConfig) -> Callable[[NDArray[np.bool_]], float]:
    """What a mask keeps of its score for how much of it moves: all where motion says nothing."""
    moving = _moving(motion, config)
    if moving is None:
        return lambda mask: 1.0
    return lambda mask: config.still_weight + (1.0 - config.still_weight) * float(moving[mask].mean())


def drop_repeats(proposals: Iterable[Proposal], same_iou: float) -> list[Proposal]:
    """Best score first, without those that overlap a better one by `same_iou`."""
    kept: list[Proposal] = []
    for each in sorted(proposals, key=lambda each: each.score, reverse=True):
        if all(iou(each.mask, better.mask) < same_iou for better in kept):
            kept.append(each)
    return kept


def _moving(motion: NDArray[np.float32] | None, config: RankingConfig) -> NDArray[np.bool_] | None:
    """Where something moves on its own; None when nothing or nearly everything does, so that motion says nothing."""
    if motion is None:
        return None
    moving: NDArray[np.bool_] = motion > config.moving_from
    return moving if config.min_share < float(moving.mean()) < config.max_share else None


def _weight(each: Proposal, config: RankingConfig) -> float:
    share = float(each.mask.mean())
    if not config.min_share <= share <= config.max_share:
        return 0.0
    weight = each.score * float(np.sqrt(share / config.max_share))
    return weight * (1.0 - (1.0 - config.frame_edge) * _border_share(each.mask))


def _border_share(mask: NDArray[np.bool_]) -> float:
    """Share of the frame's four sides that the mask touches."""
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return float(border.mean())


def iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; 0 when both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0


def pairwise_iou(masks: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, H, W] masks of 0 and 1 to [n, n] intersections over unions; 0 where both are empty."""
    flat = masks.reshape(len(masks), -1)
    both, areas = flat @ flat.T, flat.sum(1)
    overlap: NDArray[np.float32] = both / np.maximum(1.0, areas[:, None] + areas[None] - both)
    return overlap


def compose(proposals: Sequence[Proposal], max_objects: int) -> LabelMap:
    """[H, W] label map of the best proposals: ids from 1 by rank, the better one on top where two overlap.

    A proposal that the better ones leave less than half of is passed over.
    """
    if not proposals:
        raise ValueError("there is no proposal to compose")
    result = np.zeros(proposals[0].mask.shape, np.uint8)
    count = 0
    for each in proposals:
        if count == max_objects:
            break
        free = each.mask & (result == 0)
        if int(free.sum()) * 2 >= int(each.mask.sum()) > 0:
            count += 1
            result[free] = count
    return result
