"""Proposals from colour alone: connected regions of one colour name. The last resort of text without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.prompts.colours import NAMES, name_map, to_lab
from engines.protocols import Proposal
from engines.types import Frame


@dataclass(frozen=True)
class ColourRegionConfig:
    """long_side: pixels at which regions are looked for. min_share, max_share: of the frame. score: of every proposal,

    low, because most regions of one colour are no objects.
    """

    long_side: int = 320
    min_share: float = 0.003
    max_share: float = 0.4
    max_proposals: int = 24
    score: float = 0.35


class ColourRegionProposer:
    """Implements `Proposer`. Holds settings only."""

    def __init__(self, config: ColourRegionConfig | None = None) -> None:
        self._config = config or ColourRegionConfig()

    def propose(self, frames: Sequence[Frame]) -> list[Proposal]:
        """Regions of one colour, largest first."""
        import cv2

        config = self._config
        height, width = frames[0].shape[:2]
        scale = min(1.0, config.long_side / max(height, width))
        size = (max(8, round(width * scale)), max(8, round(height * scale)))
        small = np.asarray(cv2.resize(frames[0], size, interpolation=cv2.INTER_AREA), np.uint8)
        smooth = np.asarray(cv2.bilateralFilter(small, 7, 30.0, 5.0), np.uint8)
        names = name_map(to_lab(smooth))
        regions = [region for index in range(len(NAMES)) for region in self._regions(np.asarray(names == index))]
        regions.sort(key=lambda region: int(region.sum()), reverse=True)
        return [Proposal(_enlarge(region, width, height), config.score) for region in regions[: config.max_proposals]]

    def _regions(self, mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
        """Connected parts of one colour, holes filled."""
        import cv2

        config = self._config
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
        opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel)
        contours, _ = cv2.findContours(opened, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        found = []
        for contour in contours:
            region = np.zeros(mask.shape, np.uint8)
            cv2.drawContours(region, [contour], -1, 1, cv2.FILLED)
            if config.min_share <= float(region.mean()) <= config.max_share:
                found.append(np.asarray(region, bool))
        return found


def _enlarge(mask: NDArray[np.bool_], width: int, height: int) -> NDArray[np.bool_]:
    import cv2

    return np.asarray(cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)) >= 0.5
