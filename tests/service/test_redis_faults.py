"""Redis restarted and flushed under a running session."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from service.api.janitor import Janitor
from service.embedded import EmbeddedRedis
from service.redis_client import Scripts
from service.redis_keys import Keys
from service.schemas import SessionState
from service.worker.retry import until_answered
from tests.service.scene import make_scene

pytestmark = pytest.mark.anyio


async def test_a_restart_of_redis_loses_nothing(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    server.start()
    scene = make_scene(server.url, "restart:", tmp_path / "data")
    try:
        undisturbed = await scene.submit(40)
        await anyio.to_thread.run_sync(scene.run_here)
        session_id = await scene.submit(40)
        scene.start_worker(fake_step_s=0.03)
        await scene.until(session_id, lambda record: record.next_seq >= 3)
        await anyio.to_thread.run_sync(server.stop)
        await anyio.sleep(0.5)
        await anyio.to_thread.run_sync(server.start)
        assert (await scene.record(session_id)).next_seq < 40
        record = await scene.finished(session_id)
        assert record.state is SessionState.COMPLETED
        expected, events = await scene.masks(undisturbed), await scene.masks(session_id)
        assert [e.seq for e in events] == list(range(40))
        assert [e.objects for e in events] == [e.objects for e in expected]
    finally:
        scene.close()
        await scene.services.redis.aclose()
        server.stop()


async def test_scripts_that_a_restart_has_forgotten_are_loaded_again(redis: Redis, keys: Keys) -> None:
    scripts = Scripts(redis, keys)
    for _ in range(2):
        await redis.script_flush()
        assert await scripts.call("rate", [1, 5], keys=[keys.rate("someone")]) == b"0"


async def test_a_restart_between_the_loading_of_a_script_and_its_call_is_survived() -> None:
    answers: list[type[Exception] | str] = [NoScriptError, "ok"]

    async def call() -> str:
        answer = answers.pop(0)
        if isinstance(answer, str):
            return answer
        raise answer("NOSCRIPT No matching script")

    assert await until_answered(call) == "ok"


async def test_a_flush_fails_sessions_cleanly_and_deletes_nothing(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        scene = make_scene(server.url, "flush:", tmp_path / "data")
        store = scene.services.sessions
        try:
            done = await scene.submit(12)
            await anyio.to_thread.run_sync(scene.run_here)
            expected = await scene.masks(done)
            lost = await scene.submit(300)
            worker = scene.start_worker(fake_step_s=0.02)
            await scene.until(lost, lambda record: record.archived_seq >= 8)
            files = {session_id: scene.files(session_id) for session_id in (done, lost)}
            await scene.services.redis.flushall()
            after = await scene.submit(5)
            assert (await scene.finished(after)).state is SessionState.COMPLETED, "the worker goes on with others"
            assert worker.is_alive()
            await Janitor(store, scene.services.masks, scene.services.live, scene.storage, scene.settings).clean(
                time.time() + 120
            )
            assert await scene.masks(done) == expected
            record = await scene.record(lost)
            assert record.state is SessionState.FAILED
            assert record.error is not None and record.error.code == "queue-lost"
            assert [e.seq for e in await scene.masks(lost)] == list(range(record.next_seq))
            assert record.next_seq >= 8
            assert files[done] <= scene.files(done)
            assert {name for name in files[lost] if not name.startswith("snapshots/")} <= scene.files(lost)
        finally:
            scene.close()
            await scene.services.redis.aclose()
