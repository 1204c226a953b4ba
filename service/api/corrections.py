"""`POST /sessions/{id}/references`: corrections and new objects, while a session runs or after it has completed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

from fastapi import APIRouter, Request

from service.api.added_references import as_planned, parse_added, read_added, require_room, stored_files
from service.api.documents import SessionOut, describe
from service.api.intake import require_disk
from service.api.references import OPTIONS, Intake, parse_whole
from service.api.services import Services
from service.api.sessions import OwnerDep, ServicesDep, find, refusals
from service.api.upload import Form, FormReader
from service.errors import Conflict, InvalidInput, NotFound, TooManyRequests
from service.schemas import Direction, ReferenceRequest, SessionRecord, SessionState
from service.sessions import Limits
from service.settings import Settings

router = APIRouter(tags=["sessions"])

_TRIES = 5
_CORRECTION_FIELDS = frozenset({"frame_index", "direction"})
_FORM = {
    "type": "object",
    "properties": {
        "mask": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "references": {"type": "string", "description": "JSON list as for POST /sessions"},
        "text": {"type": "array", "items": {"type": "string"}},
        "box": {"type": "array", "items": {"type": "string"}},
        "point": {"type": "array", "items": {"type": "string"}},
        "exemplar": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "exemplar_mask": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "frame_index": {"type": "integer", "description": "Frame of the short-form fields; default 0"},
        "direction": {"type": "string", "enum": list(get_args(Direction)), "default": "forward"},
    },
}
_BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}}


@router.post(
    "/sessions/{session_id}/references",
    status_code=202,
    openapi_extra=_BODY,
    responses=refusals(404, 409, 410, 415, 507),
)
async def add_references(request: Request, services: ServicesDep, owner: OwnerDep, session_id: str) -> SessionOut:
    """Correct objects or add new ones at a frame; the frames up to the next reference are made again."""
    record = await find(services, owner, session_id)
    if record.spec.live:
        raise Conflict("references of a live session come with its frames: send them in a `frame` message on /live")
    _require_open(record.state)
    await require_disk(services)
    reader = FormReader(request.headers.get("content-type", ""), services.settings, None)
    form = await reader.read(request.stream())
    read = await read_added(services, record, _understand(services, form, record))

    def as_request(planned: SessionRecord) -> ReferenceRequest:
        require_room(services, planned, read)
        known = {item.object_id for item in planned.objects}
        new = tuple(item for item in read.objects if item.object_id not in known)
        return ReferenceRequest(references=read.references, objects=new, warnings=read.warnings)

    async with stored_files(services, record.id, read):
        await _send(services, record, as_request)
    return describe(await find(services, owner, session_id), notes=read.notes)


def _understand(services: Services, form: Form, record: SessionRecord) -> Intake:
    """The form without its own two fields, as the upload's parser reads it. Raises InvalidInput."""
    _refuse_options(form)
    frame_index = _frame_index(form.one("frame_index"))
    rest = Form([part for part in form.parts if part.name not in _CORRECTION_FIELDS])
    intake = parse_added(services, record, rest, frame_index)
    if intake.auto is not None:
        raise InvalidInput("no reference was sent: add a mask, box, point, text, exemplar or `references`")
    _check_frames(record, [entry.frame_index for entry in intake.entries] + ([frame_index] if intake.masks else []))
    return replace(intake, unsaid=_direction(form.one("direction")))


def _refuse_options(form: Form) -> None:
    """What the upload settled is not settled again, and must not seem to be. Raises InvalidInput."""
    for part in form.parts:
        if part.name in OPTIONS:
            raise InvalidInput(
                f"{part.name} is settled when the video is uploaded; a correction takes references, `frame_index` and "
                "`direction`",
                field=part.name,
            )


def _direction(text: str | None) -> Direction:
    """Which way references are followed that do not say so themselves. Raises InvalidInput."""
    names: dict[str, Direction] = {"forward": "forward", "backward": "backward", "both": "both"}
    if text is not None and text not in names:
        raise InvalidInput(f"direction is forward, backward or both, not {text[:40]!r}", field="direction")
    return names[text or "forward"]


def _frame_index(text: str | None) -> int:
    return 0 if text is None else parse_whole("frame_index", text, 0, 10**9)


def _check_frames(record: SessionRecord, frames: list[int]) -> None:
    end, start = record.spec.end_frame or record.spec.video.frames, record.spec.start_frame
    for frame_index in frames:
        if frame_index < start or (end is not None and frame_index >= end):
            last = "" if end is None else f" to {end - 1}"
            raise InvalidInput(
                f"frame {frame_index} is outside the frames that are segmented: {start}{last}", field="frame_index"
            )


async def _send(
    services: Services, record: SessionRecord, as_request: Callable[[SessionRecord], ReferenceRequest]
) -> None:
    """Hand a request to the worker; a completed session is queued again.

    as_request: the request, from the session as it will be when those that wait are taken in; asked again when another
    comes in meanwhile. Raises Conflict, NotFound, TooManyRequests, and what as_request() raises.
    """
    settings = services.settings
    limits = Limits(settings.max_queue_length, settings.max_sessions_per_key)
    for _ in range(_TRIES):
        waiting = await services.store.waiting_requests(record)
        request = as_request(as_planned(record, waiting))
        after = record.requests_taken + len(waiting)
        answer = await services.store.add_request(record.id, request, after=after, limits=limits)
        if answer != "changed":
            _require_taken(record, answer, settings)
            return
        record = await services.store.get(record.id) or record
    raise Conflict("others correct this session at this very moment; send it again")


def _require_taken(record: SessionRecord, answer: str, settings: Settings) -> None:
    if answer in ("queue_full", "too_many"):
        why = "too many sessions wait" if answer == "queue_full" else "too many of your sessions are unfinished"
        raise TooManyRequests(f"{why}; try again later", retry_after_s=settings.retry_after_s)
    if answer == "missing":
        raise NotFound(f"session {record.id} was deleted")
    if answer != "ok":
        _require_open(SessionState(answer))


def _require_open(state: SessionState) -> None:
    if state in (SessionState.FAILED, SessionState.CANCELLED):
        raise Conflict(f"the session is {state.value}; references can be added while it runs or after it has completed")


@router.delete("/sessions/{session_id}/objects/{object_id}", status_code=202, responses=refusals(404, 409, 410))
async def drop_object(services: ServicesDep, owner: OwnerDep, session_id: str, object_id: int) -> SessionOut:
    """Stop following an object; it leaves every file too. Masks that were sent stay as they were."""
    record = await find(services, owner, session_id)

    def as_request(planned: SessionRecord) -> ReferenceRequest:
        known = sorted(item.object_id for item in planned.objects)
        if object_id not in known:
            raise NotFound(f"the session has no object {object_id}; it has {known}")
        if len(known) == 1:
            raise Conflict("it is the session's only object; cancel or delete the session in place of it")
        return ReferenceRequest(drop_object_ids=(object_id,))

    await _send(services, record, as_request)
    return describe(await find(services, owner, session_id))
