"""Results as files: all masks in a format, or one frame's PNG. Everything is made from what has been published."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from service.api.mask_pngs import png_of
from service.api.pictures import frames_of
from service.api.ranges import in_thread
from service.api.services import Services
from service.api.sessions import OwnerDep, ServicesDep, find, refusals
from service.archive import read_archive
from service.errors import Conflict, NotFound, Unavailable
from service.exports import ExportInfo, Masks, binary_png_zip, coco_json, indexed_png_zip, youtube_vis_json
from service.exports.videos import matte_mp4, overlay_mp4
from service.plan import latest_seqs
from service.schemas import MaskEvent, SessionRecord, SessionState
from service.sessions import progress

router = APIRouter(tags=["results"])
ExportFormat = Literal["png", "png-binary", "rle", "coco", "youtube-vis", "overlay", "matte"]
_SUFFIX = {
    "png": "zip",
    "png-binary": "zip",
    "rle": "jsonl",
    "coco": "json",
    "youtube-vis": "json",
    "overlay": "mp4",
    "matte": "mp4",
}
_MEDIA = {
    "zip": "application/zip",
    "jsonl": "application/x-ndjson",
    "json": "application/json",
    "mp4": "video/mp4",
}
_USUAL_FPS = 25.0
"""Of image sequences, which do not say."""
_READ_AHEAD = 256


class MaskReader:
    """Published masks of one session by seq: from archive files, each read once in a row, else from Redis."""

    def __init__(self, services: Services, record: SessionRecord) -> None:
        self._services = services
        self._record = record

    async def load(self) -> list[str]:
        """Names of what is needed is decided now, so that a later step changes nothing under a download."""
        self._archives = await self._services.store.archives(self._record.id)
        self._tail: dict[int, bytes] = {}
        first = max((archive.last + 1 for archive in self._archives), default=0)
        if first < self._record.next_seq:
            await self._load_tail(first)
        return [archive.name for archive in self._archives]

    async def _load_tail(self, first: int) -> None:
        """Masks that are published but not archived yet."""
        position = f"{first}-0" if first else "0-0"
        while True:
            found = await self._services.masks.read({self._record.id: position}, block_ms=None, count=_READ_AHEAD)
            entries = found.get(self._record.id, [])
            self._tail.update({entry.seq: entry.payload for entry in entries if entry.seq is not None})
            if len(entries) < _READ_AHEAD:
                return
            position = entries[-1].stream_id

    def masks(self) -> Iterator[MaskEvent]:
        """The mask that counts of every frame, in frame order. Blocks; call it in a thread."""
        latest = latest_seqs(self._record.plan, self._record.next_seq)
        held: dict[str, list[bytes]] = {}
        for frame_index in sorted(latest):
            yield MaskEvent.model_validate_json(self._line(latest[frame_index], held))

    def one(self, seq: int) -> bytes:
        """The JSON of one mask. Blocks."""
        return self._line(seq, {})

    def _line(self, seq: int, held: dict[str, list[bytes]]) -> bytes:
        if seq in self._tail:
            return self._tail[seq]
        for archive in self._archives:
            if archive.first <= seq <= archive.last:
                if archive.name not in held:
                    held.clear()  # one archive file at a time
                    held[archive.name] = read_archive(self._services.storage, self._record.id, archive)
                return held[archive.name][seq - archive.first]
        raise Unavailable(f"mask {seq} is being moved to the archive; try again", retry_after_s=1)


def _rle_lines(masks: Masks) -> Iterator[bytes]:
    for event in masks():
        yield event.model_dump_json().encode() + b"\n"


def _export(format: ExportFormat, services: Services, record: SessionRecord, masks: Masks) -> Iterator[bytes]:
    makers: dict[str, Callable[[ExportInfo, Masks], Iterator[bytes]]] = {
        "png": indexed_png_zip,
        "png-binary": binary_png_zip,
        "coco": coco_json,
        "youtube-vis": youtube_vis_json,
    }
    fps = record.spec.video.fps or _USUAL_FPS
    if format == "rle":
        return _rle_lines(masks)
    if format == "overlay":
        return overlay_mp4(frames_of(services, record), masks, fps)
    if format == "matte":
        return matte_mp4(masks, fps)
    return makers[format](_info(record), masks)


@router.get(
    "/sessions/{session_id}/masks",
    response_class=Response,
    responses={**refusals(404, 409, 410), 200: {"description": "The file", "content": {"*/*": {}}}},
)
async def get_masks(
    services: ServicesDep,
    owner: OwnerDep,
    session_id: str,
    format: Annotated[ExportFormat, Query()] = "png",
    partial: Annotated[bool, Query()] = False,
) -> Response:
    """All masks as one file. 409 with the progress while the session is unfinished, unless `partial`."""
    record = await find(services, owner, session_id)
    if record.state is not SessionState.COMPLETED and not partial:
        raise Conflict(
            f"the session is {record.state.value}: {record.next_seq} masks so far; partial=true gives those",
            progress=progress(record),
            state=record.state.value,
        )
    reader = MaskReader(services, record)
    await reader.load()
    suffix = _SUFFIX[format]
    headers = {"Content-Disposition": f'attachment; filename="{session_id}-{format}.{suffix}"'}
    chunks = _export(format, services, record, reader.masks)
    return StreamingResponse(in_thread(chunks), media_type=_MEDIA[suffix], headers=headers)


@router.get(
    "/sessions/{session_id}/masks/{frame_index}.png",
    response_class=Response,
    responses={**refusals(404, 410), 200: {"description": "Indexed PNG", "content": {"image/png": {}}}},
)
async def get_mask(services: ServicesDep, owner: OwnerDep, session_id: str, frame_index: int) -> Response:
    """One frame's newest mask as an indexed PNG; 404 while it is not made yet."""
    record = await find(services, owner, session_id)
    seq = latest_seqs(record.plan, record.next_seq).get(frame_index)
    if seq is None:
        raise NotFound(f"frame {frame_index} has no mask (yet); the session is {record.state.value}")
    reader = MaskReader(services, record)
    await reader.load()
    png = await anyio.to_thread.run_sync(lambda: png_of(reader.one(seq)))
    return Response(png, media_type="image/png", headers={"Cache-Control": "private, no-cache", "ETag": f'"{seq}"'})


def _info(record: SessionRecord) -> ExportInfo:
    video = record.spec.video
    names = {item.object_id: item.name or f"object {item.object_id}" for item in record.objects}
    return ExportInfo(record.id, record.id, video.height, video.width, names)
