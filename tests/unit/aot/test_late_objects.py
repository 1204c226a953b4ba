"""With the shipped weights on the rendered clip: newcomers are kept, and so is who was there; what went comes back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from engines.registry import create
from engines.types import LabelMap, MemoryPolicy, Size
from service.demo_clip import render


def _overlap(ours: LabelMap, truth: LabelMap, object_id: int) -> float:
    a, b = ours == object_id, truth == object_id
    return float((a & b).sum() / (a | b).sum())


def test_a_newcomer_is_not_eaten_by_memory_that_called_it_background() -> None:
    frames = list(render(9, 180, 320))
    engine = create("deaot-t", device="cpu")
    track = engine.open(Size(180, 320), MemoryPolicy(memorize_every=2))
    only_first = np.where(frames[0].label_map == 1, frames[0].label_map, 0).astype(np.uint8)
    engine.memorize(track, frames[0].image, only_first, object_ids=[1])
    overlaps: dict[int, list[float]] = {1: [], 2: []}
    for frame in frames[1:]:
        label_map = engine.propagate([track], [frame.image])[0].label_map
        for object_id in track.object_ids:
            overlaps[object_id].append(_overlap(label_map, frame.label_map, object_id))
        if frame.index == 4:
            engine.memorize(track, frame.image, frame.label_map, object_ids=[2])
    assert np.mean(overlaps[1]) > 0.6
    assert np.mean(overlaps[2]) > 0.5
    assert len(overlaps[2]) == 4


@pytest.mark.parametrize("every", [None, 1])
def test_objects_that_vanish_are_lost_and_found_again(every: int | None) -> None:
    frames = list(render(4, 180, 320))
    hole = cv2.dilate((frames[0].label_map > 0).astype(np.uint8), np.ones((9, 9), np.uint8))
    empty = np.asarray(cv2.inpaint(frames[0].image, hole, 3, cv2.INPAINT_TELEA), np.uint8)
    engine = create("deaot-t", device="cpu")
    track = engine.open(Size(180, 320), MemoryPolicy(memorize_every=every))
    engine.memorize(track, frames[0].image, frames[0].label_map, object_ids=[1, 2])
    shown = [frames[1].image, empty, empty, empty, frames[1].image, frames[2].image, frames[3].image]
    seen = [engine.propagate([track], [image])[0] for image in shown]
    assert all(seen[0].scores[i] > 0.7 for i in (1, 2))
    assert seen[3].scores == {1: 0.0, 2: 0.0}
    assert seen[3].uncertainty == {1: 1.0, 2: 1.0}
    assert not seen[3].label_map.any()
    assert all(_overlap(seen[6].label_map, frames[3].label_map, i) > 0.6 for i in (1, 2))


@pytest.mark.parametrize("size", [Size(8, 5), Size(64, 64), Size(65, 113), Size(131, 64)], ids=str)
def test_odd_tiny_and_portrait_frames_work(size: Size) -> None:
    engine = create("deaot-t", device="cpu")
    random = np.random.default_rng(0)
    frame = random.integers(0, 256, (size.height, size.width, 3), dtype=np.uint8)
    label_map = np.zeros((size.height, size.width), dtype=np.uint8)
    label_map[: size.height // 2, : size.width // 2] = 254
    track = engine.open(size, MemoryPolicy(memorize_every=1))
    engine.memorize(track, frame, label_map, object_ids=[254])
    for _ in range(3):
        prediction = engine.propagate([track], [frame])[0]
    assert prediction.label_map.shape == (size.height, size.width)
    assert set(np.unique(prediction.label_map).tolist()) <= {0, 254}
    assert track.steps == 3
