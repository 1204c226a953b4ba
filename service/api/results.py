"""Results as files: all masks in a format, or one frame's PNG. Everything is made from what has been published."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from service.api.export_files import ExportKey, etag_of
from service.api.health import has_room
from service.api.mask_pngs import png_of
from service.api.pictures import frames_of
from service.api.ranges import Entity, head_only, in_thread, send
from service.api.services import Services
from service.api.sessions import OwnerDep, ServicesDep, find, refusals
from service.archive import read_archive
from service.errors import Conflict, NotFound, Unavailable
from service.export_formats import SUFFIXES, ExportFormat
from service.exports import (
    ExportInfo,
    Masks,
    binary_png_zip,
    coco_json,
    cvat_xml,
    indexed_png_zip,
    label_studio_json,
    probability_zip,
    youtube_vis_json,
)
from service.exports.videos import matte_mp4, overlay_mp4
from service.media.images import ZIP, frame_names
from service.plan import latest_seq, latest_seqs
from service.schemas import MaskEvent, SessionRecord, SessionState, without_dropped
from service.sessions import progress

router = APIRouter(tags=["results"])
_MEDIA = {
    "zip": "application/zip",
    "jsonl": "application/x-ndjson",
    "json": "application/json",
    "xml": "application/xml",
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
        latest = latest_seqs(self._record.plan, self._record.next_seq, self._record.kept_from_seq)
        held: dict[str, list[bytes]] = {}
        for frame_index in sorted(latest):
            event = MaskEvent.model_validate_json(self._line(latest[frame_index], held))
            yield without_dropped(event, self._record.dropped)

    def one(self, seq: int) -> bytes:
        """The JSON of one mask. Blocks."""
        line = self._line(seq, {})
        if not self._record.dropped:
            return line
        return without_dropped(MaskEvent.model_validate_json(line), self._record.dropped).model_dump_json().encode()

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


@dataclass(frozen=True)
class _Asked:
    """An export as one request asks for it. base_url: how the client reaches this server."""

    format: ExportFormat
    record: SessionRecord
    masks: Masks
    base_url: str

    def make(self, services: Services) -> Iterator[bytes]:
        """The file, piece by piece; to be run in a thread."""
        record, masks = self.record, self.masks
        info, fps = _info(services, record), record.spec.video.fps or _USUAL_FPS
        makers: dict[ExportFormat, Callable[[], Iterator[bytes]]] = {
            "png": lambda: indexed_png_zip(info, masks),
            "png-binary": lambda: binary_png_zip(info, masks),
            "rle": lambda: _rle_lines(masks),
            "coco": lambda: coco_json(info, masks),
            "youtube-vis": lambda: youtube_vis_json(info, masks),
            "label-studio": lambda: label_studio_json(info, masks, self._frame_url, f"maskstream {record.spec.engine}"),
            "cvat": lambda: cvat_xml(info, masks),
            "overlay": lambda: overlay_mp4(frames_of(services, record), masks, fps),
            "matte": lambda: matte_mp4(masks, fps),
            "probability": lambda: probability_zip(info, masks, fps),
        }
        yield from makers[self.format]()

    def _frame_url(self, frame_index: int) -> str:
        return f"{self.base_url.rstrip('/')}/sessions/{self.record.id}/frames/{frame_index}.jpg"


@router.get(
    "/sessions/{session_id}/masks",
    response_class=Response,
    responses={
        **refusals(404, 409, 410),
        200: {"description": "The file", "content": {"*/*": {}}},
        206: {"description": "The bytes asked for with Range", "content": {"*/*": {}}},
        416: {"description": "The range begins behind the end"},
    },
)
async def get_masks(
    request: Request,
    services: ServicesDep,
    owner: OwnerDep,
    session_id: str,
    format: Annotated[ExportFormat, Query()] = "png",
    partial: Annotated[bool, Query()] = False,
) -> Response:
    """All masks as one file. 409 with the progress while the session is unfinished, unless `partial`.

    The file of a completed session is kept for a while: it has an ETag and takes range requests.
    """
    record = await find(services, owner, session_id)
    complete = record.state is SessionState.COMPLETED
    if not complete and not partial:
        raise Conflict(
            f"the session is {record.state.value}: {record.next_seq} masks so far; partial=true gives those",
            progress=progress(record),
            state=record.state.value,
        )
    if format == "probability" and not record.spec.probability:
        raise Conflict("this session kept no probabilities; upload the video again with probability=true")
    reader = MaskReader(services, record)
    await reader.load()
    suffix = SUFFIXES[format]
    headers = {"Content-Disposition": f'attachment; filename="{session_id}-{format}.{suffix}"'}
    asked = _Asked(format, record, reader.masks, str(request.base_url))
    if complete and await has_room(services):
        return await _kept(services, asked, request, headers)
    if request.method == "HEAD":
        return head_only(headers, _MEDIA[suffix])
    return StreamingResponse(in_thread(asked.make(services)), headers=headers, media_type=_MEDIA[suffix])


router.add_api_route("/sessions/{session_id}/masks", get_masks, methods=["HEAD"], include_in_schema=False)


async def _kept(services: Services, asked: _Asked, request: Request, headers: dict[str, str]) -> Response:
    """A file from storage; while it is being made, all of it as it grows, or the end of the making for a range."""
    suffix = SUFFIXES[asked.format]
    key = ExportKey(asked.record.id, asked.format, asked.record.next_seq + asked.record.revision, suffix)
    file = await services.exports.find(key)
    if file is None:
        if request.method == "HEAD":  # nobody knows its length yet, and nobody has asked to make it
            return head_only(headers, _MEDIA[suffix])
        build = services.exports.build(key, lambda: asked.make(services))
        if "range" not in request.headers:
            headers = {**headers, "ETag": etag_of(build.name), "Accept-Ranges": "bytes"}
            return StreamingResponse(build.follow(), headers=headers, media_type=_MEDIA[suffix])
        file = await build.finished()
    entity = Entity(asked.record.id, file, etag_of(file.name), _MEDIA[suffix])
    return send(services.storage, entity, request, headers)


@router.get(
    "/sessions/{session_id}/masks/{frame_index}.png",
    response_class=Response,
    responses={**refusals(404, 410), 200: {"description": "Indexed PNG", "content": {"image/png": {}}}},
)
async def get_mask(services: ServicesDep, owner: OwnerDep, session_id: str, frame_index: int) -> Response:
    """One frame's newest mask as an indexed PNG; 404 while it is not made yet."""
    record = await find(services, owner, session_id)
    seq = latest_seq(record.plan, record.next_seq, frame_index)
    if seq is not None and seq < record.kept_from_seq:
        raise NotFound(
            f"the mask of frame {frame_index} is no longer kept: a live session keeps {record.spec.keep_s:g} s"
        )
    if seq is None:
        raise NotFound(f"frame {frame_index} has no mask (yet); the session is {record.state.value}")
    reader = MaskReader(services, record)
    await reader.load()
    png = await anyio.to_thread.run_sync(lambda: png_of(reader.one(seq)))
    return Response(png, media_type="image/png", headers={"Cache-Control": "private, no-cache", "ETag": f'"{seq}"'})


def _info(services: Services, record: SessionRecord) -> ExportInfo:
    """Facts of the session; reads the names of an image sequence from its zip."""
    video = record.spec.video
    names = {item.object_id: item.name or f"object {item.object_id}" for item in record.objects}
    frames: dict[int, str] = {}
    if video.container == ZIP:
        with services.storage.local(record.id, video.name) as path:
            frames = dict(enumerate(frame_names(path)))
    return ExportInfo(record.id, record.id, video.height, video.width, names, frames)
