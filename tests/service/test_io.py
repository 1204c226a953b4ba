"""The worker's I/O thread ends, whatever its tasks do."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from service.local_storage import LocalStorage
from service.settings import Settings
from service.worker.bell import Bell
from service.worker.io import IoThread
from service.worker.presence import Presence


def test_a_task_that_swallows_its_cancellation_does_not_hold_up_the_end(redis_url: str, tmp_path: Path) -> None:
    settings = Settings(redis_url=redis_url, redis_prefix="test-io:", data_dir=tmp_path)
    storage = LocalStorage(tmp_path)
    io = IoThread(settings, storage, Presence(tmp_path), Bell())
    started = threading.Event()

    async def stubborn() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()  # as a Redis command does that is answered and cancelled at once

    io.start()
    io.begin(stubborn)
    assert started.wait(5)
    ended = threading.Thread(target=io.stop)
    ended.start()
    ended.join(10)
    assert not ended.is_alive()
