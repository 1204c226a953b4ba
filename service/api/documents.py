"""What the API answers, as OpenAPI shows it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from service.schemas import MemoryOptions, ObjectInfo, Problem, SessionRecord
from service.sessions import progress


class Progress(BaseModel):
    """How far a session is. frames_total is None while the length is unknown."""

    frames_done: int
    frames_total: int | None
    share: float | None
    masks_per_s: float | None
    eta_s: float | None


class Timings(BaseModel):
    """Seconds since 1970, and spans in seconds; None for what has not happened."""

    created_at: float
    queued_at: float | None
    started_at: float | None
    first_mask_at: float | None
    last_mask_at: float | None
    finished_at: float | None
    queue_s: float | None = Field(description="From acceptance to the first step")
    first_mask_s: float | None = Field(description="From acceptance to the first mask")


class ReferenceOut(BaseModel):
    """A reference as it was taken."""

    kind: str
    frame_index: int
    object_ids: tuple[int, ...]
    direction: str


class VideoOut(BaseModel):
    """The upload as it was found to be: displayed size, square pixels. frames is None where only the end will tell."""

    height: int
    width: int
    frames: int | None
    fps: float | None
    duration_s: float | None
    container: str
    codec: str
    size_bytes: int


class SessionOut(BaseModel):
    """A session."""

    session_id: str
    state: str = Field(description="queued, running, idle (live, without frames), completed, failed or cancelled")
    engine: str
    live: bool = Field(description="Whether its frames come over /live")
    name: str | None = Field(description="File name of the upload")
    objects: tuple[ObjectInfo, ...]
    references: tuple[ReferenceOut, ...]
    video: VideoOut
    memory: MemoryOptions
    max_side: int | None
    start_frame: int
    end_frame: int | None
    progress: Progress
    timings: Timings
    memory_bytes: int = Field(description="Bytes of the session's feature bank now")
    revision: int
    warnings: tuple[str, ...]
    expires_at: float | None
    error: Problem | None
    notes: tuple[str, ...] = Field(
        default=(),
        description="How masks were read; only in the answer to what was sent",
    )
    links: dict[str, str]


class SessionList(BaseModel):
    """A page of sessions, newest first; send `next` as `cursor` for the following one."""

    sessions: tuple[SessionOut, ...]
    next: str | None


class EngineOut(BaseModel):
    """An engine. ready: a worker serves it now."""

    name: str
    family: str
    summary: str
    reference_kinds: tuple[str, ...]
    max_objects: int
    starter: str | None
    weights_licence: str
    vocabulary: tuple[str, ...]
    default: bool
    ready: bool
    queue_length: int


class EngineList(BaseModel):
    """All engines of the catalog."""

    engines: tuple[EngineOut, ...]


class ProblemOut(BaseModel):
    """RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = None


def describe(record: SessionRecord, *, notes: tuple[str, ...] = (), warnings: tuple[str, ...] = ()) -> SessionOut:
    """The document of a session. warnings: further ones, of this moment."""
    facts: dict[str, Any] = progress(record)
    here = f"/sessions/{record.id}"
    return SessionOut(
        session_id=record.id,
        state=record.state.value,
        engine=record.spec.engine,
        live=record.spec.live,
        name=record.spec.name,
        objects=record.objects,
        references=tuple(ReferenceOut.model_validate(item, from_attributes=True) for item in record.references),
        video=VideoOut.model_validate(record.spec.video, from_attributes=True),
        memory=record.spec.memory,
        max_side=record.spec.max_side,
        start_frame=record.spec.start_frame,
        end_frame=record.spec.end_frame,
        progress=Progress(
            frames_done=facts["done"],
            frames_total=facts["total"],
            share=facts["share"],
            masks_per_s=facts["masks_per_s"],
            eta_s=facts["eta_s"],
        ),
        timings=_timings(record),
        memory_bytes=record.bank_bytes,
        revision=record.revision,
        warnings=(*record.warnings, *warnings),
        expires_at=record.expires_at,
        error=record.error,
        notes=notes,
        links={
            "self": here,
            "stream": f"{here}/stream",
            "masks": f"{here}/masks",
            "references": f"{here}/references",
            "cancel": f"{here}/cancel",
        },
    )


def _timings(record: SessionRecord) -> Timings:
    def span(end: float | None) -> float | None:
        return None if end is None else max(0.0, end - record.created_at)

    return Timings(
        created_at=record.created_at,
        queued_at=record.queued_at,
        started_at=record.started_at,
        first_mask_at=record.first_mask_at,
        last_mask_at=record.last_mask_at,
        finished_at=record.finished_at,
        queue_s=span(record.started_at),
        first_mask_s=span(record.first_mask_at),
    )
