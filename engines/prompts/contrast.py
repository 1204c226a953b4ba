"""Which pixels of a region have colours that its surroundings lack. Histograms in CIE Lab; knows no objects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.prompts.colours import to_lab
from engines.prompts.window import Mask
from engines.types import Frame

_BINS = 10
_LIGHTNESS_STEP, _CHROMA_STEP, _CHROMA_REACH = 10.0, 12.0, 60.0
_RARE = 1e-5


def unlike_surroundings(image: Frame, region: Mask, ring: Mask) -> Mask:
    """[H, W] bool: where a colour is more frequent in the region than in the ring around it (both [H, W])."""
    bins = colour_bins(image)
    return np.asarray(frequency(bins, region)[bins] >= frequency(bins, ring)[bins])


def colour_bins(image: Frame) -> NDArray[np.int64]:
    """[H, W] number of each pixel's bin."""
    lab = to_lab(image)
    steps = (lab[..., 0] / _LIGHTNESS_STEP, *((lab[..., i] + _CHROMA_REACH) / _CHROMA_STEP for i in (1, 2)))
    light, a, b = (np.clip(step, 0, _BINS - 1).astype(np.int64) for step in steps)
    return np.asarray((light * _BINS + a) * _BINS + b)


def frequency(bins: NDArray[np.int64], mask: Mask) -> NDArray[np.float64]:
    """Share of a mask's pixels in every bin, spread a little along the colour axes."""
    import cv2

    counts = np.bincount(bins[mask], minlength=_BINS**3).astype(np.float64)
    spread = np.asarray(cv2.GaussianBlur(counts.reshape(_BINS, _BINS**2), (3, 3), 0.6)).ravel()
    return np.asarray(spread / max(1.0, float(spread.sum())) + _RARE)
