"""The part of a frame that a prompt is about, scaled down to what a cut can afford, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.types import Frame

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Box:
    """Left, top, width and height in pixels, as displayed."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Point:
    """A click at (x, y) pixels: on the object, or on what is not the object."""

    x: float
    y: float
    on_object: bool = True


@dataclass(frozen=True)
class Window:
    """The part of a frame that is cut, scaled down. image: [h, w, 3] uint8 RGB."""

    image: Frame
    left: int
    top: int
    width: int
    height: int
    frame_shape: tuple[int, int]

    @classmethod
    def around(cls, frame: Frame, box: Box, context: float, long_side: int) -> Window:
        """The window around a box, with `context` of the box as margin, at most `long_side` pixels long."""
        import cv2

        height, width = frame.shape[:2]
        margin_x, margin_y = box.width * context + 2, box.height * context + 2
        left, top = max(0, int(box.x - margin_x)), max(0, int(box.y - margin_y))
        right = min(width, int(np.ceil(box.x + box.width + margin_x)))
        bottom = min(height, int(np.ceil(box.y + box.height + margin_y)))
        part = frame[top:bottom, left:right]
        scale = min(1.0, long_side / max(part.shape[:2]))
        size = (max(4, round((right - left) * scale)), max(4, round((bottom - top) * scale)))
        image = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
        return cls(image, left, top, right - left, bottom - top, (height, width))

    def to_inner(self, box: Box) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of a box in the window's pixels; at least one pixel each way."""
        scale_x, scale_y = self.image.shape[1] / self.width, self.image.shape[0] / self.height
        left = min(int((box.x - self.left) * scale_x), self.image.shape[1] - 1)
        top = min(int((box.y - self.top) * scale_y), self.image.shape[0] - 1)
        right = min(max(left + 1, round((box.x + box.width - self.left) * scale_x)), self.image.shape[1])
        bottom = min(max(top + 1, round((box.y + box.height - self.top) * scale_y)), self.image.shape[0])
        return left, top, right, bottom

    def point(self, point: Point) -> tuple[int, int]:
        """(x, y) in the window's pixels."""
        x = int((point.x - self.left) * self.image.shape[1] / self.width)
        y = int((point.y - self.top) * self.image.shape[0] / self.height)
        return min(x, self.image.shape[1] - 1), min(y, self.image.shape[0] - 1)

    def of_frame(self, mask: Mask) -> Mask:
        """The window's part of a mask of the frame's size, scaled as the image is."""
        import cv2

        part = mask[self.top : self.top + self.height, self.left : self.left + self.width].astype(np.float32)
        size = (self.image.shape[1], self.image.shape[0])
        return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA)) >= 0.5

    def to_frame(self, mask: Mask) -> Mask:
        """The window's mask laid into a mask of the frame's size."""
        import cv2

        soft = cv2.resize(mask.astype(np.float32), (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        result = np.zeros(self.frame_shape, bool)
        result[self.top : self.top + self.height, self.left : self.left + self.width] = np.asarray(soft) >= 0.5
        return result


def box_of(mask: Mask) -> Box:
    """The smallest box around a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    size = (int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1)
    return Box(float(columns[0]), float(rows[0]), float(size[0]), float(size[1]))
