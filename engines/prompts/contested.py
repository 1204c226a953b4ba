"""Objects of one frame whose masks overlap: every shared pixel goes to the object whose own colours it has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engines.prompts.contrast import colour_bins, frequency
from engines.prompts.window import Mask
from engines.types import Frame

_HARDLY = 10  # an unshared part under a tenth of the mask tells nothing of its colours


def settle(frame: Frame, masks: Sequence[Mask]) -> list[Mask]:
    """[H, W] bool masks without overlaps, in the order given.

    A pixel claimed by several goes to the one in whose unshared part its colour is the most frequent; to one that has
    hardly an unshared part (it lies within the other) always; between equals, to the later.
    """
    claims = np.sum(masks, axis=0) if masks else np.zeros(frame.shape[:2], int)
    if not (claims > 1).any():
        return list(masks)
    bins = colour_bins(frame)
    likely = np.stack([_likelihood(bins, mask, claims) for mask in masks])
    winner = len(masks) - 1 - likely[::-1].argmax(0)
    return [np.asarray(mask & ((claims == 1) | (winner == index))) for index, mask in enumerate(masks)]


def _likelihood(bins: NDArray[np.int64], mask: Mask, claims: NDArray[np.int_]) -> NDArray[np.float64]:
    """[H, W] how much a pixel is this object's; below 0 where it does not claim it."""
    own = mask & (claims == 1)
    if own.sum() * _HARDLY < mask.sum():
        return np.where(mask, 2.0, -1.0)
    return np.where(mask, frequency(bins, own)[bins], -1.0)
