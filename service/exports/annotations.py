"""COCO and YouTube-VIS annotation files, streamed as JSON text. The masks pass by; only small facts are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools import mask as coco

from service.exports.types import ExportInfo, Masks
from service.schemas import MaskObject


def coco_json(info: ExportInfo, masks: Masks) -> Iterator[bytes]:
    """Chunks of a COCO instance file: an image per frame, an annotation per visible object.

    Image ids are frame index + 1 (COCO ids start at 1), category ids are the object ids.
    """
    yield f'{{"info":{_dump(_about(info))},"categories":{_dump(_categories(info))},"annotations":['.encode()
    frames: list[int] = []
    count = 0
    for event in masks():
        frames.append(event.frame_index)
        for item in event.objects:
            if _area(item) == 0:
                continue
            count += 1
            yield (("," if count > 1 else "") + _dump(_annotation(count, event.frame_index, item))).encode()
    images = [
        {"id": index + 1, "file_name": info.image_name(index), "height": info.height, "width": info.width}
        for index in frames
    ]
    yield f'],"images":{_dump(images)}}}'.encode()


def youtube_vis_json(info: ExportInfo, masks: Masks) -> Iterator[bytes]:
    """Chunks of a YouTube-VIS file: one video, one annotation per object, null where it is not visible.

    Reads the masks once per object, so that none has to be kept.
    """
    frames = [event.frame_index for event in masks()]
    video = {
        "id": 1,
        "height": info.height,
        "width": info.width,
        "length": len(frames),
        "file_names": [f"{info.video_name}/{info.image_name(index)}" for index in frames],
    }
    head = {"info": _about(info), "videos": [video], "categories": _categories(info)}
    yield (_dump(head)[:-1] + ',"annotations":[').encode()
    for number, object_id in enumerate(sorted(info.objects), start=1):
        if number > 1:
            yield b","
        yield from _track(info, masks, number, object_id, len(frames))
    yield b"]}"


def _track(info: ExportInfo, masks: Masks, number: int, object_id: int, length: int) -> Iterator[bytes]:
    bboxes: list[list[int] | None] = []
    areas: list[int | None] = []
    facts: dict[str, Any] = {"id": number, "video_id": 1, "category_id": object_id, "iscrowd": 0, "length": length}
    facts |= {"height": info.height, "width": info.width}
    yield (_dump(facts)[:-1] + ',"segmentations":[').encode()
    for position, event in enumerate(masks()):
        item = next((item for item in event.objects if item.object_id == object_id), None)
        area = 0 if item is None else _area(item)
        visible = item if area else None
        bboxes.append(list(visible.bbox) if visible else None)
        areas.append(area if visible else None)
        text = _dump(visible.rle.model_dump()) if visible else "null"
        yield (("," if position else "") + text).encode()
    yield f'],"bboxes":{_dump(bboxes)},"areas":{_dump(areas)}}}'.encode()


def _annotation(number: int, frame_index: int, item: MaskObject) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": frame_index + 1,
        "category_id": item.object_id,
        "segmentation": item.rle.model_dump(),
        "bbox": list(item.bbox),
        "area": _area(item),
        "iscrowd": 0,
        "score": item.score,
    }


def _area(item: MaskObject) -> int:
    counts = item.rle.counts.encode("ascii")
    return int(np.asarray(coco.area({"size": list(item.rle.size), "counts": counts})))


def _about(info: ExportInfo) -> dict[str, str]:
    return {"description": f"maskstream session {info.session_id}", "version": "1.0"}


def _categories(info: ExportInfo) -> list[dict[str, Any]]:
    return [{"id": object_id, "name": name} for object_id, name in sorted(info.objects.items())]


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
