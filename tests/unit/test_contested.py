"""Overlapping masks of one frame: who gets the shared pixels."""

from __future__ import annotations

import numpy as np

from engines.prompts.contested import settle
from engines.prompts.window import Mask
from engines.types import Frame

RED, BLUE = (200, 30, 35), (40, 60, 190)


def _scene() -> tuple[Frame, list[Mask]]:
    """Left half red, right half blue; two masks that both run 10 columns over the border."""
    frame: Frame = np.zeros((20, 80, 3), np.uint8)
    frame[:, :40], frame[:, 40:] = RED, BLUE
    masks: list[Mask] = [np.zeros((20, 80), bool) for _ in range(2)]
    masks[0][:, 5:50], masks[1][:, 30:75] = True, True
    return frame, masks


def test_shared_pixels_go_where_their_colour_belongs() -> None:
    frame, masks = _scene()
    for order in ((0, 1), (1, 0)):
        settled = settle(frame, [masks[index] for index in order])
        left, right = (settled[order.index(index)] for index in (0, 1))
        assert left[:, 5:40].all() and left.sum() == 20 * 35
        assert right[:, 40:75].all() and right.sum() == 20 * 35


def test_an_object_inside_another_keeps_all_of_itself() -> None:
    frame, masks = _scene()
    inner = np.zeros((20, 80), bool)
    inner[5:15, 10:20] = True
    for order in ((masks[0], inner), (inner, masks[0])):
        settled = settle(frame, list(order))
        whole, part = settled if order[1] is inner else settled[::-1]
        assert np.array_equal(part, inner) and np.array_equal(whole, masks[0] & ~inner)


def test_masks_apart_stay_as_they_are() -> None:
    frame, masks = _scene()
    apart = [masks[0] & ~masks[1], masks[1] & ~masks[0]]
    assert all(np.array_equal(a, b) for a, b in zip(apart, settle(frame, apart), strict=True))
    assert settle(frame, []) == []
