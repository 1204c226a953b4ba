"""Zip files of mask PNGs, streamed: one PNG is in memory at a time."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator

import numpy as np

from service.drain import Drain
from service.exports.types import ExportInfo, Masks
from service.masks import LabelMap, compose, encode_png

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""One date for every entry, so that the same masks make the same bytes."""


def indexed_png_zip(info: ExportInfo, masks: Masks) -> Iterator[bytes]:
    """Chunks of a zip in the DAVIS layout: Annotations/<video>/<frame>.png, pixel values are the object ids."""
    folder = f"Annotations/{info.video_name}"
    entries = ((f"{folder}/{info.frame_stem(index)}.png", encode_png(label_map)) for index, label_map in _maps(masks))
    return _zip(entries)


def binary_png_zip(info: ExportInfo, masks: Masks) -> Iterator[bytes]:
    """Chunks of a zip with one folder per object and black-and-white PNGs (0 and 255) in it."""
    return _zip(_binary_entries(info, masks))


def _binary_entries(info: ExportInfo, masks: Masks) -> Iterator[tuple[str, bytes]]:
    for index, label_map in _maps(masks):
        for object_id in sorted(info.objects):
            inside = np.where(label_map == object_id, 255, 0).astype(np.uint8)
            yield f"{object_id:03d}/{info.frame_stem(index)}.png", _grey_png(inside)


def _maps(masks: Masks) -> Iterator[tuple[int, LabelMap]]:
    for event in masks():
        yield event.frame_index, compose([item.model_dump() for item in event.objects], event.size)


def _grey_png(values: LabelMap) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(values).save(out, "PNG", compress_level=3)
    return out.getvalue()


def _zip(entries: Iterator[tuple[str, bytes]]) -> Iterator[bytes]:
    drain = Drain()
    with zipfile.ZipFile(drain, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
            yield drain.take()
    yield drain.take()
