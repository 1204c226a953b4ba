"""Which waiting session a worker gets: the oldest that it could ever hold, as soon as it has the room."""

from __future__ import annotations

import time

import pytest
from redis.asyncio import Redis

from service.local_storage import LocalStorage
from service.mask_stream import MaskStream
from service.queue import JobQueue
from service.redis_keys import Keys
from service.schemas import SCHEMA_VERSION, ArchiveRecord, SessionRecord, WorkerRecord
from service.sessions import Limits, SessionStore
from tests.service.scripted_worker import mask_event
from tests.service.test_store import make_record

pytestmark = pytest.mark.anyio
_LIMITS = Limits(queue_length=1000, sessions_per_owner=1000)


def sized(device_bytes: int, schema_version: int = SCHEMA_VERSION) -> SessionRecord:
    record = make_record(schema_version=schema_version)
    return record.model_copy(update={"spec": record.spec.model_copy(update={"device_bytes": device_bytes})})


async def announce(queue: JobQueue, worker_id: str, capacity: int, sessions: tuple[str, ...] = ()) -> None:
    facts = {"stage": "idle", "sessions": 0, "engines": ("fake",), "device": "cpu", "at": time.time()}
    worker = WorkerRecord.model_validate({"id": worker_id, "capacity_bytes": capacity, "free_bytes": capacity, **facts})
    await queue.enter_stage(worker, sessions, 60.0)


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


async def test_masks_of_ended_sessions_leave_redis(
    store: SessionStore, redis: Redis, keys: Keys, storage: LocalStorage
) -> None:
    queue, masks = JobQueue(redis, keys), MaskStream(redis, keys, storage)
    cancelled, poisoned = sized(1), sized(1)
    for record in (cancelled, poisoned):
        await store.create(record, _LIMITS)
        claim = await queue.claim("w", 100, ["fake"])
        assert claim is not None
        await masks.publish(claim, [mask_event(0)])
        await queue.commit_archive(claim, ArchiveRecord(name="archive/1-0-0.jsonl", first=0, last=0))
        if record is cancelled:
            await queue.release(claim)
            assert await store.cancel(record.id, expires_at=time.time() + 9000) == "ok"
        else:
            await announce(queue, "w", 100, (record.id,))
            await queue.expire_lease("w")
            assert [one.state for one in await queue.sweep(max_attempts=1, ttl_s=9000)] == ["failed"]
        assert 0 < await redis.ttl(keys.masks(record.id)) <= 600, "the archive holds the same"


async def test_a_record_that_cannot_be_read_ends_no_worker(store: SessionStore, redis: Redis, keys: Keys) -> None:
    broken, own = sized(1), sized(1)
    for record in (broken, own):
        await store.create(record, _LIMITS)
    await redis.hset(keys.session(broken.id), "references", '[{"kind":"scribble"}]')
    claim = await JobQueue(redis, keys).claim("w", 100, ["fake"])
    assert claim is not None and claim.session_id == own.id
    state, error = await redis.hmget(keys.session(broken.id), ["state", "error"])
    assert state == b"failed" and error is not None and b"unreadable-record" in error
    assert await JobQueue(redis, keys).held_by("w") == [own.id]
    page = await store.page("local")
    assert [session.id for session in page.sessions] == [own.id], "the others are listed all the same"
