"""A worker is told of jobs and orders, and looks for itself when it may have missed something."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import anyio
import pytest
from redis.asyncio import Redis

from service.schemas import SessionState
from service.worker.bell import Bell
from service.worker.loop import Worker
from tests.service.scene import Scene

pytestmark = pytest.mark.anyio
NEVER_S = 600.0


@pytest.fixture
def patient(scene: Scene) -> Scene:
    """Its workers look of their own accord after ten minutes, so in time for no test."""
    return replace(scene, settings=scene.settings.model_copy(update={"poll_interval_s": NEVER_S}))


@contextlib.contextmanager
def working(scene: Scene) -> Iterator[None]:
    worker = Worker(scene.settings.model_copy(update={"fake_step_s": 0.02}), scene.storage)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(30)
        assert not thread.is_alive()


async def listeners(redis: Redis, scene: Scene, count: int) -> None:
    channel = scene.services.keys.news
    with anyio.fail_after(30):
        while (await redis.pubsub_numsub(channel))[0][1] != count:
            await anyio.sleep(0.02)


async def test_jobs_and_orders_reach_a_worker_that_never_looks(patient: Scene, redis: Redis) -> None:
    with working(patient):
        await listeners(redis, patient, 1)
        first = await patient.submit(8)
        assert (await patient.finished(first)).state is SessionState.COMPLETED
        second = await patient.submit(200)
        await patient.until(second, lambda record: record.next_seq >= 2)
        await patient.services.sessions.cancel(second, expires_at=time.time() + 600)
        assert (await patient.finished(second)).state is SessionState.CANCELLED


async def test_a_place_that_is_free_again_goes_to_the_next(patient: Scene, redis: Redis) -> None:
    narrow = replace(patient, settings=patient.settings.model_copy(update={"max_tracks": 1}))
    with working(narrow):
        ids = [await narrow.submit(6) for _ in range(3)]
        for session_id in ids:
            assert (await narrow.finished(session_id)).state is SessionState.COMPLETED


async def test_news_that_a_broken_connection_lost_are_looked_for(patient: Scene, redis: Redis) -> None:
    with working(patient):
        await listeners(redis, patient, 1)
        await redis.client_kill_filter(_type="pubsub")
        session_id = await patient.submit(8)
        assert (await patient.finished(session_id)).state is SessionState.COMPLETED
        await listeners(redis, patient, 1)


def test_a_ring_before_the_wait_is_heard() -> None:
    bell = Bell()
    for _ in range(100_000):  # more than a pipe holds
        bell.ring()
    began = time.monotonic()
    bell.wait(NEVER_S)
    assert time.monotonic() - began < NEVER_S / 2
    while bell.was_rung():
        pass
    assert not bell.was_rung()
