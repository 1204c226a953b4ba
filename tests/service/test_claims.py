"""Which waiting session a worker gets: the oldest that it could ever hold, as soon as it has the room."""

from __future__ import annotations

import time

import pytest
from redis.asyncio import Redis

from service.queue import JobQueue
from service.redis_keys import Keys
from service.schemas import SCHEMA_VERSION, SessionRecord, WorkerRecord
from service.sessions import Limits, SessionStore
from tests.service.test_store import make_record

pytestmark = pytest.mark.anyio
_LIMITS = Limits(queue_length=1000, sessions_per_owner=1000)


def sized(device_bytes: int, schema_version: int = SCHEMA_VERSION) -> SessionRecord:
    record = make_record(schema_version=schema_version)
    return record.model_copy(update={"spec": record.spec.model_copy(update={"device_bytes": device_bytes})})


async def announce(queue: JobQueue, worker_id: str, capacity: int) -> None:
    facts = {"stage": "idle", "sessions": 0, "engines": ("fake",), "device": "cpu", "at": time.time()}
    worker = WorkerRecord.model_validate({"id": worker_id, "capacity_bytes": capacity, "free_bytes": capacity, **facts})
    await queue.enter_stage(worker, (), 60.0)


async def test_what_a_worker_could_never_hold_does_not_block_it(store: SessionStore, redis: Redis, keys: Keys) -> None:
    queue = JobQueue(redis, keys)
    huge = [sized(10**30) for _ in range(40)]
    large, small = sized(90), sized(10)
    for record in (*huge, large, small):
        assert (await store.create(record, _LIMITS)).status == "ok"
    await announce(queue, "w", 100)
    await announce(queue, "giant", 10**31)
    assert await queue.claim("w", 50, ["fake"]) is None, "the large one is not overtaken: it fits when there is room"
    claim = await queue.claim("w", 100, ["fake"])
    assert claim is not None and claim.session_id == large.id
    claim = await queue.claim("w", 100, ["fake"])
    assert claim is not None and claim.session_id == small.id
    claim = await queue.claim("giant", 10**31, ["fake"])
    assert claim is not None and claim.session_id == huge[0].id, "it waits for a worker that can"
    assert min(await queue.heads(["fake"])) > 100


async def test_what_waits_behind_what_does_not_fit_is_seen(store: SessionStore, redis: Redis, keys: Keys) -> None:
    queue = JobQueue(redis, keys)
    for record in (sized(500), sized(10)):
        await store.create(record, _LIMITS)
    assert sorted(await queue.heads(["fake"])) == [10, 500], "or a session that runs would never yield to it"


async def test_records_of_a_later_version_are_left_alone(store: SessionStore, redis: Redis, keys: Keys) -> None:
    later = [sized(1, schema_version=SCHEMA_VERSION + 1) for _ in range(40)]
    own = sized(1)
    for record in (*later, own):
        await store.create(record, _LIMITS)
    claim = await JobQueue(redis, keys).claim("w", 100, ["fake"])
    assert claim is not None and claim.session_id == own.id
