"""Import files for labelling tools: Label Studio tasks with brush masks, and CVAT XML. One frame at a time.

Sources: Label Studio's task and brush formats (labelstud.io/guide/predictions, label_studio_sdk.converter.brush);
CVAT's "XML annotation format", version 1.1, images part (docs.cvat.ai/docs/dataset_management/formats/format-cvat).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from service.exports.types import ExportInfo, Masks
from service.masks import bounding_box, decode_rle
from service.schemas import MaskEvent, MaskObject

_CHANNELS = 4
"""Label Studio's brush is an RGBA picture, of which only the last channel is looked at."""
_LENGTH_BITS = (3, 4, 8, 16)
_LONGEST = 2 ** _LENGTH_BITS[-1]
_RECORD_BITS = 1 + 2 + _LENGTH_BITS[-1] + 8


def label_studio_json(info: ExportInfo, masks: Masks, frame_url: Callable[[int], str], model: str) -> Iterator[bytes]:
    """Chunks of a JSON list of tasks, one for each frame, with a brush mask per visible object as a prediction.

    frame_url: address of a frame's picture. model: what the predictions say made them. The labelling set-up of the
    project needs `<Image name="image" value="$image"/>` and `<BrushLabels name="mask" toName="image">`.
    """
    labels = label_names(info)
    yield b"["
    for position, event in enumerate(masks()):
        results = [_brush(item, labels, event.size) for item in event.objects if item.bbox[2]]
        task = {
            "data": {"image": frame_url(event.frame_index), "frame_index": event.frame_index},
            "predictions": [{"model_version": model, "score": _mean_score(event), "result": results}],
        }
        yield (("," if position else "") + json.dumps(task, separators=(",", ":"))).encode()
    yield b"]"


def cvat_xml(info: ExportInfo, masks: Masks) -> Iterator[bytes]:
    """Chunks of `annotations.xml` as "CVAT for images 1.1": a mask per visible object in each frame.

    Frames of a video have the names that CVAT gives them (frame_000000), those of an image sequence their own.
    """
    labels = label_names(info)
    yield b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta><task>'
    yield f"<name>{escape(info.video_name)}</name><mode>annotation</mode><labels>".encode()
    for name in labels.values():
        yield f"<label><name>{escape(name)}</name><type>mask</type><attributes></attributes></label>".encode()
    yield b"</labels></task></meta>\n"
    for event in masks():
        yield _image(info, event, labels).encode()
    yield b"</annotations>\n"


def label_names(info: ExportInfo) -> dict[int, str]:
    """A label for each object, in order of ids; both tools need them to differ."""
    seen = Counter(info.objects.values())
    return {i: name if seen[name] == 1 else f"{name} ({i})" for i, name in sorted(info.objects.items())}


def brush_rle(mask: NDArray[np.bool_]) -> list[int]:
    """Bytes of Label Studio's brush format for one [H, W] mask.

    32 bits count the values; 5 bits the word size less one; four times 4 bits the sizes of a length less one. Then
    records: a bit that says "one value repeated", 2 bits that choose a size, the length less one, the value. All of
    ours repeat, with the longest size: packing them is then one array operation.
    """
    starts = np.flatnonzero(np.diff(mask.ravel(), prepend=~mask.ravel()[:1]))
    values = np.where(mask.ravel()[starts], 255, 0)
    lengths = np.diff(starts, append=mask.size) * _CHANNELS
    pieces = -(-lengths // _LONGEST)
    parts = np.full(int(pieces.sum()), _LONGEST)
    parts[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * _LONGEST
    head = _bits(np.array([mask.size * _CHANNELS]), 32), _bits(np.array([7]), 5)
    sizes = _bits(np.array(_LENGTH_BITS) - 1, 4)
    records = np.empty((len(parts), _RECORD_BITS), np.uint8)
    records[:, :3] = 1
    records[:, 3:-8] = _bits(parts - 1, _LENGTH_BITS[-1])
    records[:, -8:] = _bits(np.repeat(values, pieces), 8)
    bits = np.concatenate([part.ravel() for part in (*head, sizes, records)])
    packed: list[int] = np.packbits(bits).tolist()
    return packed


def box_rle(mask: NDArray[np.bool_]) -> list[int]:
    """CVAT's run lengths of one mask: row by row, unset pixels first."""
    flat = mask.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs: list[int] = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def _bits(values: NDArray[np.int64], count: int) -> NDArray[np.uint8]:
    """[n, count] bits of n numbers, highest first."""
    return ((values[:, None] >> np.arange(count - 1, -1, -1)) & 1).astype(np.uint8)


def _brush(item: MaskObject, labels: Mapping[int, str], size: tuple[int, int]) -> dict[str, Any]:
    return {
        "id": f"object-{item.object_id}",
        "type": "brushlabels",
        "from_name": "mask",
        "to_name": "image",
        "original_width": size[1],
        "original_height": size[0],
        "image_rotation": 0,
        "score": item.score,
        "value": {
            "format": "rle",
            "rle": brush_rle(decode_rle(item.rle.model_dump())),
            "brushlabels": [labels[item.object_id]],
        },
    }


def _mean_score(event: MaskEvent) -> float:
    scores = [item.score for item in event.objects]
    return round(sum(scores) / len(scores), 4) if scores else 0.0


def _image(info: ExportInfo, event: MaskEvent, labels: Mapping[int, str]) -> str:
    index, (height, width) = event.frame_index, event.size
    name = info.frame_names.get(index) or f"frame_{index:06d}"
    lines = [f'<image id="{index}" name={quoteattr(name)} width="{width}" height="{height}">']
    for order, item in enumerate(event.objects):
        mask = decode_rle(item.rle.model_dump())
        left, top, box_width, box_height = bounding_box(mask)
        if not box_width:
            continue
        runs = ", ".join(map(str, box_rle(mask[top : top + box_height, left : left + box_width])))
        lines.append(
            f'<mask label={quoteattr(labels[item.object_id])} source="auto" occluded="0" rle="{runs}" left="{left}" '
            f'top="{top}" width="{box_width}" height="{box_height}" z_order="{order}"></mask>'
        )
    return "\n".join([*lines, "</image>\n"])
