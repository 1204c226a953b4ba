"""Routes of sessions: make, list, look, cancel, delete."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends, Header, Query, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.api.documents import ProblemOut, SessionList, SessionOut, describe
from service.api.follow import existing
from service.api.intake import accept_upload
from service.api.services import Services, owner_of, services_of
from service.errors import InvalidInput, NotFound
from service.redis_keys import is_session_id
from service.schemas import SessionRecord

router = APIRouter(tags=["sessions"])
ServicesDep = Annotated[Services, Depends(services_of)]
KEY = Security(
    HTTPBearer(
        auto_error=False, scheme_name="key", description="Of `maskstream keys create`, where the server has keys"
    )
)
"""Documentation alone: the access middleware has let the request in by now."""


def _caller(request: Request, key: Annotated[HTTPAuthorizationCredentials | None, KEY]) -> str:
    return owner_of(request)


OwnerDep = Annotated[str, Depends(_caller)]
_GOOD_KEY = re.compile(r"[\x21-\x7e]{1,128}")

_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_TEXTS = {"type": "array", "items": {"type": "string"}}
_UPLOAD_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["video"],
    "properties": {
        "video": {"type": "string", "format": "binary", "description": "A video file, or a zip of numbered images"},
        "mask": {**_FILES, "description": "PNG of object ids at start_frame, or one binary PNG per object"},
        "text": {**_TEXTS, "description": "One object each, in words"},
        "box": {**_TEXTS, "description": "One object each: x,y,width,height at start_frame"},
        "point": {**_TEXTS, "description": "One object each: x,y at start_frame"},
        "exemplar": {**_FILES, "description": "One object each, a picture of it; with as many exemplar_mask"},
        "exemplar_mask": {**_FILES, "description": "PNG of the exemplar's size that marks the object in it"},
        "references": {
            "type": "string",
            "description": "JSON list of {object_id, frame_index, kind, …}: any frame, mixed kinds",
        },
        "engine": {"type": "string"},
        "memory": {"type": "string", "description": "every_k, window, adaptive, or a JSON object"},
        "max_side": {"type": "integer"},
        "start_frame": {"type": "integer"},
        "end_frame": {"type": "integer", "description": "Exclusive"},
        "probability": {"type": "boolean", "description": "Keep each object's probability, for soft mattes"},
        "max_objects": {"type": "integer", "description": "Most objects to find when no reference is sent"},
    },
}
UPLOAD_BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _UPLOAD_FORM}}}}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for problem documents."""
    always = (400, 401, 403, 408, 413, 422, 429, 500, 503)
    schema = {"application/problem+json": {"schema": ProblemOut.model_json_schema()}}
    return {status: {"description": "Problem", "content": schema} for status in sorted({*always, *statuses})}


async def find(services: Services, owner: str, session_id: str) -> SessionRecord:
    """The caller's session. Raises NotFound, Expired."""
    if not is_session_id(session_id):
        raise NotFound("that is not a session id; GET /sessions lists yours")
    return await existing(services.store, session_id, owner)


@router.post("/sessions", status_code=202, openapi_extra=UPLOAD_BODY, responses=refusals(409, 415, 507))
async def create_session(
    request: Request,
    response: Response,
    services: ServicesDep,
    owner: OwnerDep,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> SessionOut:
    """Upload a video with its references; the masks come over the stream that the answer links to."""
    if idempotency_key is not None and not _GOOD_KEY.fullmatch(idempotency_key):
        raise InvalidInput("Idempotency-Key must be 1 to 128 printable ASCII characters without spaces")
    with services.uploads.hold(owner):
        content_type = request.headers.get("content-type", "")
        accepted = await accept_upload(services, owner, content_type, request.stream(), idempotency_key)
    response.headers["Location"] = f"/sessions/{accepted.record.id}"
    if accepted.known:
        response.headers["Idempotency-Replayed"] = "true"
    return describe(accepted.record, notes=accepted.notes, warnings=accepted.warnings)


@router.get("/sessions", responses=refusals())
async def list_sessions(
    services: ServicesDep,
    owner: OwnerDep,
    cursor: Annotated[str | None, Query(max_length=26)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> SessionList:
    """Your sessions, newest first."""
    if cursor is not None and not is_session_id(cursor):
        raise InvalidInput("cursor must be the `next` of an earlier page")
    page = await services.store.page(owner, cursor=cursor, limit=limit)
    described = await anyio.to_thread.run_sync(lambda: tuple(describe(record) for record in page.sessions))
    return SessionList(sessions=described, next=page.cursor)


@router.get("/sessions/{session_id}", responses=refusals(404, 410))
async def get_session(services: ServicesDep, owner: OwnerDep, session_id: str) -> SessionOut:
    """State, progress and facts of one session."""
    return describe(await find(services, owner, session_id))


@router.post("/sessions/{session_id}/cancel", responses=refusals(404, 410))
async def cancel_session(services: ServicesDep, owner: OwnerDep, session_id: str) -> SessionOut:
    """Stop at the next step and keep the masks made so far; nothing changes for a session that has ended."""
    await find(services, owner, session_id)
    await services.store.cancel(session_id, expires_at=time.time() + services.settings.session_ttl_s)
    return describe(await find(services, owner, session_id))


@router.delete("/sessions/{session_id}", status_code=204, responses=refusals(404, 410))
async def delete_session(services: ServicesDep, owner: OwnerDep, session_id: str) -> None:
    """Forget the session and delete its files. A worker that still steps it drops it at its next step."""
    await find(services, owner, session_id)
    await services.store.delete(session_id)
    await anyio.to_thread.run_sync(services.storage.delete, session_id)
    await services.store.files_deleted(session_id)
