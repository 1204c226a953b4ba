"""The rendered demo clip: exact, repeatable, and hard enough to show something."""

from __future__ import annotations

import numpy as np

from service.demo_clip import SCHOOL, render


def test_the_clip_is_the_same_on_every_run() -> None:
    first = [(frame.image.copy(), frame.label_map.copy()) for frame in render(3, 90, 160)]
    second = list(render(3, 90, 160))
    for (image, label_map), again in zip(first, second, strict=True):
        assert np.array_equal(image, again.image)
        assert np.array_equal(label_map, again.label_map)


def test_every_fish_is_in_the_first_frame_and_one_is_hidden_later() -> None:
    areas: dict[int, list[int]] = {fish.object_id: [] for fish in SCHOOL}
    for frame in render():
        for object_id, seen in areas.items():
            seen.append(int((frame.label_map == object_id).sum()))
    assert all(seen[0] > 300 for seen in areas.values())
    assert min(areas[2]) < 0.5 * areas[2][0], "the blue fish should pass behind the orange one"


def test_neighbouring_frames_move_but_not_far() -> None:
    frames = list(render(2))
    moved = (frames[0].label_map != frames[1].label_map).mean()
    assert 0 < moved < 0.02
