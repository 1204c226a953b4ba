"""Masks that stand in Redis alone when a session fails without its worker."""

from __future__ import annotations

import os
import signal
import time

import anyio.to_thread
import pytest

from service.api.janitor import Janitor
from service.schemas import Claim, MaskEvent, SessionState, WorkerRecord
from service.session_file import read_session_file
from tests.service.scene import HEIGHT, WIDTH, Scene

pytestmark = pytest.mark.anyio


async def poisoned(scene: Scene, count: int) -> tuple[str, Claim]:
    """A session whose worker died for good after `count` masks, none of them archived."""
    session_id = await scene.submit(10)
    queue = scene.services.queue
    worker = WorkerRecord(
        id="w",
        stage="step",
        sessions=1,
        engines=("fake",),
        capacity_bytes=1,
        free_bytes=0,
        device="cpu",
        at=time.time(),
    )
    claim = await queue.claim(worker.id, 2**40, ["fake"])
    assert claim is not None and claim.session_id == session_id
    await queue.enter_stage(worker, [session_id], 60.0)
    events = [MaskEvent(seq=i, frame_index=i, pts_s=i / 25, size=(HEIGHT, WIDTH), objects=()) for i in range(count)]
    await scene.services.masks.publish(claim, events)
    await queue.expire_lease(worker.id)
    swept = await queue.sweep(max_attempts=1, ttl_s=60)
    assert [one.state for one in swept] == ["failed"]
    return session_id, claim


def janitor(scene: Scene) -> Janitor:
    services = scene.services
    return Janitor(services.sessions, services.masks, services.live, scene.storage, scene.settings)


async def test_the_janitor_archives_what_a_poisoned_session_published(scene: Scene) -> None:
    session_id, _ = await poisoned(scene, 3)
    redis, masks_key = scene.services.redis, scene.services.keys.masks(session_id)
    before = await scene.masks(session_id)
    assert (await scene.record(session_id)).archived_seq == 0 and await redis.ttl(masks_key) == -1
    await janitor(scene).clean(time.time())
    record = await scene.record(session_id)
    assert record.archived_seq == record.next_seq == 3
    assert record.error is not None and record.error.code == "poison"
    assert 0 < await redis.ttl(masks_key) <= 600, "the stream may go now"
    await redis.delete(masks_key)
    assert await scene.masks(session_id) == before and [event.seq for event in before] == [0, 1, 2]
    file = read_session_file(scene.storage, session_id)
    assert file is not None and file.session.error == record.error and file.archives[0].last == 2
    files = scene.files(session_id)
    await janitor(scene).clean(time.time() + scene.settings.orphan_age_s + 1)
    assert session_id not in scene.storage.sessions() or scene.files(session_id) == files


async def test_two_janitors_at_once_archive_once(scene: Scene) -> None:
    session_id, _ = await poisoned(scene, 4)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(janitor(scene).clean, time.time())
    assert [(each.first, each.last) for each in await scene.services.sessions.archives(session_id)] == [(0, 3)]
    await scene.services.redis.delete(scene.services.keys.masks(session_id))
    assert [event.seq for event in await scene.masks(session_id)] == [0, 1, 2, 3]


async def test_masks_that_redis_has_lost_do_not_stop_the_janitor(scene: Scene) -> None:
    session_id, _ = await poisoned(scene, 2)
    other, _ = await poisoned(scene, 2)
    await scene.services.redis.delete(scene.services.keys.masks(session_id))
    await janitor(scene).clean(time.time())
    assert (await scene.record(session_id)).archived_seq == 0
    assert (await scene.record(other)).archived_seq == 2


async def test_the_worker_that_sweeps_a_poisoned_session_archives_it(scene: Scene) -> None:
    session_id = await scene.submit(10)
    worker = scene.start_worker(fake_step_s=30.0, archive_interval_s=60.0)
    await scene.until(session_id, lambda record: record.next_seq == 1)
    await scene.until_stage(worker, "warmup")
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    await anyio.to_thread.run_sync(worker.join)
    scene.start_worker(max_attempts=1)
    record = await scene.until(session_id, lambda record: record.state.final and record.archived_seq == 1)
    assert record.state is SessionState.FAILED and record.error is not None and record.error.code == "poison"
