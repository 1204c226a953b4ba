"""Stored files over HTTP: whole, or the part that a client asks for, so that downloads resume and videos seek.

RFC 9110, sections 13 and 14: one byte range, If-Range, If-None-Match. Several ranges at once are answered with the
whole file, as the standard allows. Knows nothing of what the files are.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

import anyio
import anyio.to_thread
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from service.storage import Storage, StoredFile

_RANGE = re.compile(r"bytes=\s*(\d*)-(\d*)\s*", re.IGNORECASE)

MAKERS = anyio.CapacityLimiter(8)
"""Files that are made while they are sent: a frame may take its decoder long, and uploads want threads too."""
SENDERS = anyio.CapacityLimiter(24)


class RangeUnsatisfiable(Exception):
    """The range begins behind the end of the file."""


@dataclass(frozen=True)
class Entity:
    """A stored file as HTTP sees it. etag: with its quotes; it changes whenever a byte does."""

    session_id: str
    file: StoredFile
    etag: str
    media_type: str


def requested_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and end (exclusive) of a Range header; None for the whole file. Raises RangeUnsatisfiable."""
    match = _RANGE.fullmatch(header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < int(first):
            return None
    if start >= end:
        raise RangeUnsatisfiable
    return start, end


def send(storage: Storage, entity: Entity, request: Request, extra: Mapping[str, str]) -> Response:
    """The answer to a GET or HEAD. extra: headers of the answer."""
    size, asked = entity.file.size_bytes, request.headers
    headers = {**extra, "ETag": entity.etag, "Accept-Ranges": "bytes"}
    if _names(asked.get("if-none-match"), entity.etag):
        return Response(status_code=304, headers=headers)
    try:
        part = requested_range(asked.get("range"), size) if _range_holds(asked, entity.etag) else None
    except RangeUnsatisfiable:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    start, end = part or (0, size)
    headers["Content-Length"] = str(end - start)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    if request.method == "HEAD":
        return Response(status_code=206 if part else 200, headers=headers, media_type=entity.media_type)
    chunks = storage.chunks(entity.session_id, entity.file.name, start, end)
    return StreamingResponse(in_thread(chunks, SENDERS), 206 if part else 200, headers, entity.media_type)


def head_only(headers: Mapping[str, str], media_type: str) -> Response:
    """The answer to a HEAD for a file that is not made yet, and so has no length."""
    response = Response(headers=dict(headers), media_type=media_type)
    del response.headers["content-length"]
    return response


async def in_thread(chunks: Iterator[bytes], limiter: anyio.CapacityLimiter = MAKERS) -> AsyncIterator[bytes]:
    """Chunks of a blocking iterator, one thread hop each; no more threads at once than the limiter lets through."""
    end = object()
    while (chunk := await anyio.to_thread.run_sync(next, chunks, end, limiter=limiter)) is not end:
        yield chunk  # type: ignore[misc]


def _range_holds(asked: Headers, etag: str) -> bool:
    """Whether If-Range, if there, names this very file. A date never does: times of change are too coarse."""
    condition = asked.get("if-range")
    return condition is None or condition.strip() == etag


def _names(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    return header.strip() == "*" or etag in (part.strip().removeprefix("W/") for part in header.split(","))
