"""A session's messages for one reader: every mask after N exactly once and in order, at the reader's own pace.

Masks come from the shared topic while the reader keeps up, else from Redis, else from the archive. Knows no sockets.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from service.api.tailer import StreamId, Topic, parse_id
from service.errors import Expired, NotFound, Unavailable
from service.mask_stream import Entry, MaskStream, end_message
from service.schemas import SessionRecord
from service.sessions import SessionStore, progress

_POLL_S = 2.0
_PAGE = 64
_MAX_FRUITLESS = 30
_CATCHING_UP = asyncio.Semaphore(32)
"""Readers that may ask Redis by themselves at once, so that a storm of them cannot take all its connections."""


@dataclass(frozen=True)
class Message:
    """One message: `payload` is JSON text. seq is set for masks."""

    kind: str
    payload: str
    seq: int | None = None


@dataclass
class _Cursor:
    next_seq: int
    position: StreamId
    told: str = ""
    """The newest progress message: two notes in one moment are one message."""
    asks: bool = True
    """Whether the session's record may hold news: not after a mask, but after a note, a gap or a silence."""


async def existing(store: SessionStore, session_id: str, owner: str) -> SessionRecord:
    """The caller's session. Raises Expired or NotFound; another's session is not told from none."""
    record = await store.get(session_id)
    if record is not None and record.owner == owner:
        return record
    if record is None and await store.tombstone(session_id) == "expired":
        raise Expired(f"session {session_id} has expired and its files are gone; upload the video again")
    raise NotFound(f"there is no session {session_id}; GET /sessions lists yours")


def first_position(after: int, record: SessionRecord) -> StreamId:
    """Where a reader that has the masks up to `after` begins to listen: with what comes next at the latest.

    Others share its topic: one that claims to have masks that are not made yet must not make them look elsewhere.
    """
    return (min(after + 1, record.next_seq), 0)


def progress_message(record: SessionRecord) -> Message:
    """How far the session is."""
    facts = progress(record)
    document = {
        "type": "progress",
        "seq": record.next_seq,
        "state": record.state.value,
        "frames_done": facts["done"],
        "frames_total": facts["total"],
        "masks_per_s": facts["masks_per_s"],
        "eta_s": facts["eta_s"],
    }
    return Message("progress", json.dumps(document))


async def follow(topic: Topic, store: SessionStore, masks: MaskStream, after: int) -> AsyncIterator[Message]:
    """All messages after `seq` = after; the last is `end`. Raises NotFound or Expired when the session goes."""
    cursor = _Cursor(after + 1, (after + 1, 0) if after >= 0 else (0, 0))
    fruitless = 0
    while True:
        sent = False
        async for message in _available(topic, masks, cursor, behind=fruitless > 0):
            sent = True
            yield message
        if sent:
            fruitless = 0
            continue
        if cursor.asks:
            record = await topic.record()
            if record is None:
                raise await _gone(store, topic.session_id)
            if cursor.next_seq < record.kept_from_seq:
                cursor.next_seq, cursor.position = record.kept_from_seq, (record.kept_from_seq, 0)
                yield Message("trimmed", json.dumps({"type": "trimmed", "from_seq": record.kept_from_seq}))
                continue
            behind = record.next_seq > cursor.next_seq
            if record.state.final and not behind:
                yield Message("end", json.dumps(end_message(record)))
                return
            fruitless = fruitless + 1 if behind else 0
        cursor.asks = not await _pause(topic, cursor, fruitless)


async def _available(topic: Topic, masks: MaskStream, cursor: _Cursor, *, behind: bool) -> AsyncIterator[Message]:
    """What can be had now: from the topic, or by asking where the topic does not reach or has nothing."""
    entries = topic.after(cursor.position)
    if entries is None or behind or _has_gap(entries, cursor):
        cursor.asks = True
        async for message in _catch_up(topic, masks, cursor):
            yield message
    for entry in entries or ():
        if (message_or_none := await _take(topic, cursor, entry)) is not None:
            yield message_or_none


async def _pause(topic: Topic, cursor: _Cursor, fruitless: int) -> bool:
    """Wait for news; shortly, and not for ever, while a mask exists that nothing gives. Whether the topic has any."""
    if fruitless > _MAX_FRUITLESS:
        raise Unavailable(f"mask {cursor.next_seq} cannot be read at the moment; reconnect", retry_after_s=5)
    if fruitless:
        await asyncio.sleep(0.02 * (fruitless - 1))
        return False
    return await topic.wait(cursor.position, _POLL_S)


def _has_gap(entries: list[Entry], cursor: _Cursor) -> bool:
    """Whether the first mask here is not the one that comes next."""
    seqs = (entry.seq for entry in entries if entry.seq is not None)
    return next(seqs, cursor.next_seq) > cursor.next_seq


async def _catch_up(topic: Topic, masks: MaskStream, cursor: _Cursor) -> AsyncIterator[Message]:
    """A page from Redis; what Redis has trimmed, from the archive."""
    position = f"{cursor.position[0]}-{cursor.position[1]}"
    async with _CATCHING_UP:
        found = await masks.read({topic.session_id: position}, block_ms=None, count=_PAGE)
    entries = found.get(topic.session_id, [])
    record = await topic.record()
    behind = record is not None and cursor.next_seq < record.archived_seq
    if record is not None and behind and (_has_gap(entries, cursor) or not entries):
        async for payload in masks.archived(topic.session_id, cursor.next_seq, record.archived_seq - 1):
            text = payload.decode()
            seq = int(json.loads(text)["seq"])
            if seq == cursor.next_seq:
                cursor.next_seq, cursor.position = seq + 1, (seq + 1, 0)
                yield Message("mask", text, seq)
        return
    for entry in entries:
        if (message := await _take(topic, cursor, entry)) is not None:
            yield message


async def _take(topic: Topic, cursor: _Cursor, entry: Entry) -> Message | None:
    """Move the cursor over one entry; None for what the reader has had, or must not have yet."""
    stream_id = parse_id(entry.stream_id)
    if stream_id <= cursor.position or (entry.seq is not None and entry.seq > cursor.next_seq):
        return None
    cursor.position = stream_id
    if entry.seq is not None:
        if entry.seq < cursor.next_seq:
            return None
        cursor.next_seq = entry.seq + 1
        return Message("mask", entry.payload.decode(), entry.seq)
    cursor.asks = True
    note: dict[str, Any] = json.loads(entry.payload)
    if note["type"] == "revision":
        return Message("revision", json.dumps({"type": "revision", "seq": note["seq"], **note["data"]}))
    record = await topic.record()
    message = None if record is None else progress_message(record)
    if message is None or message.payload == cursor.told:
        return None
    cursor.told = message.payload
    return message


async def _gone(store: SessionStore, session_id: str) -> Exception:
    word = await store.tombstone(session_id)
    if word == "expired":
        return Expired(f"session {session_id} has expired and its files are gone")
    if word == "deleted":
        return NotFound(f"session {session_id} was deleted")
    return NotFound(f"Redis has lost session {session_id}; what was stored of it comes back within minutes")
