"""A session's masks in seq order: publish once, follow from anywhere.

The hash's `next_seq` is the truth and the Redis stream a cache of it; what has been trimmed is read from the archive.
Knows nothing of sockets and nothing of how masks are made.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import anyio.to_thread
from redis.asyncio import Redis

from service.archive import read_archive
from service.errors import EpochLost, NotFound
from service.plan import frames_shown
from service.redis_client import BLOCK_MS, Scripts, text
from service.redis_keys import Keys
from service.schemas import Claim, MaskEvent, NoteEvent, SessionRecord
from service.sessions import SessionStore
from service.storage import Storage

Published = Literal["ok", "duplicate"]


class SequenceGap(RuntimeError):
    """A mask was published out of order: a bug of the publisher, never bad input."""


@dataclass(frozen=True)
class Entry:
    """One entry of a mask stream as it stands in Redis: a mask has `seq`, a note has None. `payload` is its JSON."""

    stream_id: str
    seq: int | None
    payload: bytes


def stream_id_after(seq: int) -> str:
    """The stream id after which to read for masks above `seq`; -1 reads all."""
    return f"{seq + 1}-0" if seq >= 0 else "0-0"


def _entry(stream_id: Any, fields: dict[Any, Any]) -> Entry:
    name = text(stream_id)
    major, _, minor = name.partition("-")
    payload = fields.get(b"e", fields.get("e", b""))
    return Entry(
        name, int(major) - 1 if minor == "0" else None, payload if isinstance(payload, bytes) else payload.encode()
    )


class MaskStream:
    """The mask streams of one Redis, with the archive behind them."""

    def __init__(self, redis: Redis, keys: Keys, storage: Storage) -> None:
        self._redis = redis
        self._keys = keys
        self._storage = storage
        self._scripts = Scripts(redis, keys)
        self._sessions = SessionStore(redis, keys)

    async def publish(self, claim: Claim, events: Sequence[MaskEvent]) -> list[Published]:
        """Publish masks in order, in one round trip; what was published before is left alone.

        Raises EpochLost when another worker owns the session, SequenceGap when a seq is ahead of `next_seq`.
        """
        args: list[Any] = [claim.session_id, claim.epoch]
        for event in events:
            args += [event.seq, event.model_dump_json()]
        replies = [text(reply) for reply in await self._scripts.call("publish", args)]
        for event, reply in zip(events, replies, strict=True):
            if reply == "fenced":
                raise EpochLost(f"session {claim.session_id} is no longer held under epoch {claim.epoch}")
            if reply == "gap":
                raise SequenceGap(f"session {claim.session_id}: seq {event.seq} is ahead of the masks published")
        return replies  # type: ignore[return-value]

    async def read(
        self, after: dict[str, str], *, block_ms: int | None = BLOCK_MS, count: int = 256
    ) -> dict[str, list[Entry]]:
        """New entries of several sessions (session id -> stream id last seen), for one tailer of many sockets."""
        streams: dict[Any, Any] = {self._keys.masks(session_id): last for session_id, last in after.items()}
        names = {self._keys.masks(session_id): session_id for session_id in after}
        reply: Any = await self._redis.xread(streams, count=count, block=block_ms)
        return {names[text(key)]: [_entry(*item) for item in items] for key, items in reply or []}

    async def archived(self, session_id: str, first: int, last: int) -> AsyncIterator[bytes]:
        """The JSON of the archived masks first..last that there are, in order, without holding a whole file."""
        for record in await self._sessions.archives(session_id):
            if record.last < first or record.first > last:
                continue
            lines = await anyio.to_thread.run_sync(read_archive, self._storage, session_id, record)
            for line in lines[max(0, first - record.first) : last - record.first + 1]:
                yield line

    async def streamed(self, session_id: str, first: int, last: int) -> list[MaskEvent]:
        """The masks first..last, all of which the stream must still hold. Raises SequenceGap."""
        start, stop = f"{first + 1}-0", f"{last + 1}-0"
        items: Any = await self._redis.xrange(self._keys.masks(session_id), start, stop)
        entries = [entry for entry in (_entry(*item) for item in items) if entry.seq is not None]
        if [entry.seq for entry in entries] != list(range(first, last + 1)):
            raise SequenceGap(f"session {session_id}: the stream does not hold the masks {first} to {last}")
        return [MaskEvent.model_validate_json(entry.payload) for entry in entries]

    async def stored(self, record: SessionRecord) -> AsyncIterator[bytes]:
        """The JSON of every mask that is published, in seq order: from the archive, then from the stream."""
        async for line in self.archived(record.id, 0, record.archived_seq - 1):
            yield line
        if record.next_seq > record.archived_seq:
            for event in await self.streamed(record.id, record.archived_seq, record.next_seq - 1):
                yield event.model_dump_json().encode()

    async def follow(self, session_id: str, after_seq: int = -1) -> AsyncIterator[MaskEvent | NoteEvent]:
        """Every mask above `after_seq` exactly once, in order, and notes as they come; returns when the session ends.

        Raises NotFound when the session does not exist, or is deleted meanwhile.
        """
        next_seq, last_id = after_seq + 1, stream_id_after(after_seq)
        while True:
            record = await self._sessions.get(session_id)
            if record is None:
                raise NotFound(f"there is no session {session_id}")
            next_seq = max(next_seq, record.kept_from_seq)
            async for payload in self._missing(session_id, next_seq, record):
                yield MaskEvent.model_validate_json(payload)
                next_seq += 1
                last_id = stream_id_after(next_seq - 1)
            if record.state.final and next_seq >= record.next_seq:
                return
            for entry in (await self.read({session_id: last_id})).get(session_id, []):
                if entry.seq is None:
                    yield NoteEvent.model_validate_json(entry.payload)
                elif entry.seq == next_seq:
                    yield MaskEvent.model_validate_json(entry.payload)
                    next_seq += 1
                elif entry.seq > next_seq:
                    break
                last_id = entry.stream_id

    async def _missing(self, session_id: str, next_seq: int, record: SessionRecord) -> AsyncIterator[bytes]:
        """The masks from next_seq on that the stream has lost but the archive holds."""
        if next_seq >= record.archived_seq:
            return
        stream_id = f"{next_seq + 1}-0"
        if await self._redis.xrange(self._keys.masks(session_id), stream_id, stream_id):
            return
        async for payload in self.archived(session_id, next_seq, record.archived_seq - 1):
            yield payload


def end_message(record: SessionRecord) -> dict[str, Any]:
    """The last message of a stream; never an entry of it."""
    error = None if record.error is None else json.loads(record.error.model_dump_json())
    frames = frames_shown(record.plan, record.next_seq)
    return {"type": "end", "state": record.state.value, "frames": frames, "error": error}
