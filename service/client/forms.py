"""Requests as forms, as pure functions: a video, masks, pictures and plain fields become parts. Opens no connection."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from service.client.arrays import mask_png, png, rgb_frame
from service.client.errors import ClientError

VideoInput = str | Path | bytes | Iterable[NDArray[np.uint8]]
MaskInput = str | Path | bytes | NDArray[np.uint8]
FormPart = tuple[str, tuple[str, IO[bytes] | bytes, str]]
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
PICTURES = ("exemplar", "exemplar_mask")
_PLACES = ("box", "point")


def form_fields(options: Mapping[str, object]) -> dict[str, str | list[str]]:
    """Plain form fields: None is left out, a list of strings is a repeated field, other structures go as JSON.

    box, point: `"x,y,…"` or numbers; one, or a list of them.
    """
    return {name: _field(name, value) for name, value in options.items() if value is not None}


def field_parts(options: Mapping[str, object]) -> list[tuple[str, tuple[None, str]]]:
    """The same fields as parts of a multipart form, for one that has no file."""
    found = form_fields(options).items()
    return [(name, (None, text)) for name, value in found for text in ([value] if isinstance(value, str) else value)]


def _field(name: str, value: object) -> str | list[str]:
    if isinstance(value, str):
        return value
    each = list(value) if isinstance(value, list | tuple) else []
    if name in _PLACES and all(isinstance(item, list | tuple) for item in each):
        return [json.dumps(item, default=float) for item in each]
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in each):
        return [str(item) for item in each]
    return json.dumps(value, default=float)  # numpy's numbers


def form_files(video: VideoInput, masks: MaskInput | Sequence[MaskInput] | None) -> list[FormPart]:
    """The file parts of a new session. The caller closes what is open (see close_parts)."""
    return [("video", _video_part(video)), *mask_files(masks)]


def mask_files(masks: MaskInput | Sequence[MaskInput] | None) -> list[FormPart]:
    """The file parts of masks alone; the caller closes them."""
    if masks is None:
        return []
    each = masks if isinstance(masks, list | tuple) else [masks]
    return [("mask", _mask_part(mask, index)) for index, mask in enumerate(each)]


def picture_files(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[FormPart]]:
    """Options that are fields, and the file parts of those that are pictures; the caller closes them.

    exemplar, exemplar_mask: one picture or several, in pairs. files: by name, what `references` refers to.
    """
    fields = dict(options)
    named: list[tuple[str, Any]] = []
    for name in PICTURES:
        value = fields.pop(name, None)
        several = value if isinstance(value, list | tuple) else [] if value is None else [value]
        named += [(name, each) for each in several]
    named += list((fields.pop("files", None) or {}).items())
    return fields, [(name, _mask_part(value, index)) for index, (name, value) in enumerate(named)]


def close_parts(parts: Iterable[FormPart]) -> None:
    """Close the files that form_files() opened."""
    for _, (_, body, _) in parts:
        if not isinstance(body, bytes):
            body.close()


def _video_part(video: VideoInput) -> tuple[str, IO[bytes] | bytes, str]:
    if isinstance(video, bytes):
        return ("video", video, "application/octet-stream")
    if isinstance(video, str | Path):
        path = Path(video)
        if path.is_dir():
            return (f"{path.name}.zip", _zip_folder(path), "application/zip")
        return (path.name, path.open("rb"), "application/octet-stream")
    return ("frames.zip", _zip_frames(video), "application/zip")


def _zip_folder(folder: Path) -> bytes:
    names = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not names:
        raise ClientError(f"{folder} holds no images; expected numbered files like 00000.jpg")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in names:
            archive.write(path, path.name)
    return buffer.getvalue()


def _zip_frames(frames: Iterable[NDArray[np.uint8]]) -> bytes:
    buffer, count = io.BytesIO(), 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for count, frame in enumerate(frames, 1):
            archive.writestr(f"{count - 1:05d}.png", png(rgb_frame(frame)))
    if not count:
        raise ClientError("no frames were given: the iterable was empty")
    return buffer.getvalue()


def _mask_part(mask: MaskInput, index: int) -> tuple[str, IO[bytes] | bytes, str]:
    if isinstance(mask, bytes):
        return (f"mask{index}.png", mask, "image/png")
    if isinstance(mask, str | Path):
        return (Path(mask).name, Path(mask).open("rb"), "image/png")
    return (f"mask{index}.png", mask_png(mask), "image/png")
