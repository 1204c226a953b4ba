"""Soft mattes: one grey video per object, as bright as the engine was sure. One frame is in memory at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator

import cv2
import numpy as np

from service.drain import Drain
from service.exports.types import ExportInfo, Masks
from service.masks import LabelMap, decode_level, decode_rle
from service.overlay import Frame
from service.schemas import MaskEvent, MaskObject
from service.video_file import stream_video

_EPOCH = (1980, 1, 1, 0, 0, 0)


def probability_zip(info: ExportInfo, masks: Masks, fps: float) -> Iterator[bytes]:
    """Chunks of a zip with <object id>.mp4 for each object. Reads the masks once per object.

    Frames without a probability (the client's own references, say) show the mask, white or black.
    """
    drain = Drain()
    with zipfile.ZipFile(drain, "w", zipfile.ZIP_STORED) as archive:
        for object_id in sorted(info.objects):
            name = zipfile.ZipInfo(f"{object_id:03d}.mp4", _EPOCH)
            with archive.open(name, "w", force_zip64=True) as entry:
                for chunk in stream_video(_frames(masks, object_id), fps):
                    entry.write(chunk)
                    yield drain.take()
    yield drain.take()


def decode_probability(item: MaskObject, size: tuple[int, int]) -> LabelMap:
    """[H, W] uint8 of one object at the video's size: its probability, or its mask where there is none."""
    if item.probability is None:
        return np.where(decode_rle(item.rle.model_dump()), 255, 0).astype(np.uint8)
    small = decode_level(item.probability)
    return np.asarray(cv2.resize(small, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def _frames(masks: Masks, object_id: int) -> Iterator[Frame]:
    for event in masks():
        yield np.repeat(_level(event, object_id)[..., None], 3, 2)


def _level(event: MaskEvent, object_id: int) -> LabelMap:
    item = next((item for item in event.objects if item.object_id == object_id), None)
    return np.zeros(event.size, np.uint8) if item is None else decode_probability(item, event.size)
