"""What workers do to sessions: claim, renew by stage, commit under an epoch, hand back, finish; and sweep.

A worker's lease covers all its sessions. It is renewed only by the step loop as it enters a stage, for that stage's own
deadline: a hung device loses its lease although its process lives. Knows nothing of engines, frames or files.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from redis.asyncio import Redis

from service import redis_keys
from service.errors import EpochLost, Poisoned
from service.redis_client import Scripts, refusals_named, text, text_map
from service.redis_keys import Keys
from service.schemas import (
    SCHEMA_VERSION,
    ArchiveRecord,
    Claim,
    NoteEvent,
    Problem,
    ReferenceRequest,
    SessionState,
    SnapshotRecord,
    WorkerRecord,
)
from service.sessions import from_fields

_HEADS = 64
_UNREADABLE_S = 86_400.0
_log = structlog.get_logger("maskstream.queue")


@dataclass(frozen=True)
class Swept:
    """A session taken from a dead worker: queued again, or failed as poison."""

    session_id: str
    state: Literal["queued", "failed"]
    worker: str


@dataclass(frozen=True)
class Control:
    """What others asked of a session that a worker runs."""

    owned: bool
    cancel: bool
    requests: int


class CommitRefused(RuntimeError):
    """A commit that contradicts what Redis holds: a bug of the worker, never bad input."""


class JobQueue:
    """The job streams and worker leases of one Redis."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def enter_stage(self, worker: WorkerRecord, sessions: Iterable[str], deadline_s: float) -> None:
        """Renew the lease for one stage; `sessions` are those that it works on, and that a death in it blames."""
        pipeline = self._redis.pipeline(transaction=True)
        values: dict[Any, Any] = {
            "record": worker.model_dump_json(),
            "stage": worker.stage,
            "stage_sessions": " ".join(sessions),
        }
        pipeline.hset(self._keys.worker(worker.id), mapping=values)
        pipeline.sadd(self._keys.workers, worker.id)
        pipeline.set(self._keys.worker_lease(worker.id), worker.stage, px=max(1, int(deadline_s * 1000)))
        with refusals_named():
            await pipeline.execute()

    async def expire_lease(self, worker_id: str) -> None:
        """Declare a worker dead now, because its process is known to have ended; the next sweep takes its sessions."""
        with refusals_named():
            await self._redis.delete(self._keys.worker_lease(worker_id))

    async def claim(self, worker_id: str, free_bytes: int, engines: Sequence[str]) -> Claim | None:
        """The oldest waiting session of these engines that fits into `free_bytes`, now owned by the worker."""
        while True:
            reply = await self._scripts.call("claim", [worker_id, free_bytes, SCHEMA_VERSION, *engines])
            if not reply:
                return None
            claim = Claim(session_id=text(reply[0]), epoch=int(reply[1]))
            if await self._is_readable(claim):
                return claim

    async def _is_readable(self, claim: Claim) -> bool:
        """Whether this version understands the session; one that it does not would end every worker, and fails."""
        fields = text_map(await self._redis.hgetall(self._keys.session(claim.session_id)))
        try:
            if fields:  # deleted meanwhile, which the worker finds out
                from_fields(fields)
        except ValueError as error:
            _log.error("a session's record cannot be read", session=claim.session_id, error=str(error))
            detail = "this version of the service cannot read the session's record; upload the video again"
            problem = Problem(code="unreadable-record", detail=detail)
            await self.finish(claim, SessionState.FAILED, expires_at=time.time() + _UNREADABLE_S, problem=problem)
            return False
        return True

    async def held_by(self, worker_id: str) -> list[str]:
        """Sessions that the worker has claimed and not let go."""
        return [text(member) for member in await self._redis.smembers(self._keys.worker_sessions(worker_id))]

    async def heads(self, engines: Sequence[str]) -> list[int]:
        """Device bytes of the sessions that have waited longest for each engine; some may fit no worker here."""
        pipeline = self._redis.pipeline(transaction=False)
        for engine in engines:
            pipeline.xrange(self._keys.jobs(engine), count=_HEADS)
        replies: list[Any] = await pipeline.execute()
        return [int(fields[b"bytes"]) for reply in replies for _, fields in reply]

    async def controls(self, claims: Sequence[Claim]) -> list[Control]:
        """What others asked of these sessions, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for claim in claims:
            pipeline.hmget(self._keys.session(claim.session_id), ["epoch", "worker", "cancel", "requests_taken"])
            pipeline.llen(self._keys.requests(claim.session_id))
        replies = await pipeline.execute()
        found = []
        for claim, values, requests in zip(claims, replies[::2], replies[1::2], strict=True):
            epoch, worker, cancel, taken = (text(value) if value is not None else "" for value in values)
            owned = epoch == str(claim.epoch) and worker != ""
            found.append(Control(owned, cancel == "1", int(requests) - int(taken or 0)))
        return found

    async def requests(self, claim: Claim, taken: int) -> list[ReferenceRequest]:
        """References that clients added after the first `taken`, which the plan holds already."""
        items = await self._redis.lrange(self._keys.requests(claim.session_id), taken, -1)
        return [ReferenceRequest.model_validate_json(item) for item in items]

    async def commit_plan(self, claim: Claim, fields: Mapping[str, str], *, note: NoteEvent | None = None) -> None:
        """Write the plan and what belongs to it (`requests_taken` if it took requests in), tell the readers. Fenced."""
        data = "" if note is None else NoteEvent.model_dump_json(note, include={"data"})
        flat = [part for pair in fields.items() for part in pair]
        await self._fenced("commit_plan", claim, [data, *flat])

    async def commit_archive(self, claim: Claim, record: ArchiveRecord) -> None:
        """Name an archive file in the hash, and trim the stream behind it. Fenced."""
        args = [record.first, record.last, record.model_dump_json(), redis_keys.MASKS_KEPT]
        await self._fenced("commit_archive", claim, args)

    async def commit_snapshot(self, claim: Claim, record: SnapshotRecord, bank_bytes: int) -> SnapshotRecord | None:
        """Name a snapshot in the hash; returns the one it replaces, whose file may go. Fenced."""
        args = [claim.session_id, claim.epoch, record.seq, record.model_dump_json(), bank_bytes]
        status, replaced = await self._scripts.call("commit_snapshot", args)
        _require_ok("commit_snapshot", claim, text(status))
        return SnapshotRecord.model_validate_json(replaced) if replaced else None

    async def release(self, claim: Claim) -> None:
        """Hand the session back to the tail of its queue. Fenced."""
        await self._fenced("release", claim, [])

    async def park(self, claim: Claim) -> bool:
        """Let a live session wait for its client without a worker; False when there is work after all. Fenced."""
        status = text(await self._scripts.call("park", [claim.session_id, claim.epoch]))
        if status == "more":
            return False
        _require_ok("park", claim, status)
        return True

    async def trim_archive(self, claim: Claim, before: float) -> list[str]:
        """Take a live session's archive files from before that time off the list; their names. Fenced."""
        status, *names = await self._scripts.call("trim_archive", [claim.session_id, claim.epoch, before])
        _require_ok("trim_archive", claim, text(status))
        return [text(name) for name in names]

    async def finish(
        self, claim: Claim, state: SessionState, *, expires_at: float, problem: Problem | None = None
    ) -> bool:
        """End the session; False when references came in meanwhile and it must go on. Fenced."""
        problem_json = "" if problem is None else problem.model_dump_json()
        args = [claim.session_id, claim.epoch, state.value, problem_json, expires_at]
        status = text(await self._scripts.call("finish", args))
        if status == "more":
            return False
        _require_ok("finish", claim, status)
        return True

    async def sweep(self, *, max_attempts: int, ttl_s: float) -> list[Swept]:
        """Take the sessions of every worker whose lease has run out. Any process may call it, at any time."""
        detail = f"the session ended its worker {max_attempts} times at the same place; it will not be tried again"
        problem = Problem(code=Poisoned.slug, detail=detail).model_dump_json()
        args = [max_attempts, problem, redis_keys.DEAD_LETTERS_MAX, ttl_s]
        reply: list[Any] = await self._scripts.call("sweep", args)
        return [Swept(*(text(part) for part in item)) for item in reply]  # type: ignore[arg-type]

    async def _fenced(self, script: str, claim: Claim, args: list[Any]) -> None:
        status = text(await self._scripts.call(script, [claim.session_id, claim.epoch, *args]))
        _require_ok(script, claim, status)


def _require_ok(script: str, claim: Claim, status: str) -> None:
    if status == "fenced":
        raise EpochLost(f"session {claim.session_id} is no longer held under epoch {claim.epoch}")
    if status != "ok":
        raise CommitRefused(f"session {claim.session_id}: {script} answered {status!r}")
