"""Motion that the camera does not explain. Knows frames, not objects.

The camera's share is one homography between two frames, fitted to dense flow by RANSAC; what is left over belongs to
things that move on their own (or stand far in front of the rest). Needs OpenCV, imported when used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from engines.types import Frame

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class MotionConfig:
    """long_side: pixels at which flow is computed. grid_px: spacing of the points that the homography is fitted to.

    ransac_px: how far a point may move off the camera's motion and still count as background. floor_px: residual below
    which nothing moves, at that size.
    """

    long_side: int = 320
    grid_px: int = 8
    ransac_px: float = 1.0
    floor_px: float = 0.6


def residual_motion(frames: Sequence[Frame], config: MotionConfig | None = None) -> Floats | None:
    """[H, W] how much each pixel of the first frame moves against the camera, in units of the background's own noise.

    Below about 2 is noise. None when there is no second frame. Each later frame is compared with the first one; the
    median over them drops what only one comparison saw.
    """
    if len(frames) < 2:
        return None
    import cv2

    config = config or MotionConfig()
    height, width = frames[0].shape[:2]
    scale = min(1.0, config.long_side / max(height, width))
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    grey = [cv2.cvtColor(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY) for frame in frames]
    maps = [_residual(np.asarray(grey[0]), np.asarray(other), config) for other in grey[1:]]
    combined = np.median(np.stack(maps), axis=0).astype(np.float32)
    smooth = cv2.GaussianBlur(combined, (0, 0), 1.5)
    return np.asarray(cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _residual(first: NDArray[np.uint8], second: NDArray[np.uint8], config: MotionConfig) -> Floats:
    """[h, w] length of the flow that the camera leaves unexplained, over its median or the floor."""
    import cv2

    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = np.asarray(estimator.calc(first, second, np.zeros((*first.shape, 2), np.float32)))
    height, width = first.shape
    step = config.grid_px
    y, x = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    source = np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)
    target = source + flow[y.ravel(), x.ravel()]
    cv2.setRNGSeed(0)  # RANSAC must choose the same camera for the same frames
    found, _ = cv2.findHomography(source, target, cv2.RANSAC, config.ransac_px)
    camera = cast("NDArray[np.float64] | None", found)
    if camera is None:
        camera = np.eye(3)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    points = np.stack([columns.ravel(), rows.ravel()], 1)[:, None]
    expected = cv2.perspectiveTransform(points, camera).reshape(height, width, 2) - np.dstack([columns, rows])
    length = np.linalg.norm(flow - expected, axis=2)
    noise = max(float(np.median(length)), config.floor_px)
    return np.asarray(length / noise, np.float32)
