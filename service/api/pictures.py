"""Routes for people's eyes: the uploaded video, single frames of it, thumbnails, and masks drawn into a video."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Annotated

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from service.api.ranges import Entity, send
from service.api.services import Services
from service.api.sessions import OwnerDep, ServicesDep, find, refusals
from service.errors import DecodeFailed, NotFound, UnreadableVideo
from service.media.reader import VideoFrame
from service.schemas import SessionRecord
from service.worker.child_frames import DecodeLimits
from service.worker.frames import FrameSource

router = APIRouter(tags=["pictures"])

THUMBNAIL_SIDE = 192
_JPEG_QUALITY = 85
_DECODERS = anyio.CapacityLimiter(4)
_MEDIA_TYPES = {"mp4": "video/mp4", "mov": "video/mp4", "matroska": "video/x-matroska", "webm": "video/webm"}
# Bytes that a client sent, shown under our own address: nothing in them may run.
_INERT = {"Content-Security-Policy": "default-src 'none'; sandbox", "X-Content-Type-Options": "nosniff"}
_KEPT = {**_INERT, "Cache-Control": "private, max-age=3600"}


@router.get(
    "/sessions/{session_id}/video",
    response_class=Response,
    responses={
        **refusals(404, 410),
        200: {"description": "The upload", "content": {"video/*": {}}},
        206: {"description": "The bytes asked for with Range", "content": {"video/*": {}}},
        416: {"description": "The range begins behind the end"},
    },
)
async def get_video(request: Request, services: ServicesDep, owner: OwnerDep, session_id: str) -> Response:
    """The video as it was uploaded; takes range requests."""
    record = await find(services, owner, session_id)
    _require_video(record)
    video = record.spec.video
    try:
        file = await anyio.to_thread.run_sync(services.storage.stat, record.id, video.name)
    except FileNotFoundError as error:
        raise NotFound("this session has no video file; its frames are at frames/{frame_index}.jpg") from error
    names = video.container.split(",")
    media_type = next((_MEDIA_TYPES[name] for name in names if name in _MEDIA_TYPES), "application/octet-stream")
    entity = Entity(record.id, file, f'"{record.id}-{file.size_bytes}"', media_type)  # an upload never changes
    return send(services.storage, entity, request, _INERT)


router.add_api_route("/sessions/{session_id}/video", get_video, methods=["HEAD"], include_in_schema=False)


@router.get(
    "/sessions/{session_id}/frames/{frame_index}.jpg",
    response_class=Response,
    responses={**refusals(404, 410), 200: {"description": "JPEG", "content": {"image/jpeg": {}}}},
)
async def get_frame(
    services: ServicesDep,
    owner: OwnerDep,
    session_id: str,
    frame_index: int,
    max_side: Annotated[int | None, Query(ge=16, le=4096)] = None,
) -> Response:
    """One frame as displayed, for browsers that cannot decode the video."""
    return await _picture(services, await find(services, owner, session_id), frame_index, max_side)


@router.get(
    "/sessions/{session_id}/thumbnail.jpg",
    response_class=Response,
    responses={**refusals(404, 410), 200: {"description": "JPEG", "content": {"image/jpeg": {}}}},
)
async def get_thumbnail(services: ServicesDep, owner: OwnerDep, session_id: str) -> Response:
    """The first segmented frame, small."""
    record = await find(services, owner, session_id)
    return await _picture(services, record, record.spec.start_frame, THUMBNAIL_SIDE)


async def _picture(services: Services, record: SessionRecord, frame_index: int, max_side: int | None) -> Response:
    _require_video(record)
    frames = record.spec.video.frames
    if frame_index < 0 or (frames is not None and frame_index >= frames):
        raise NotFound(f"the video has no frame {frame_index}; it has {frames} frames")
    limits = DecodeLimits.of(services.settings)

    def decode() -> bytes:
        try:
            with (
                services.storage.local(record.id, record.spec.video.name) as path,
                FrameSource(path, limits, start_frame=frame_index, max_side=max_side) as source,
            ):
                frame = source.next_frame()
        except DecodeFailed as error:
            raise UnreadableVideo(f"frame {frame_index} cannot be decoded: {error.detail}") from error
        if frame is None:
            raise NotFound(f"the video ends before frame {frame_index}")
        return _jpeg(frame)

    data = await anyio.to_thread.run_sync(decode, limiter=_DECODERS)
    return Response(data, media_type="image/jpeg", headers=_KEPT)


def _jpeg(frame: VideoFrame) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame.rgb).save(out, "JPEG", quality=_JPEG_QUALITY)
    return out.getvalue()


def frames_of(services: Services, record: SessionRecord) -> Callable[[], Iterator[VideoFrame]]:
    """All frames of a session from its first one on, decoded in a child process. Blocks; call it in a thread.

    Raises NotFound for a live session.
    """
    _require_video(record)
    limits = DecodeLimits.of(services.settings)

    def frames() -> Iterator[VideoFrame]:
        with (
            services.storage.local(record.id, record.spec.video.name) as path,
            FrameSource(path, limits, start_frame=record.spec.start_frame) as source,
        ):
            while (frame := source.next_frame()) is not None:
                yield frame

    return frames


def _require_video(record: SessionRecord) -> None:
    if record.spec.live:
        raise NotFound("a live session keeps no pictures; its masks are at masks and stream")
