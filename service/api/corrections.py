"""`POST /sessions/{id}/references`: corrections and new objects, while a session runs or after it has completed."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from fastapi import APIRouter, Request

from service.api.added_references import parse_added, read_added, store_files
from service.api.documents import SessionOut, describe
from service.api.references import Intake
from service.api.services import Services
from service.api.sessions import OwnerDep, ServicesDep, find, refusals
from service.api.upload import Form, FormReader
from service.errors import Conflict, InvalidInput, NotFound, TooManyRequests
from service.schemas import Direction, ReferenceRequest, SessionRecord

router = APIRouter(tags=["sessions"])

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
    "/sessions/{session_id}/references", status_code=202, openapi_extra=_BODY, responses=refusals(404, 409, 410)
)
async def add_references(request: Request, services: ServicesDep, owner: OwnerDep, session_id: str) -> SessionOut:
    """Correct objects or add new ones at a frame; the frames up to the next reference are made again."""
    record = await find(services, owner, session_id)
    if record.spec.live:
        raise Conflict("references of a live session come with its frames: send them in a `frame` message on /live")
    reader = FormReader(request.headers.get("content-type", ""), services.settings, None)
    form = await reader.read(request.stream())
    read = await read_added(services, record, _understand(services, form, record))
    await store_files(services, record.id, read)
    known = {item.object_id for item in record.objects}
    new = tuple(item for item in read.objects if item.object_id not in known)
    added = ReferenceRequest(references=read.references, objects=new, warnings=read.warnings)
    await _send(services, record, added)
    return describe(await find(services, owner, session_id), notes=read.notes)


def _understand(services: Services, form: Form, record: SessionRecord) -> Intake:
    """The form without its own two fields, as the upload's parser reads it. Raises InvalidInput."""
    frame_index = _frame_index(form.one("frame_index"))
    rest = Form([part for part in form.parts if part.name not in _CORRECTION_FIELDS])
    intake = parse_added(services, record, rest, frame_index)
    if intake.auto is not None:
        raise InvalidInput("no reference was sent: add a mask, box, point, text, exemplar or `references`")
    _check_frames(record, [entry.frame_index for entry in intake.entries] + ([frame_index] if intake.masks else []))
    return replace(intake, unsaid=_direction(form.one("direction")))


def _direction(text: str | None) -> Direction:
    """Which way references are followed that do not say so themselves. Raises InvalidInput."""
    names: dict[str, Direction] = {"forward": "forward", "backward": "backward", "both": "both"}
    if text is not None and text not in names:
        raise InvalidInput(f"direction is forward, backward or both, not {text[:40]!r}", field="direction")
    return names[text or "forward"]


def _frame_index(text: str | None) -> int:
    if text is None:
        return 0
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise InvalidInput(f"frame_index must be a whole number from 0, not {text[:40]!r}", field="frame_index")
    return int(text)


def _check_frames(record: SessionRecord, frames: list[int]) -> None:
    end = record.spec.end_frame or record.spec.video.frames
    for frame_index in frames:
        if frame_index < record.spec.start_frame or (end is not None and frame_index >= end):
            raise InvalidInput(f"frame {frame_index} is outside the frames that are segmented", field="frame_index")


async def _send(services: Services, record: SessionRecord, request: ReferenceRequest) -> None:
    """Hand the request to the worker; a completed session is queued again. Raises Conflict, NotFound."""
    waiting = await services.store.queue_length(record.spec.engine)
    if waiting >= services.settings.max_queue_length:
        raise TooManyRequests("too many sessions wait already", retry_after_s=services.settings.retry_after_s)
    answer = await services.store.add_request(record.id, request)
    if answer == "missing":
        raise NotFound(f"session {record.id} was deleted")
    if answer != "ok":
        raise Conflict(f"the session is {answer}; references can be added while it runs or after it has completed")


@router.delete("/sessions/{session_id}/objects/{object_id}", status_code=202, responses=refusals(404, 409, 410))
async def drop_object(services: ServicesDep, owner: OwnerDep, session_id: str, object_id: int) -> SessionOut:
    """Stop following an object; it leaves every file too. Masks that were sent stay as they were."""
    record = await find(services, owner, session_id)
    known = {item.object_id for item in record.objects}
    if object_id not in known:
        raise NotFound(f"the session has no object {object_id}; it has {sorted(known)}")
    if len(known) == 1:
        raise Conflict("it is the session's only object; cancel or delete the session in place of it")
    await _send(services, record, ReferenceRequest(drop_object_ids=(object_id,)))
    return describe(await find(services, owner, session_id))
