"""What the API hands to threads and processes: none of it may hold up the rest, or be blamed on an upload."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anyio.to_thread
import pytest

from service.api.prober import Prober
from service.api.ranges import in_thread
from service.settings import Settings
from tests.service.videos import write_video

pytestmark = pytest.mark.anyio


async def test_slow_exports_leave_threads_for_the_others() -> None:
    go_on = threading.Event()

    def slow() -> Iterator[bytes]:
        go_on.wait()
        yield b"x"

    async def read() -> list[bytes]:
        return [chunk async for chunk in in_thread(slow())]

    readers = [asyncio.create_task(read()) for _ in range(60)]
    try:
        await asyncio.sleep(0.1)
        async with asyncio.timeout(10):
            assert await anyio.to_thread.run_sync(lambda: "done") == "done"
    finally:
        go_on.set()
    assert await asyncio.gather(*readers) == [[b"x"]] * 60


async def test_a_process_that_died_while_it_waited_is_no_fault_of_the_upload(tmp_path: Path) -> None:
    clip, prober = write_video(tmp_path / "clip.mp4", 3), Prober(Settings())
    try:
        assert (await prober.probe(clip)).frames == 3
        (idle,) = prober._idle
        os.kill(idle.pid, signal.SIGKILL)
        while Path(f"/proc/{idle.pid}").exists():
            time.sleep(0.01)  # the event loop, which would notice, is not let in
        assert (await prober.probe(clip)).frames == 3
    finally:
        await prober.close()
