"""Proposals from motion alone: what moves against the camera, cut out along its colours. Needs no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.prompts.grabcut import mask_from_region
from engines.proposals.camera_motion import MotionConfig, residual_motion
from engines.protocols import Proposal
from engines.types import Frame


@dataclass(frozen=True)
class MovingConfig:
    """moving_from: residual in units of the background's noise. of_peak: share of a part's own motion under which
    its rim is taken for flow that bled over the edge. min_share: of the frame, for a moving part.

    max_moving: when more of the frame than this moves, the camera's motion was not understood and nothing is proposed.
    """

    moving_from: float = 3.0
    of_peak: float = 0.5
    min_share: float = 0.002
    max_moving: float = 0.5
    max_proposals: int = 8


class MovingProposer:
    """Implements `Proposer`. Holds settings only."""

    def __init__(self, config: MovingConfig | None = None, motion: MotionConfig | None = None) -> None:
        self._config = config or MovingConfig()
        self._motion = motion or MotionConfig()

    def propose(self, frames: Sequence[Frame]) -> list[Proposal]:
        """Moving parts of the first frame, largest motion first; none for a still or a scene at rest."""
        residual = residual_motion(frames, self._motion)
        if residual is None:
            return []
        moving = residual > self._config.moving_from
        if float(moving.mean()) > self._config.max_moving:
            return []
        parts = [part & self._strong(part, residual) for part in self._parts(moving)]
        found = [self._refine(frames[0], part, residual) for part in parts]
        return sorted((each for each in found if each.mask.any()), key=lambda each: each.score, reverse=True)

    def _strong(self, part: NDArray[np.bool_], residual: NDArray[np.float32]) -> NDArray[np.bool_]:
        return np.asarray(residual > self._config.of_peak * np.quantile(residual[part], 0.9))

    def _parts(self, moving: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
        """Separate moving parts, largest first; gaps of 1 % of the frame's side are closed."""
        import cv2

        gap = max(3, round(0.01 * max(moving.shape))) | 1
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap))
        closed = cv2.morphologyEx(moving.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
        count, parts, stats, _ = cv2.connectedComponentsWithStats(closed)
        areas = stats[1:count, cv2.CC_STAT_AREA]
        order = [
            int(number) + 1 for number in np.argsort(-areas) if areas[number] >= self._config.min_share * moving.size
        ]
        return [np.asarray(parts == number) for number in order[: self._config.max_proposals]]

    def _refine(self, frame: Frame, part: NDArray[np.bool_], residual: NDArray[np.float32]) -> Proposal:
        strength = float(np.median(residual[part]))
        mask = mask_from_region(frame, part)
        return Proposal(mask, strength / (strength + self._config.moving_from))
