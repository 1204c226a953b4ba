"""Every record that crosses a process: what stands in Redis, in session.json, in the archive and on the wire.

JSON only. Readers leave records of a newer `schema_version` alone. Imports neither torch nor the web stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.plan import Plan

SCHEMA_VERSION = 1

LOCAL_OWNER = "local"
"""Owner of every session while the service runs without keys."""

ReferenceKind = Literal["mask", "box", "point", "text", "exemplar", "auto"]
Direction = Literal["forward", "backward", "both"]
LivePolicy = Literal["all", "latest"]


class Record(BaseModel):
    """Root of all records: immutable, and deaf to fields that a later version added."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class SessionState(StrEnum):
    """Where a session stands. The last three are final, until a correction queues a completed one again.

    idle: a live session that waits for its client's next frame, without a worker.
    """

    QUEUED = "queued"
    RUNNING = "running"
    IDLE = "idle"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether no worker will touch the session again on its own."""
        return self in (SessionState.COMPLETED, SessionState.FAILED, SessionState.CANCELLED)


class Problem(Record):
    """Why a session failed. `code` is for programs, `detail` says what was wrong and what to do."""

    code: str
    detail: str
    frame_index: int | None = None


class VideoInfo(Record):
    """The upload as the probe saw it: displayed size, square pixels. `frames` is None when only decoding can tell."""

    name: str
    """Name in the session's storage; a folder of images ends in '/'."""
    height: int
    width: int
    frames: int | None = None
    fps: float | None = None
    duration_s: float | None = None
    container: str = ""
    codec: str = ""
    size_bytes: int = 0


class MemoryOptions(Record):
    """The client's memory policy; the same fields as engines.types.MemoryPolicy, without torch."""

    kind: Literal["every_k", "window", "adaptive"] = "adaptive"
    budget_tokens: int | None = Field(default=None, gt=0)
    budget_mib: float | None = Field(default=None, gt=0)
    memorize_every: int | None = Field(default=None, gt=0)
    merge_threshold: float | None = None
    exact: bool = False
    """The released arithmetic of the adaptive bank, for comparison: it protects no reference, and it may fail."""
    static: bool = False
    """Allocate the whole budget at once."""


class Reference(Record):
    """What the client said of some objects at one frame. Sizes and points are in displayed pixels.

    mask: `file` names a label map (mode L PNG, displayed size, object ids, 255 = ignore) in the session's storage.
    exemplar: `file` is the exemplar image and `mask_file` its label map. auto: no object is named, the worker finds
    them and fills object_ids in. box is (x, y, width, height);
    points are (x, y, 1 object | 0 background).
    """

    kind: ReferenceKind
    frame_index: int = Field(default=0, ge=0)
    object_ids: tuple[int, ...] = ()
    file: str | None = None
    mask_file: str | None = None
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float, int], ...] = ()
    text: str | None = None
    max_objects: int | None = None
    """auto: find at most so many."""
    direction: Direction = "forward"
    label_map_file: str | None = None
    """What the worker made of a reference that is no mask: a label map as `file` of a mask is."""


class ObjectInfo(Record):
    """An object as the client named it."""

    object_id: int
    name: str | None = None
    color: str | None = None


class DroppedObject(Record):
    """An object that the client took out: masks below `before_seq` still hold it, files made of them do not."""

    object_id: int
    before_seq: int


class SessionSpec(Record):
    """What the client asked for; never changes."""

    engine: str
    video: VideoInfo
    name: str | None = None
    """File name of the upload, for people."""
    memory: MemoryOptions = MemoryOptions()
    max_side: int | None = None
    start_frame: int = 0
    end_frame: int | None = None
    """Exclusive."""
    probability: bool = False
    """Whether mask messages carry each object's probability."""
    live: bool = False
    live_policy: LivePolicy = "all"
    live_window: int | None = None
    keep_s: float = 0.0
    """Live: archived masks that the client has acknowledged go after this."""
    device_bytes: int = 0
    """What the session takes of a device at most; a worker claims it only when that much is free."""


class SnapshotRecord(Record):
    """A committed snapshot: the track's state before it made `seq`."""

    name: str
    seq: int
    segment: int
    engine: str
    weights_sha256: str
    dtype: str
    schema_version: int = SCHEMA_VERSION


class ArchiveRecord(Record):
    """A committed archive file: MaskEvents first..last, one JSON object per line."""

    name: str
    first: int
    last: int
    at: float = 0.0
    """When it was written, in seconds since 1970."""


class SessionRecord(Record):
    """A session as Redis and session.json hold it."""

    id: str
    owner: str = LOCAL_OWNER
    schema_version: int = SCHEMA_VERSION
    spec: SessionSpec
    references: tuple[Reference, ...] = ()
    objects: tuple[ObjectInfo, ...] = ()
    dropped: tuple[DroppedObject, ...] = ()
    plan: Plan = ()
    state: SessionState = SessionState.QUEUED
    epoch: int = 0
    next_seq: int = 0
    archived_seq: int = 0
    """Masks below it stand in committed archive files."""
    kept_from_seq: int = 0
    """Live: masks below it are no longer kept."""
    frames_in: int = 0
    """Live: frames that the client has sent."""
    last_frame_at: float | None = None
    revision: int = 0
    requests_taken: int = 0
    attempts: int = 0
    worker: str = ""
    cancel: bool = False
    snapshot: SnapshotRecord | None = None
    error: Problem | None = None
    warnings: tuple[str, ...] = ()
    bank_bytes: int = 0
    created_at: float = 0.0
    queued_at: float | None = None
    started_at: float | None = None
    first_mask_at: float | None = None
    pace_from_seq: int | None = None
    """The first mask since a worker took the session last; its speed is measured from there."""
    pace_from_at: float | None = None
    last_mask_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None


class Claim(Record):
    """A session that a worker owns. Every write of the worker carries the epoch, and fails once another owns it."""

    session_id: str
    epoch: int


class ReferenceRequest(Record):
    """References and objects that a client added after the session was made. id: tells two alike apart."""

    id: str = ""
    references: tuple[Reference, ...] = ()
    objects: tuple[ObjectInfo, ...] = ()
    drop_object_ids: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()


class Rle(Record):
    """COCO compressed run lengths; size is (height, width)."""

    size: tuple[int, int]
    counts: str


class MaskObject(Record):
    """One object of a frame. bbox is (x, y, width, height) in pixels.

    score: mean probability over its pixels, 0 where it is not visible. uncertainty: exp(1 - p1/p2) over them, 0 at a
    reference of its own and 1 where nothing can be told apart; None in masks of versions that did not keep it.
    probability: only in sessions that asked for it: base64 of a grey PNG, a pixel for each 4 x 4, 255 certain.
    """

    object_id: int
    score: float
    bbox: tuple[int, int, int, int]
    rle: Rle
    uncertainty: float | None = None
    probability: str | None = Field(default=None, exclude_if=lambda value: value is None)


class MaskEvent(Record):
    """One frame's masks, whole: the message that clients receive, and a line of the archive."""

    type: Literal["mask"] = "mask"
    seq: int
    frame_index: int
    pts_s: float | None = None
    size: tuple[int, int]
    objects: tuple[MaskObject, ...] = ()


def without_dropped(event: MaskEvent, dropped: Sequence[DroppedObject]) -> MaskEvent:
    """The mask as files show it: without the objects that were taken out after it was made."""
    gone = {item.object_id for item in dropped if event.seq < item.before_seq}
    if not gone:
        return event
    return event.model_copy(update={"objects": tuple(item for item in event.objects if item.object_id not in gone)})


class NoteEvent(Record):
    """Anything else in a mask stream: progress, a revision, a change of state. Never counted, never archived."""

    type: Literal["progress", "revision", "state"]
    seq: int
    """next_seq when it was written."""
    data: dict[str, Any] = {}


class WorkerRecord(Record):
    """A worker's last word, for readiness, metrics and admission."""

    id: str
    stage: str
    sessions: int
    engines: tuple[str, ...]
    capacity_bytes: int
    free_bytes: int
    device: str
    at: float
    alive: bool = True
