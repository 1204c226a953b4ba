"""Colour names: which of eleven a pixel has, by the nearest sample in CIE Lab. Knows no objects.

The texts that readers are trained and measured on name colours in their own way, see `engines.uniref.attributes`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engines.types import Frame

# sRGB samples of each name, chosen to lie where people stop using one name and begin the next.
_SAMPLES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "black": ((0, 0, 0), (28, 28, 28), (40, 38, 36), (22, 26, 36)),
    "white": ((255, 255, 255), (236, 236, 232), (216, 219, 222)),
    "gray": ((128, 128, 128), (92, 92, 94), (172, 172, 172), (112, 116, 122), (66, 66, 66)),
    "red": ((255, 0, 0), (200, 30, 30), (150, 20, 25), (215, 60, 50), (110, 18, 20)),
    "orange": ((255, 140, 0), (240, 110, 30), (230, 130, 60), (255, 170, 90)),
    "yellow": ((255, 235, 0), (240, 220, 80), (220, 190, 40), (250, 240, 150)),
    "green": ((0, 128, 0), (60, 160, 60), (120, 180, 60), (40, 80, 40), (90, 110, 50), (150, 220, 150), (0, 200, 120)),
    "blue": (
        (0, 0, 255),
        (30, 60, 150),
        (30, 60, 205),
        (70, 130, 200),
        (130, 185, 230),
        (20, 40, 90),
        (0, 160, 200),
        (90, 112, 150),
    ),
    "purple": ((128, 0, 128), (90, 40, 140), (150, 90, 180), (75, 30, 85)),
    "pink": ((255, 105, 180), (255, 192, 203), (230, 120, 150), (220, 60, 140)),
    "brown": ((101, 67, 33), (139, 90, 50), (90, 60, 45), (160, 120, 80), (70, 45, 30), (185, 145, 105)),
}
NAMES: tuple[str, ...] = tuple(_SAMPLES)


def to_lab(frame: Frame) -> NDArray[np.float32]:
    """[H, W, 3] CIE Lab: lightness 0..100, a and b about -100..100."""
    import cv2

    return np.asarray(cv2.cvtColor(frame.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB), np.float32)


@lru_cache(maxsize=1)
def _table() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """[n, 3] samples in Lab, and the index into NAMES of each."""
    rgb = np.array([[sample for samples in _SAMPLES.values() for sample in samples]], np.uint8)
    names = [index for index, samples in enumerate(_SAMPLES.values()) for _ in samples]
    return to_lab(rgb)[0], np.array(names, np.uint8)


def name_map(lab: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[H, W] index into NAMES of each pixel's nearest sample."""
    samples, names = _table()
    flat = lab.reshape(-1, 3)
    # the squared distance but for the pixel's own square, which all samples share
    distance = (samples**2).sum(1) - 2.0 * flat @ samples.T
    return np.asarray(names[distance.argmin(1)].reshape(lab.shape[:2]), np.uint8)
