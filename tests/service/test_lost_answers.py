"""Commands that are sent again because the answer to the first was lost: the second time nothing happens."""

from __future__ import annotations

import time

import pytest
from redis.asyncio import Redis

from service.queue import JobQueue
from service.redis_client import Scripts
from service.redis_keys import Keys
from service.schemas import ReferenceRequest, SessionState
from service.sessions import Idempotency, SessionStore
from tests.service.test_store import LIMITS, make_record

pytestmark = pytest.mark.anyio


async def test_a_session_is_made_once_and_keeps_its_owner(store: SessionStore, redis: Redis, keys: Keys) -> None:
    record, queue = make_record(), JobQueue(redis, keys)
    assert (await store.create(record, LIMITS)).status == "ok"
    assert (await store.create(record, LIMITS)).status == "ok"
    assert await store.queue_length("fake") == 1
    claim = await queue.claim("w", 1 << 40, ["fake"])
    assert claim is not None
    again = await store.create(record, LIMITS, Idempotency("k", "digest"))
    assert (again.status, again.session_id) == ("ok", record.id)
    stored = await store.get(record.id)
    assert stored is not None and stored.state is SessionState.RUNNING and stored.epoch == claim.epoch
    assert await store.queue_length("fake") == 0


async def test_a_correction_is_taken_once(store: SessionStore, redis: Redis, keys: Keys) -> None:
    record = make_record()
    await store.create(record, LIMITS)
    scripts, wish = Scripts(redis, keys), ReferenceRequest(drop_object_ids=(1,))
    args = [record.id, wish.model_dump_json(), 0, 9, 9]
    assert [await scripts.call("add_request", args) for _ in range(2)] == [b"ok", b"ok"]
    assert await redis.llen(keys.requests(record.id)) == 1
    assert [await store.add_request(record.id, wish) for _ in range(2)] == ["ok", "ok"]
    assert await redis.llen(keys.requests(record.id)) == 3, "the same wish, said again, is another one"


async def test_an_end_is_an_end_the_second_time_too(store: SessionStore, redis: Redis, keys: Keys) -> None:
    queue = JobQueue(redis, keys)
    await store.create(make_record(), LIMITS)
    claim = await queue.claim("w", 1 << 40, ["fake"])
    assert claim is not None
    for _ in range(2):
        assert await queue.finish(claim, SessionState.COMPLETED, expires_at=time.time() + 60)
