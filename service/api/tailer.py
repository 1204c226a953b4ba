"""One reader of Redis per process for all sockets: each session's newest entries, held once, whoever listens.

A socket that keeps up reads from here; one that does not reads Redis and the archive itself, at its own pace.
Knows nothing of sockets or formats.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import structlog
from redis.exceptions import RedisError

from service.mask_stream import Entry, MaskStream
from service.schemas import SessionRecord
from service.sessions import SessionStore

StreamId = tuple[int, int]
_RECORD_FRESH_S = 0.2
_RETRY_S = 0.5
_log = structlog.get_logger("maskstream.tailer")


def parse_id(stream_id: str) -> StreamId:
    """A Redis stream id as numbers, so that ids can be compared."""
    major, _, minor = stream_id.partition("-")
    return int(major), int(minor)


class Topic:
    """One session as its sockets see it: entries after `floor`, and a record that they share."""

    def __init__(self, session_id: str, start: StreamId, store: SessionStore, buffer_bytes: int) -> None:
        self.session_id = session_id
        self.listeners = 0
        self.last = start
        self._floor = start
        self._recent: deque[tuple[StreamId, Entry]] = deque()
        self._held_bytes = 0
        self._buffer_bytes = buffer_bytes
        self._changed = asyncio.Event()
        self._store = store
        self._record: asyncio.Task[SessionRecord | None] | None = None
        self._record_at = 0.0

    def push(self, entries: list[Entry]) -> None:
        """Take new entries, drop the oldest beyond the byte limit, wake the sockets."""
        for entry in entries:
            self.last = parse_id(entry.stream_id)
            self._recent.append((self.last, entry))
            self._held_bytes += len(entry.payload)
        while self._held_bytes > self._buffer_bytes and len(self._recent) > 1:
            self._floor, dropped = self._recent.popleft()
            self._held_bytes -= len(dropped.payload)
        self._record_at = 0.0
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def after(self, position: StreamId) -> list[Entry] | None:
        """Entries behind `position`; None when some of them are no longer held."""
        if position < self._floor:
            return None
        if position >= self.last:
            return []
        return [entry for stream_id, entry in self._recent if stream_id > position]

    async def wait(self, position: StreamId, timeout_s: float) -> bool:
        """Until there is something behind `position`, or the time is up; whether there is."""
        changed = self._changed
        if position >= self.last:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await changed.wait()
        return position < self.last

    async def record(self) -> SessionRecord | None:
        """The session's record, at most a moment old; one look-up serves all sockets."""
        now = asyncio.get_running_loop().time()
        if self._record is None or (self._record.done() and now - self._record_at > _RECORD_FRESH_S):
            self._record = asyncio.create_task(self._store.get(self.session_id))
            self._record_at = now
        return await asyncio.shield(self._record)


class Tailer:
    """All topics of the process, and the task that feeds them."""

    def __init__(self, masks: MaskStream, store: SessionStore, buffer_bytes: int) -> None:
        self._masks = masks
        self._store = store
        self._buffer_bytes = buffer_bytes
        self._topics: dict[str, Topic] = {}
        self._new_topic = asyncio.Event()

    @contextmanager
    def topic(self, session_id: str, position: StreamId) -> Iterator[Topic]:
        """Listen to a session from `position` on."""
        topic = self._topics.get(session_id)
        if topic is None:
            topic = self._topics[session_id] = Topic(session_id, position, self._store, self._buffer_bytes)
            self._new_topic.set()
        topic.listeners += 1
        try:
            yield topic
        finally:
            topic.listeners -= 1
            if topic.listeners == 0:
                self._topics.pop(session_id, None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The feeding task lives while the block does."""
        task = asyncio.create_task(self._feed(), name="tailer")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _feed(self) -> None:
        while True:
            try:
                await self._feed_once()
            except (RedisError, OSError) as error:
                _log.warning("the mask streams cannot be read; trying again", error=str(error))
                await asyncio.sleep(_RETRY_S)

    async def _feed_once(self) -> None:
        """One blocking read over all topics; a new topic cuts it short. XREAD takes nothing away: nothing is lost."""
        self._new_topic.clear()
        waking = asyncio.create_task(self._new_topic.wait())
        positions = {session_id: f"{topic.last[0]}-{topic.last[1]}" for session_id, topic in self._topics.items()}
        reading = asyncio.create_task(self._masks.read(positions)) if positions else None
        tasks = [task for task in (waking, reading) if task is not None]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading.done():
                for session_id, entries in reading.result().items():
                    topic = self._topics.get(session_id)
                    if topic is not None and positions[session_id] == f"{topic.last[0]}-{topic.last[1]}":
                        topic.push(entries)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
