"""Videos that come from elsewhere: fetching one holds up no other session."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from service.local_storage import LocalStorage
from service.schemas import SessionState
from service.storage import StorageUnavailable
from service.worker.loop import Worker
from tests.service.scene import Scene

pytestmark = pytest.mark.anyio


class FarStorage(LocalStorage):
    """Files that have to be fetched: one session's when it is let, another's never."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.slow = self.broken = ""
        self.go = threading.Event()
        self.held = 0

    @property
    def is_here(self) -> bool:
        return False

    @contextmanager
    def local(self, session_id: str, name: str) -> Iterator[Path]:
        if session_id == self.slow:
            assert self.go.wait(60)
        if session_id == self.broken:
            raise StorageUnavailable("the store cannot be reached")
        self.held += 1
        try:
            with super().local(session_id, name) as path:
                yield path
        finally:
            self.held -= 1


async def test_a_slow_fetch_holds_up_no_other_session(scene: Scene) -> None:
    far = FarStorage(scene.settings.data_dir)
    far.slow = await scene.submit(6)
    far.broken = await scene.submit(6)
    quick = await scene.submit(6)
    worker = Worker(scene.settings, far)
    running = threading.Thread(target=worker.run, kwargs={"burst": True})
    running.start()
    try:
        assert (await scene.finished(quick)).state is SessionState.COMPLETED
        failed = await scene.finished(far.broken)
        assert failed.error is not None and failed.error.code == "storage-failed"
        waiting = await scene.record(far.slow)
        assert (waiting.state, waiting.next_seq) == (SessionState.RUNNING, 0)
        far.go.set()
        assert (await scene.finished(far.slow)).state is SessionState.COMPLETED
    finally:
        far.go.set()
        worker.stop()
        await anyio.to_thread.run_sync(running.join)
    assert far.held == 0, "copies are let go with their sessions"


async def test_a_worker_that_stops_hands_back_what_has_not_arrived(scene: Scene) -> None:
    far = FarStorage(scene.settings.data_dir)
    far.slow = await scene.submit(6)
    worker = Worker(scene.settings, far)
    running = threading.Thread(target=worker.run)
    running.start()
    await scene.until(far.slow, lambda record: record.worker != "")
    worker.stop()
    await anyio.to_thread.run_sync(running.join)
    assert (await scene.record(far.slow)).state is SessionState.QUEUED
    far.go.set()
    scene.run_here()
    assert (await scene.record(far.slow)).state is SessionState.COMPLETED
