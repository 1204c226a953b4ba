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
from engines.prompts.contrast import unlike_surroundings
from engines.prompts.window import Box, Mask, Point, Window, box_of
from engines.types import Frame

_ROUNDS = 5


@dataclass(frozen=True)
class GrabCutConfig:
    """long_side: pixels at which the cut is made. context: margin around a box, as a share of it, for background.

    point_radius: of the disc that surely belongs to a click, as a share of the shorter side. reach: how far from a
    click an object is looked for, the same way. colour_distance: CIE Lab distance up to which a pixel is like a click.
    region_core, region_reach: shares of a rough region's size (the root of its area): how far inside its rim it is
    surely right, and how far outside it may still grow. ring: how far its surroundings reach, the same way. least_own:
    share of a region that must not look like its surroundings before they are told apart by colour. named_reach: how
    far from pixels of the colour asked for a part of another colour may lie, as a share of their size.
    least_kept: IoU with the region under which a cut strays; less where a named colour guides it.
    """

    long_side: int = 480
    context: float = 0.4
    point_radius: float = 0.012
    reach: float = 0.35
    colour_distance: float = 18.0
    region_core: float = 0.12
    region_reach: float = 0.12
    ring: float = 0.5
    least_own: float = 0.3
    named_reach: float = 0.3
    least_kept: float = 0.4
    least_kept_named: float = 0.2


COARSE = GrabCutConfig(long_side=320, context=0.8, region_core=0.3, region_reach=0.5)
"""For regions that a small network has drawn: their rims are nearly anywhere."""


def mask_from_box(frame: Frame, box: Box, config: GrabCutConfig | None = None) -> Mask:
    """[H, W] bool: the object that fills the box. Where no cut is found, the ellipse inside the box.

    Raises UnusableReference for an empty box or one that is not inside the frame.
    """
    check_box(box, frame.shape[0], frame.shape[1])
    config = config or GrabCutConfig()
    window = Window.around(frame, box, config.context, config.long_side)
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
    window = Window.around(frame, Box(0, 0, width, height), config.context, config.long_side)
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
    window = Window.around(frame, box_of(region), config.context, config.long_side)
    rough = window.of_frame(region)
    size = float(np.sqrt(rough.sum()))
    core = np.asarray(cv2.erode(rough.astype(np.uint8), _round_kernel(config.region_core * size)), bool)
    around = np.asarray(cv2.dilate(rough.astype(np.uint8), _round_kernel(config.region_reach * size)), bool)
    labels = np.where(core, 1, np.where(rough, 3, np.where(around, 2, 0))).astype(np.uint8)
    found = _cut(window.image, labels)
    both, either = int((found & rough).sum()), int((found | rough).sum())
    return window.to_frame(_largest_parts(found if either and both / either > 0.4 else rough))


def sharpen(frame: Frame, region: Mask, named: Mask | None = None, config: GrabCutConfig | None = None) -> Mask:
    """[H, W] bool: a good region [H, W] without what it took along of its surroundings: shadow, water, road.

    Only pixels whose colours its surroundings lack start as the object; where a colour was asked for, those that are
    `named` ([H, W], of that colour) and what lies near them. The region itself where they are too few, or where the
    cut strays from it.
    """
    import cv2

    config = config or GrabCutConfig()
    window = Window.around(frame, box_of(region), config.context, config.long_side)
    rough = window.of_frame(region)
    size = float(np.sqrt(rough.sum()))
    around = np.asarray(cv2.dilate(rough.astype(np.uint8), _round_kernel(config.region_reach * size)), bool)
    ring = np.asarray(cv2.dilate(rough.astype(np.uint8), _round_kernel(config.ring * size)), bool) & ~around
    own = rough & unlike_surroundings(window.image, rough, ring)
    sure = own if named is None else rough & window.of_frame(named)
    own &= _near(sure, config.named_reach)
    if not ring.any() or (own | sure).sum() < config.least_own * rough.sum():
        return region
    core = np.asarray(cv2.erode(rough.astype(np.uint8), _round_kernel(config.region_core * size)), bool)
    labels = np.where(core & sure, 1, np.where(own | sure, 3, np.where(around, 2, 0))).astype(np.uint8)
    found = _cut(window.image, labels)
    both, either = int((found & rough).sum()), int((found | rough).sum())
    least = config.least_kept if named is None else config.least_kept_named
    return window.to_frame(_largest_parts(found)) if either and both / either > least else region


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
    window: Window, points: Sequence[Point], radius: int, reach: int, colour_distance: float
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


def _near(mask: Mask, reach: float) -> Mask:
    """Pixels closer to a mask than `reach` times the root of its area; all where the mask is empty."""
    import cv2

    if not mask.any():
        return np.ones_like(mask)
    away = np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3))
    return np.asarray(away < reach * np.sqrt(mask.sum()))


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
