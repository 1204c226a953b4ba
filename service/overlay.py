"""Masks drawn over frames, for people to look at. Pure functions of arrays."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from service.masks import LabelMap, palette

Frame = NDArray[np.uint8]


def draw_overlay(frame: Frame, label_map: LabelMap, *, opacity: float = 0.45) -> Frame:
    """A copy of the frame with each object tinted in its palette colour and outlined.

    frame: [H, W, 3] uint8 RGB. label_map: [H, W] uint8 object ids.
    """
    tint = _bright_palette()[label_map]
    tinted = cv2.addWeighted(frame, 1 - opacity, tint, opacity, 0)
    drawn = np.where((label_map > 0)[..., None], tinted, frame)
    edges = _edges(label_map)
    drawn[edges] = tint[edges]
    return np.asarray(drawn, np.uint8)


@cache
def _bright_palette() -> NDArray[np.uint8]:
    """[256, 3] the palette of the indexed PNGs, lifted: its first colours are too dark to tint with."""
    colours = np.array(palette(), np.float32).reshape(256, 3)
    lifted = colours * (255.0 / np.maximum(colours.max(axis=1, keepdims=True), 1.0))
    return np.asarray(lifted * 0.85 + 38.0 * (colours.sum(axis=1, keepdims=True) > 0), np.uint8)


def _edges(label_map: LabelMap) -> NDArray[np.bool_]:
    """[H, W] pixels of an object that touch something else; thicker in large frames."""
    side = 3 if label_map.shape[0] < 720 else 5
    kernel = np.ones((side, side), np.uint8)
    uneven = cv2.dilate(label_map, kernel) != cv2.erode(label_map, kernel)
    return np.asarray(uneven & (label_map > 0), np.bool_)
