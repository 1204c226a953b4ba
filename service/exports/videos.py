"""Results as videos, streamed: masks drawn over the frames, or a matte that editing tools take as a key."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from service.exports.types import Masks
from service.masks import LabelMap, compose
from service.media.reader import VideoFrame
from service.overlay import Frame, draw_overlay
from service.schemas import MaskEvent
from service.video_file import stream_video

Frames = Callable[[], Iterator[VideoFrame]]
"""Gives the session's frames in display order, from the first one that has a mask."""


def overlay_mp4(frames: Frames, masks: Masks, fps: float) -> Iterator[bytes]:
    """Chunks of an MP4 with every mask over its frame. Frames without a mask are left out."""
    return stream_video(_overlays(frames, masks), fps)


def matte_mp4(masks: Masks, fps: float) -> Iterator[bytes]:
    """Chunks of an MP4 that is white where any object is and black elsewhere."""
    mattes = (np.repeat(np.where(_label_map(event) > 0, 255, 0).astype(np.uint8)[..., None], 3, 2) for event in masks())
    return stream_video(mattes, fps)


def _overlays(frames: Frames, masks: Masks) -> Iterator[Frame]:
    events = masks()
    event = next(events, None)
    for frame in frames():
        while event is not None and event.frame_index < frame.frame_index:
            event = next(events, None)
        if event is None:
            return
        if event.frame_index == frame.frame_index:
            yield draw_overlay(frame.rgb, _label_map(event))


def _label_map(event: MaskEvent) -> LabelMap:
    return compose([item.model_dump() for item in event.objects], event.size)
