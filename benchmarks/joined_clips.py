"""Annotated clips as one long video: each one forwards and backwards, one after another, over and over.

Every clip's objects have ids of their own. When a clip shows up again, its objects were away for hundreds of frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.training.evaluate import object_ids
from engines.training.evaluation_clips import AnnotatedClip, read_frame
from engines.types import Frame, LabelMap


@dataclass(frozen=True)
class JoinedFrame:
    """One frame, its truth, the ids that its clip can show, and whether the clip is on for the first time."""

    image: Frame
    truth: LabelMap
    object_ids: tuple[int, ...]
    starts: bool
    first_time: bool


def to_and_fro(length: int, count: int) -> list[int]:
    """0 … length - 1 and back to 1, repeated, `count` indices in all."""
    way = [*range(length), *range(length - 2, 0, -1)]
    return [way[i % len(way)] for i in range(count)]


def joined(clips: Sequence[AnnotatedClip], count: int, long_side: int) -> Iterator[JoinedFrame]:
    """`count` frames at the first clip's shape, shrunk to `long_side`. `starts` marks where references are given."""
    shape = clips[0].label_map(0).shape
    scale = long_side / max(shape)
    size = (round(shape[1] * scale), round(shape[0] * scale))
    taken, made, shown = _ids(clips), 0, 0
    while True:
        for clip, ids in zip(clips, taken, strict=True):
            for step, index in enumerate(to_and_fro(len(clip.frame_paths), 2 * len(clip.frame_paths) - 2)):
                if made == count:
                    return
                truth = _renumbered(_fit(clip.label_map(index), size, cv2.INTER_NEAREST), ids)
                image = _fit(read_frame(clip.frame_paths[index]), size, cv2.INTER_AREA)
                yield JoinedFrame(image, truth, tuple(ids.values()), step == 0 and shown == 0, shown == 0)
                made += 1
        shown += 1


def _ids(clips: Sequence[AnnotatedClip]) -> list[dict[int, int]]:
    """Per clip its own ids to ids that no other clip uses."""
    taken, start = [], 1
    for clip in clips:
        own = object_ids(clip.label_map(0))
        taken.append({object_id: start + place for place, object_id in enumerate(own)})
        start += len(own)
    return taken


def _renumbered(labels: LabelMap, ids: dict[int, int]) -> LabelMap:
    table = np.zeros(256, np.uint8)
    for old, new in ids.items():
        table[old] = new
    return table[labels]


def _fit(picture: NDArray[np.uint8], size: tuple[int, int], how: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)
