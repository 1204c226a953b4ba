"""The worker's one I/O thread: an event loop with Redis and storage, so that the step loop never waits for either.

The step loop calls in with plain functions. Per session everything happens in the order it was asked for (writer.py);
what all sessions have under way together is bounded, and the step loop waits at that bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from service.errors import Unavailable
from service.schemas import WorkerRecord
from service.settings import Settings
from service.startup import Services, build_services, check_storage
from service.storage import Storage
from service.worker.bell import Bell
from service.worker.presence import Presence
from service.worker.retry import until_answered
from service.worker.sweeper import sweep_for_ever

T = TypeVar("T")

_IN_FLIGHT = 64
_CANCEL_AGAIN_S = 0.5
_CLOSE_S = 5.0
_LIVE_READS = 32
_log = structlog.get_logger()
_GIVE_UP_CHECK_S = 0.5


@dataclass(frozen=True)
class Stage:
    """What the step loop does now, on which sessions, and for how long at most."""

    worker: WorkerRecord
    sessions: tuple[str, ...]
    deadline_s: float


class IoThread:
    """The thread, its event loop, and the handles that live in it."""

    def __init__(self, settings: Settings, storage: Storage, presence: Presence, bell: Bell) -> None:
        self.settings = settings
        self._storage = storage
        self._presence = presence
        self._bell = bell
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="io", daemon=True)
        self._room = threading.BoundedSemaphore(_IN_FLIGHT)
        self._give_up_at = float("inf")
        self._services: Services | None = None
        self._stage: Stage | None = None
        self._stage_changed = asyncio.Event()
        self._renewing = asyncio.Lock()
        self._background: list[asyncio.Task[None]] = []
        self._writers: set[asyncio.Task[None]] = set()
        self._spawned: set[asyncio.Task[None]] = set()
        self.live_reads = asyncio.Semaphore(_LIVE_READS)
        """Sessions that may wait in Redis for frames at once, each on a connection; further ones take turns."""

    @property
    def services(self) -> Services:
        """Handles for coroutines that run in this thread."""
        if self._services is None:
            raise RuntimeError("start() the I/O thread first")
        return self._services

    def start(self) -> None:
        """Connect and check the storage. Raises Unavailable."""
        self._thread.start()
        self.call(self._open)

    def stop(self) -> None:
        """End the background work, whatever writers still have, and the thread."""
        self._give_up_at = float("inf")
        self.call(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def give_up_in(self, seconds: float) -> None:
        """From then on nothing waits for Redis any more: call() raises Unavailable. Safe in a signal handler."""
        self._give_up_at = time.monotonic() + seconds

    def call(self, action: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the thread and wait for its result. Raises Unavailable once it is time to give up."""
        future = asyncio.run_coroutine_threadsafe(action(), self._loop)
        while True:
            done, _ = wait([future], timeout=_GIVE_UP_CHECK_S)
            if done:
                return future.result()
            if time.monotonic() > self._give_up_at:
                future.cancel()
                raise Unavailable("Redis does not answer, and the worker was told to stop")

    def ask(self, action: Callable[[], Awaitable[T]]) -> T:
        """The same for a Redis command, repeated until Redis answers."""
        return self.call(lambda: until_answered(action))

    def enter(self, stage: Stage, *, wait: bool) -> None:
        """Renew the lease for a stage. wait: not before Redis has it; otherwise only the newest stage is sent."""
        if wait:
            self.ask(lambda: self._renew_first(stage))
        else:
            self._loop.call_soon_threadsafe(self._set_stage, stage)

    def begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a session's writer."""

        def start() -> None:
            task = self._loop.create_task(work())
            self._writers.add(task)
            task.add_done_callback(self._writers.discard)

        self._loop.call_soon_threadsafe(start)

    def spawn(self, work: Coroutine[Any, Any, None], at_end: Callable[[], None]) -> Callable[[], None]:
        """Start work of a session beside its writer; returns what cancels it. at_end is called however it ends."""

        def ended(task: asyncio.Task[None]) -> None:
            self._spawned.discard(task)
            at_end()
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("work beside a session failed", exc_info=error)

        async def start() -> asyncio.Task[None]:
            task = self._loop.create_task(work)
            self._spawned.add(task)
            task.add_done_callback(ended)
            return task

        starting = asyncio.run_coroutine_threadsafe(start(), self._loop)
        return lambda: starting.add_done_callback(
            lambda started: self._loop.call_soon_threadsafe(started.result().cancel)
        )

    def hand_over(self, put: Callable[[], None]) -> None:
        """Run `put` in the thread once there is room; its receiver calls done() when the work is over."""
        while not self._room.acquire(timeout=_GIVE_UP_CHECK_S):
            if time.monotonic() > self._give_up_at:
                raise Unavailable("Redis does not take the masks, and the worker was told to stop")
        self._loop.call_soon_threadsafe(put)

    def done(self, items: int = 1) -> None:
        """Make room for further work."""
        self._room.release(items)

    def wait_for_writers(self, timeout_s: float | None = None) -> bool:
        """Whether all writers ended in time."""

        async def writers_end() -> bool:
            while self._writers:
                _, pending = await asyncio.wait(self._writers, timeout=timeout_s)
                if pending:
                    return False
            return True

        return self.call(writers_end)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _open(self) -> None:
        self._services = build_services(self.settings, self._storage)
        await check_storage(self._services)
        sweep = sweep_for_ever(self._services, self.settings, self._presence)
        news = self._bell.ring_at_news(self._services.redis, self._services.keys.news)
        self._background = [self._loop.create_task(work) for work in (self._send_stages(), sweep, news)]

    async def _close(self) -> None:
        tasks = {*self._background, *self._writers, *self._spawned}
        while tasks:
            # More than once: a command that Redis answers as it is cancelled can swallow the cancellation.
            for task in tasks:
                task.cancel()
            done, tasks = await asyncio.wait(tasks, timeout=_CANCEL_AGAIN_S)
            await asyncio.gather(*done, return_exceptions=True)
        if self._services is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._services.redis.aclose()

    def _set_stage(self, stage: Stage) -> None:
        self._stage = stage
        self._stage_changed.set()

    async def _send_stages(self) -> None:
        """Send the newest stage that the step loop has entered, and nothing of its own accord."""
        while True:
            await self._stage_changed.wait()
            self._stage_changed.clear()
            stage, self._stage = self._stage, None
            if stage is not None:
                await self._renew_or_say_why(stage)

    async def _renew_or_say_why(self, stage: Stage) -> None:
        """An error that ended the task behind this would take the worker's lease for good."""
        try:
            await until_answered(lambda: self._renew(stage))
        except Exception:
            _log.exception("the lease cannot be renewed")

    async def _renew_first(self, stage: Stage) -> None:
        self._stage = None  # older than this one
        await self._renew(stage)

    async def _renew(self, stage: Stage) -> None:
        async with self._renewing:
            await self.services.queue.enter_stage(stage.worker, stage.sessions, stage.deadline_s)
