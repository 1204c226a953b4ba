"""Overlays tint objects and leave the rest alone."""

from __future__ import annotations

import numpy as np

from service.overlay import draw_overlay


def test_background_is_untouched_and_objects_differ() -> None:
    frame = np.full((40, 60, 3), 100, np.uint8)
    label_map = np.zeros((40, 60), np.uint8)
    label_map[5:20, 5:25] = 1
    label_map[22:38, 30:55] = 2
    drawn = draw_overlay(frame, label_map)
    assert np.array_equal(drawn[label_map == 0], frame[label_map == 0])
    first, second = drawn[12, 12], drawn[30, 40]
    assert first[0] > first[1] + 40, "object 1 is red"
    assert second[1] > second[0] + 40, "object 2 is green"
    assert not np.array_equal(drawn[5, 12], first), "the outline stands out"
    assert np.array_equal(frame, np.full((40, 60, 3), 100)), "the given frame stays as it was"
