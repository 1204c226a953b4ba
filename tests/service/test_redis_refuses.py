"""A Redis that answers, but takes no writes: full, or a replica after a failover. Nothing fails for good."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from service.embedded import EmbeddedRedis
from service.redis_client import connect
from service.schemas import SessionState
from service.settings import Settings
from tests.service.api_server import mask_png, running_api
from tests.service.scene import Scene, make_scene
from tests.service.videos import write_video

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def scene(server: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[Scene]:
    scene = make_scene(server.url, "refuses:", tmp_path / "data")
    yield scene
    scene.close()
    await scene.services.redis.aclose()


async def fill(redis: Redis) -> None:
    """From now on no command that may take memory is allowed."""
    await redis.config_set("maxmemory", 1)
    with pytest.raises(OutOfMemoryError):
        await redis.set("anything", "x")


async def test_what_is_deleted_makes_room_in_a_full_redis(scene: Scene) -> None:
    store = scene.services.sessions
    queued, ended = await scene.submit(3), await scene.submit(3)
    await store.cancel(ended, expires_at=time.time() + 60)
    await fill(scene.services.redis)
    for session_id in (queued, ended):
        assert await store.delete(session_id)
        assert await store.get(session_id) is None


async def test_a_full_redis_is_read_and_emptied_over_http(server: EmbeddedRedis, scene: Scene, tmp_path: Path) -> None:
    settings = Settings.model_validate({**scene.settings.model_dump(), "port": 0, "min_free_bytes": 0})
    clip = write_video(tmp_path / "clip.mp4", 3)

    def use() -> None:
        with running_api(settings) as api:
            made = api.upload(clip, [mask_png()]).json()["links"]["self"]
            anyio.run(self_fill)
            assert api.http.get(made).status_code == 200
            refused = api.upload(clip, [mask_png()])
            assert refused.status_code == 503 and refused.headers["retry-after"]
            assert api.http.delete(made).status_code == 204
            assert api.stored_files() == []

    async def self_fill() -> None:
        redis = connect(server.url)
        await fill(redis)
        await redis.aclose()

    await anyio.to_thread.run_sync(use)


@pytest.mark.parametrize("refusal", ["full", "replica", "disk"])
async def test_a_worker_waits_until_redis_takes_masks_again(scene: Scene, refusal: str) -> None:
    redis = scene.services.redis
    session_id = await scene.submit(20)
    worker = scene.start_worker(fake_step_s=0.02)
    await scene.until(session_id, lambda record: record.next_seq >= 3)
    if refusal == "full":
        await redis.config_set("maxmemory", 1)
    elif refusal == "replica":
        await redis.replicaof("127.0.0.1", "1")
    else:
        await redis.config_set("min-replicas-to-write", 1)
    await anyio.sleep(0.7)
    assert worker.is_alive()
    assert (await scene.record(session_id)).state is SessionState.RUNNING
    if refusal == "full":
        await redis.config_set("maxmemory", 0)
    elif refusal == "replica":
        await redis.replicaof("NO", "ONE")
    else:
        await redis.config_set("min-replicas-to-write", 0)
    record = await scene.finished(session_id)
    assert record.state is SessionState.COMPLETED, record.error
    assert [event.seq for event in await scene.masks(session_id)] == list(range(20))
    assert record.epoch == 1, "nobody took it from its worker"
    keys = scene.services.keys
    (worker_id,) = [each.id for each in await scene.services.sessions.workers()]
    assert await redis.pttl(keys.worker_lease(worker_id)) > 8_000, "its lease is renewed as before"
    after = await scene.submit(3)
    assert (await scene.finished(after)).state is SessionState.COMPLETED, "the worker claims as before"


async def test_a_client_leaves_a_primary_that_has_become_a_replica(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as old:
        client = connect(old.url)
        await client.set("who", "old")
        await client.replicaof("127.0.0.1", "1")
        (tmp_path / "redis" / "redis.sock").unlink()
        (tmp_path / "redis").rename(tmp_path / "moved")
        with EmbeddedRedis(tmp_path / "redis"):
            await client.set("who", "new")
            assert await client.get("who") == b"new"
            await client.aclose()
