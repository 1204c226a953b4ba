"""Sessions as Redis holds them, for the API: make, read, list, cancel, delete, add references.

Every change is one Lua script, so that no crash leaves half of it. What workers do to sessions is in queue.py.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import anyio.to_thread
import structlog
from redis.asyncio import Redis

from service import redis_keys
from service.plan import total
from service.redis_client import Scripts, text, text_map
from service.redis_keys import Keys
from service.schemas import ArchiveRecord, ReferenceRequest, SessionRecord, SessionState, WorkerRecord

_JSON_FIELDS = frozenset({"spec", "references", "objects", "dropped", "plan", "snapshot", "error", "warnings"})

_log = structlog.get_logger("maskstream.sessions")

Created = Literal["ok", "known", "conflict", "queue_full", "too_many"]


def to_fields(record: SessionRecord) -> dict[str, str]:
    """The record as fields of a Redis hash; the queue's scripts read `engine`, `device_bytes` and `owner` there too."""
    fields: dict[str, str] = {}
    for name, value in record.model_dump(mode="json").items():
        if value is None and name.endswith("_at"):
            continue  # the scripts set each of these once, where it is absent
        if name in _JSON_FIELDS:
            fields[name] = "" if value is None else json.dumps(value, separators=(",", ":"))
        elif isinstance(value, bool):
            fields[name] = str(int(value))
        else:
            fields[name] = "" if value is None else str(value)
    fields["engine"] = record.spec.engine
    fields["device_bytes"] = str(record.spec.device_bytes)
    return fields


def from_fields(fields: Mapping[str, str]) -> SessionRecord:
    """The record of a Redis hash; empty fields are absent ones."""
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if name in SessionRecord.model_fields and (value != "" or name in ("worker",)):
            values[name] = json.loads(value) if name in _JSON_FIELDS else value
    return SessionRecord.model_validate(values)


def _readable(fields: Mapping[str, str]) -> SessionRecord | None:
    """One record that cannot be read keeps no list from showing the others."""
    try:
        return from_fields(fields) if fields else None
    except ValueError as error:
        _log.error("a session's record cannot be read", session=fields.get("id"), error=str(error))
        return None


@dataclass(frozen=True)
class Limits:
    """What create() and add_request() enforce, in the same script that queues the session."""

    queue_length: int
    sessions_per_owner: int
    idempotency_ttl_s: int = 86_400


NO_LIMITS = Limits(2**53, 2**53)


@dataclass(frozen=True)
class Idempotency:
    """A client's Idempotency-Key and a digest of what it sent."""

    key: str
    digest: str


@dataclass(frozen=True)
class CreateResult:
    """ok: made. known: this very request made `session_id` before. conflict: the key was used for another request.

    queue_full, too_many: refused; `count` says how many there are.
    """

    status: Created
    session_id: str
    count: int = 0


@dataclass(frozen=True)
class Page:
    """Sessions newest first; `cursor` asks for the next page, None at the end."""

    sessions: tuple[SessionRecord, ...]
    cursor: str | None


class SessionStore:
    """All sessions of one Redis."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def create(
        self, record: SessionRecord, limits: Limits, idempotency: Idempotency | None = None
    ) -> CreateResult:
        """Write the session and its job at once, or nothing."""
        known_key = self._keys.idempotency(record.owner, idempotency.key) if idempotency else ""
        fields = [part for pair in to_fields(record).items() for part in pair]
        args = [record.id, record.owner, idempotency.digest if idempotency else "", limits.idempotency_ttl_s]
        args += [limits.queue_length, limits.sessions_per_owner, *fields]
        status, value = await self._scripts.call("create", args, keys=[known_key])
        if text(status) in ("queue_full", "too_many"):
            return CreateResult(text(status), record.id, int(value))  # type: ignore[arg-type]
        return CreateResult(text(status), text(value))  # type: ignore[arg-type]

    async def find_idempotent(self, owner: str, key: str) -> tuple[str, str] | None:
        """(digest, session id) of an Idempotency-Key used before, or None."""
        digest, session_id = await self._redis.hmget(self._keys.idempotency(owner, key), ["digest", "session"])
        return None if session_id is None else (text(digest), text(session_id))

    async def get(self, session_id: str) -> SessionRecord | None:
        """The session as it stands now."""
        fields = text_map(await self._redis.hgetall(self._keys.session(session_id)))
        return from_fields(fields) if fields else None

    async def get_many(self, session_ids: Sequence[str]) -> list[SessionRecord | None]:
        """Several sessions in one round trip, in the order asked for."""
        pipeline = self._redis.pipeline(transaction=False)
        for session_id in session_ids:
            pipeline.hgetall(self._keys.session(session_id))
        replies = await pipeline.execute()
        # Many records, with many references each, take a while to read: not the event loop's.
        return await anyio.to_thread.run_sync(lambda: [_readable(text_map(reply)) for reply in replies])

    async def tombstone(self, session_id: str) -> str | None:
        """`deleted` or `expired` for a session that once was."""
        word = await self._redis.get(self._keys.tombstone(session_id))
        return None if word is None else text(word)

    async def page(self, owner: str | None, *, cursor: str | None = None, limit: int = 50) -> Page:
        """One page, newest first. owner None lists all."""
        index = self._keys.sessions if owner is None else self._keys.owner_sessions(owner)
        start = "+" if cursor is None else f"({cursor}"
        found = await self._redis.zrange(index, start, "-", bylex=True, desc=True, offset=0, num=limit)
        ids = [text(session_id) for session_id in found]
        records = [record for record in await self.get_many(ids) if record is not None] if ids else []
        return Page(tuple(records), ids[-1] if len(ids) == limit else None)

    async def cancel(self, session_id: str, *, expires_at: float) -> Literal["ok", "final", "missing"]:
        """Stop at the next step and keep the masks; `final` when it had ended already."""
        return text(await self._scripts.call("cancel", [session_id, expires_at]))  # type: ignore[return-value]

    async def delete(self, session_id: str, *, expired: bool = False) -> bool:
        """Forget the session; False when there is none. The caller then deletes its files and calls files_deleted().

        A worker that still holds it is fenced from here on and drops it at its next step.
        """
        word = "expired" if expired else "deleted"
        reply = await self._scripts.call("delete", [session_id, word, redis_keys.TOMBSTONE_TTL_S])
        return text(reply) == "ok"

    async def adopt(self, record: SessionRecord, archives: Sequence[ArchiveRecord]) -> bool:
        """Put back a final session that Redis has lost; False when it is there, or was deleted on purpose."""
        names = [archive.model_dump_json() for archive in archives]
        fields = [part for pair in to_fields(record).items() for part in pair]
        reply = await self._scripts.call("adopt", [record.id, record.owner, len(names), *names, *fields])
        return text(reply) == "ok"

    async def commit_rest(self, record: SessionRecord, archive: ArchiveRecord) -> bool:
        """Name the file of an ended session's last masks; False when the session is not as `record` says any more."""
        args = [record.id, record.epoch, archive.first, archive.last, archive.model_dump_json()]
        reply = await self._scripts.call("archive_rest", [*args, redis_keys.FINISHED_MASKS_TTL_S])
        return text(reply) == "ok"

    async def deleting(self) -> list[str]:
        """Forgotten sessions whose files may still be there."""
        return [text(session_id) for session_id in await self._redis.smembers(self._keys.deleting)]

    async def files_deleted(self, session_id: str) -> None:
        """The files of a forgotten session are gone."""
        await self._redis.srem(self._keys.deleting, session_id)

    async def waiting_requests(self, record: SessionRecord) -> list[ReferenceRequest]:
        """References that clients have added and that are not in `record` yet."""
        items = await self._redis.lrange(self._keys.requests(record.id), record.requests_taken, -1)
        return [ReferenceRequest.model_validate_json(item) for item in items]

    async def add_request(
        self, session_id: str, request: ReferenceRequest, *, after: int | None = None, limits: Limits = NO_LIMITS
    ) -> str:
        """New references for a session. after: the requests, from the first one on, that the caller knows of.

        limits: of a completed session, which is queued again. Returns ok, missing, `changed` when there are others than
        `after` says, queue_full, too_many, or the final state that forbids it.
        """
        named = request.model_copy(update={"id": secrets.token_hex(8)}).model_dump_json()
        known = "" if after is None else after
        args = [session_id, named, known, limits.queue_length, limits.sessions_per_owner]
        return text(await self._scripts.call("add_request", args))

    async def archives(self, session_id: str) -> list[ArchiveRecord]:
        """The committed archive files, in seq order; together they hold every mask below `archived_seq`."""
        lines = await self._redis.lrange(self._keys.archive(session_id), 0, -1)
        return [ArchiveRecord.model_validate_json(line) for line in lines]

    async def queue_length(self, engine: str) -> int:
        """Sessions of an engine that wait for a worker."""
        return int(await self._redis.xlen(self._keys.jobs(engine)))

    async def workers(self) -> list[WorkerRecord]:
        """Workers with a lease, as of their last word."""
        found = []
        for member in await self._redis.smembers(self._keys.workers):
            worker_id = text(member)
            record = await self._redis.hget(self._keys.worker(worker_id), "record")
            alive = bool(await self._redis.exists(self._keys.worker_lease(worker_id)))
            if record is not None and alive:
                found.append(WorkerRecord.model_validate_json(record))
        return found


def progress(record: SessionRecord) -> dict[str, float | int | None]:
    """Masks made, masks planned (None while unknown), the share, and seconds that are left at the present speed.

    The speed is that since a worker took the session last: what it waited before a correction or in a queue is no work.
    """
    planned = total(record.plan)
    if planned is None:
        planned = record.spec.video.frames
    fps = eta_s = None
    if record.pace_from_at is not None and record.pace_from_seq is not None and record.state is SessionState.RUNNING:
        elapsed_s = (record.last_mask_at or record.pace_from_at) - record.pace_from_at
        fps = (record.next_seq - 1 - record.pace_from_seq) / elapsed_s if elapsed_s > 0 else None
    if fps and planned is not None:
        eta_s = max(0, planned - record.next_seq) / fps
    share = None if not planned else min(1.0, record.next_seq / planned)
    return {"done": record.next_seq, "total": planned, "share": share, "masks_per_s": fps, "eta_s": eta_s}
