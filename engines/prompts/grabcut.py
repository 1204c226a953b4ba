"""A box or clicked points to a mask by GrabCut: colour models of inside and outside, and a cut between them.

Needs no weights. Works on a window around the prompt at a bounded size. Needs OpenCV, imported when used.
Source: Rother et al. 2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.errors import UnusableReference
from engines.types import Frame

Mask = NDArray[np.bool_]
_ROUNDS = 5


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
class GrabCutConfig:
    """long_side: pixels at which the cut is made. context: margin around a box, as a share of it, for background.

    point_radius: of the disc that surely belongs to a click, as a share of the shorter side. reach: how far from a
    click an object is looked for, the same way. colour_distance: CIE Lab distance up to which a pixel is like a click.
    region_core, region_reach: shares of a rough region's size (the root of its area): how far inside its rim it is
    surely right, and how far outside it may still grow.
    """

    long_side: int = 480
    context: float = 0.4
    point_radius: float = 0.012
    reach: float = 0.35
    colour_distance: float = 18.0
    region_core: float = 0.12
    region_reach: float = 0.12


def mask_from_box(frame: Frame, box: Box, config: GrabCutConfig | None = None) -> Mask:
    """[H, W] bool: the object that fills the box. Where no cut is found, the ellipse inside the box.

    Raises UnusableReference for an empty box or one that is not inside the frame.
    """
    check_box(box, frame.shape[0], frame.shape[1])
    config = config or GrabCutConfig()
    window = _Window.around(frame, box, config)
    left, top, right, bottom = window.to_inner(box)
    labels = np.zeros(window.image.shape[:2], np.uint8)  # 0: surely background
    labels[top:bottom, left:right] = 3  # probably object
    if (labels == 3).all():  # the box is the whole picture: only its rim can show the background
        rim = max(1, min(labels.shape) // 40)
        labels[:rim], labels[-rim:], labels[:, :rim], labels[:, -rim:] = 2, 2, 2, 2
    inner = np.zeros(labels.shape, bool)
    inner[top:bottom, left:right] = _ellipse(bottom - top, right - left)
    found = _cut(window.image, labels)
    found &= np.asarray(labels != 0)
    if found.sum() < 0.05 * inner.sum():
        found = inner
    return window.to_frame(_largest_parts(found))


def mask_from_points(frame: Frame, points: Sequence[Point], config: GrabCutConfig | None = None) -> Mask:
    """[H, W] bool: the object under the clicks, without what the clicks on background show.

    Raises UnusableReference when no click is on the object or one lies outside the frame.
    """
    height, width = frame.shape[:2]
    check_points(points, height, width)
    config = config or GrabCutConfig()
    window = _Window.around(frame, Box(0, 0, width, height), config)
    side = min(window.image.shape[:2])
    radius = max(1, round(config.point_radius * side))
    labels = _point_labels(window, points, radius, round(config.reach * side), config.colour_distance)
    found = _cut(window.image, labels)
    for point in points:
        _disc(found, window.point(point), radius, point.on_object)
    return window.to_frame(_connected_to(found, [window.point(each) for each in points if each.on_object]))


def mask_from_region(frame: Frame, region: Mask, config: GrabCutConfig | None = None) -> Mask:
    """[H, W] bool: a rough region [H, W] that is not empty, redrawn along the picture's colours.

    Pixels well inside the region stay, pixels well outside never join. The region itself where the cut strays from it.
    """
    import cv2

    config = config or GrabCutConfig()
    window = _Window.around(frame, _box_of(region), config)
    rough = window.of_frame(region)
    size = float(np.sqrt(rough.sum()))
    core = np.asarray(cv2.erode(rough.astype(np.uint8), _round_kernel(config.region_core * size)), bool)
    around = np.asarray(cv2.dilate(rough.astype(np.uint8), _round_kernel(config.region_reach * size)), bool)
    labels = np.where(core, 1, np.where(rough, 3, np.where(around, 2, 0))).astype(np.uint8)
    found = _cut(window.image, labels)
    both, either = int((found & rough).sum()), int((found | rough).sum())
    return window.to_frame(_largest_parts(found if either and both / either > 0.4 else rough))


def check_box(box: Box, height: int, width: int) -> None:
    """Raises UnusableReference, worded for the client, unless the box has an area inside the frame."""
    if box.width <= 0 or box.height <= 0:
        raise UnusableReference(f"the box is empty: width {box.width:g}, height {box.height:g}; both must be positive")
    if box.x < 0 or box.y < 0 or box.x + box.width > width or box.y + box.height > height:
        raise UnusableReference(
            f"the box x {box.x:g}..{box.x + box.width:g}, y {box.y:g}..{box.y + box.height:g} lies outside the frame, "
            f"which is {width} x {height} pixels (width x height)"
        )


def check_points(points: Sequence[Point], height: int, width: int) -> None:
    """Raises UnusableReference, worded for the client, unless all lie in the frame and one is on the object."""
    for point in points:
        if not (0 <= point.x < width and 0 <= point.y < height):
            raise UnusableReference(
                f"the point ({point.x:g}, {point.y:g}) lies outside the frame, "
                f"which is {width} x {height} pixels (width x height)"
            )
    if not any(point.on_object for point in points):
        raise UnusableReference("no point lies on the object; give at least one that does")


@dataclass(frozen=True)
class _Window:
    """The part of a frame that is cut, scaled down. image: [h, w, 3] uint8 RGB."""

    image: Frame
    left: int
    top: int
    width: int
    height: int
    frame_shape: tuple[int, int]

    @classmethod
    def around(cls, frame: Frame, box: Box, config: GrabCutConfig) -> _Window:
        import cv2

        height, width = frame.shape[:2]
        margin_x, margin_y = box.width * config.context + 2, box.height * config.context + 2
        left, top = max(0, int(box.x - margin_x)), max(0, int(box.y - margin_y))
        right = min(width, int(np.ceil(box.x + box.width + margin_x)))
        bottom = min(height, int(np.ceil(box.y + box.height + margin_y)))
        part = frame[top:bottom, left:right]
        scale = min(1.0, config.long_side / max(part.shape[:2]))
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


def _cut(image: Frame, labels: NDArray[np.uint8]) -> Mask:
    """GrabCut from labels (0, 1 surely and 2, 3 probably background and object). The labels stay as they are."""
    import cv2

    background = np.isin(labels, (0, 2))
    if background.all() or not background.any():
        return ~background
    cv2.setRNGSeed(0)  # its colour models start from k-means
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    models = np.zeros((1, 65), np.float64), np.zeros((1, 65), np.float64)
    result, _, _ = cv2.grabCut(bgr, labels.copy(), None, *models, _ROUNDS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    return np.isin(np.asarray(result), (1, 3))


def _point_labels(
    window: _Window, points: Sequence[Point], radius: int, reach: int, colour_distance: float
) -> NDArray[np.uint8]:
    """Clicks are sure; what is connected to those on the object by a like colour is probably the object."""
    import cv2

    lab = np.asarray(cv2.cvtColor(window.image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))
    lab = np.asarray(cv2.GaussianBlur(lab, (0, 0), 1.0))
    labels = np.full(lab.shape[:2], 2, np.uint8)
    for x, y in (window.point(point) for point in points if point.on_object):
        spot = np.zeros(labels.shape, bool)
        _disc(spot, (x, y), radius, True)
        centre = np.median(lab[spot], axis=0)
        near = np.zeros(labels.shape, bool)
        _disc(near, (x, y), reach, True)
        alike = near & (np.linalg.norm(lab - centre, axis=2) < colour_distance)
        labels[_connected_to(alike | spot, [(x, y)])] = 3
    for point in points:
        mark = np.zeros(labels.shape, bool)
        _disc(mark, window.point(point), radius, True)
        labels[mark] = 1 if point.on_object else 0
    return labels


def _round_kernel(radius: float) -> NDArray[np.uint8]:
    import cv2

    side = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _box_of(mask: Mask) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    size = (int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1)
    return Box(float(columns[0]), float(rows[0]), float(size[0]), float(size[1]))


def _disc(mask: Mask, centre: tuple[int, int], radius: int, value: bool) -> None:
    """Set a disc of a mask in place."""
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    mask[(columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= radius**2] = value


def _ellipse(height: int, width: int) -> Mask:
    rows, columns = np.ogrid[:height, :width]
    y, x = (rows + 0.5) / height * 2 - 1, (columns + 0.5) / width * 2 - 1
    return np.asarray(x**2 + y**2 <= 1.0) | (np.abs(x) + np.abs(y) < 0.5)


def _parts(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Connected parts [H, W], 0 outside, and the area of each number."""
    import cv2

    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return np.asarray(parts, np.int32), np.asarray(stats[:, cv2.CC_STAT_AREA], np.int32)


def _largest_parts(mask: Mask, share: float = 0.15) -> Mask:
    """Without specks: only parts of at least `share` of the largest one."""
    if not mask.any():
        return mask
    parts, areas = _parts(mask)
    areas[0] = 0
    return np.asarray(np.isin(parts, np.flatnonzero(areas >= share * areas.max())) & mask)


def _connected_to(mask: Mask, points: Sequence[tuple[int, int]]) -> Mask:
    """The parts of a mask that hold one of the points."""
    parts, _ = _parts(mask)
    wanted = {int(parts[y, x]) for x, y in points} - {0}
    return np.asarray(np.isin(parts, sorted(wanted)))
