"""The way in of one live connection: what was sent becomes frames of the session, at the pace that its terms allow.

`all`: a frame waits until it can be kept, and nothing further is read meanwhile. `latest`: it waits beside at most one
other, and a newer one takes its place. Knows no socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from service.api.live_messages import FrameNote
from service.api.live_sessions import Opening, check_frame, make_session, read_later
from service.api.services import Services
from service.errors import InvalidInput, NotFound
from service.live_input import Connection, LiveFrame
from service.media.live_pictures import picture_size
from service.metrics import LIVE_DROPPED, LIVE_FRAMES
from service.schemas import LivePolicy, ReferenceRequest, SessionRecord

_LATEST_AHEAD = 2
"""`latest`: frames with the worker at once; one is segmented while the other is decoded."""
_FULL_PAUSE_S = 0.05
_ACK_EVERY_S = 1.0
_WAITING_WITH_REFERENCES = 16


@dataclass(frozen=True)
class Terms:
    """How frames are taken. window: frames that may be unacknowledged; None: sent masks count as acknowledged."""

    policy: LivePolicy
    window: int | None


@dataclass(frozen=True)
class _Waiting:
    image: bytes
    size: tuple[int, int]
    pts_s: float
    fields: dict[str, Any]


class Feed:
    """One connection's frames. take(), announce(), acknowledge() and finish() are called by who reads the client."""

    def __init__(
        self,
        services: Services,
        session_id: str,
        terms: Terms,
        *,
        opening: Opening | None = None,
        acknowledged: int = 0,
    ) -> None:
        self.session_id = session_id
        self._services = services
        self._terms = terms
        self._opening = opening
        self._connection: Connection | None = None
        self._size: tuple[int, int] | None = None
        self._next_index = 0
        self._acknowledged = acknowledged
        self._note: FrameNote | None = None
        self._waiting: deque[_Waiting] = deque()
        self._dropped_before: deque[tuple[int, int]] = deque()
        self._dropped = 0
        self._placing = False
        self._finished = False
        self._began = time.time()
        self._noted_at = 0.0
        self._changed = asyncio.Event()
        self._exists = asyncio.Event()

    async def resume(self, record: SessionRecord) -> None:
        """Take over a session that exists. Raises NotFound, Conflict."""
        self._connection = await self._services.live.connect(record.id)
        self._size = (record.spec.video.height, record.spec.video.width)
        self._next_index = self._connection.next_frame_index
        self._began = record.created_at
        self._exists.set()

    def ready(self) -> dict[str, Any]:
        """The answer to `open`."""
        return {
            "type": "ready",
            "session_id": self.session_id,
            "next_frame_index": self._next_index,
            "policy": self._terms.policy,
            "window": self._terms.window,
        }

    async def exists(self) -> bool:
        """Wait for the session; False when the client ends without a frame."""
        await self._exists.wait()
        return self._connection is not None

    def announce(self, note: FrameNote) -> None:
        """What the next picture's time and references are. Raises InvalidInput."""
        if self._note is not None:
            raise InvalidInput("two `frame` messages without a picture between them")
        self._note = note

    async def take(self, image: bytes) -> None:
        """The next picture. Raises UnsupportedMedia, UnreadableVideo, InvalidInput."""
        if self._finished:
            raise InvalidInput("a frame came after `end`")
        note, self._note = self._note, None
        size = picture_size(image)
        check_frame(size, self._size)
        self._size = size
        pts_s = time.time() - self._began if note is None or note.pts_s is None else note.pts_s
        frame = _Waiting(image, size, pts_s, {} if note is None else note.rest())
        if self._terms.policy == "latest":
            self._replace(frame)
        else:
            await self._require_window()
            self._waiting.append(frame)
        self._changed.set()
        while self._terms.policy == "all" and (self._waiting or self._placing):
            await self._change()

    async def acknowledge(self, seq: int) -> None:
        """The client has all masks up to `seq`."""
        if self._terms.window is not None and seq >= self._acknowledged:
            self._acknowledged = min(seq + 1, self._next_index)
            self._changed.set()
        now = time.monotonic()
        if self._connection is not None and now - self._noted_at > _ACK_EVERY_S:
            self._noted_at = now
            await self._services.live.acknowledge(self._connection, self._acknowledged)

    def sent(self, seq: int) -> None:
        """A mask has been sent."""
        if self._terms.window is None:
            self._acknowledged = max(self._acknowledged, seq + 1)
            self._changed.set()

    def take_dropped(self, seq: int) -> int:
        """How many frames were replaced by those up to this one, told once."""
        told = 0
        while self._dropped_before and self._dropped_before[0][0] <= seq:
            told += self._dropped_before.popleft()[1]
        return told

    def finish(self) -> None:
        """The client will send no more."""
        self._finished = True
        self._changed.set()

    async def leave(self) -> None:
        """The connection ends, whatever the reason."""
        if self._connection is not None:
            with contextlib.suppress(RedisError):
                await self._services.live.acknowledge(self._connection, self._acknowledged)

    async def place_frames(self) -> None:
        """Hand waiting frames to the session in order, until the connection ends."""
        while True:
            while self._waiting and self._has_room():
                self._placing = True  # a newer frame may take the place of those that wait, not of this one
                await self._place(self._waiting.popleft())
                self._placing = False
                self._changed.set()
            if self._finished and not self._waiting:
                if self._connection is not None:
                    await self._services.live.end(self.session_id, self._connection)
                self._exists.set()
                await asyncio.Event().wait()  # the sender ends the connection, with the last mask
            await self._change()

    async def _change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _replace(self, frame: _Waiting) -> None:
        """`latest`: whatever waits without references makes room, the session's first picture excepted."""
        opens = self._connection is None and not self._placing  # the references of `open` speak of the first picture
        kept = deque(waiting for index, waiting in enumerate(self._waiting) if waiting.fields or (opens and index == 0))
        if len(kept) >= _WAITING_WITH_REFERENCES:
            raise InvalidInput(f"{len(kept)} frames with references wait already; wait for their masks")
        dropped = len(self._waiting) - len(kept)
        self._dropped += dropped
        LIVE_DROPPED.inc(dropped)
        self._waiting = kept
        self._waiting.append(frame)

    async def _require_window(self) -> None:
        window = self._terms.window
        if window is not None and self._next_index - self._acknowledged >= window:
            raise InvalidInput(
                f"frame {self._next_index} was sent while {window} frames were unacknowledged; send "
                '{"type": "ack", "seq": n} for the masks that you have, and wait for them'
            )

    def _has_room(self) -> bool:
        under_way = self._next_index - self._acknowledged
        limits = [self._terms.window] if self._terms.window is not None else []
        limits += [_LATEST_AHEAD] if self._terms.policy == "latest" else []
        return all(under_way < limit for limit in limits)

    async def _place(self, frame: _Waiting) -> None:
        """Make one frame the session's next one; the first makes the session."""
        request: ReferenceRequest | None = None
        if self._connection is None:
            if self._opening is None:
                raise NotFound(f"session {self.session_id} is not there")
            request = await make_session(self._services, self._opening, frame.size, frame.fields)
            self._connection = await self._services.live.connect(self.session_id)
            self._exists.set()
        elif frame.fields:
            record = await self._services.store.get(self.session_id)
            if record is None:
                raise NotFound(f"session {self.session_id} was deleted, or Redis was emptied; open a new one")
            request = await read_later(self._services, record, frame.fields, self._next_index)
        await self._push(LiveFrame(self._next_index, frame.image, frame.pts_s, request))
        if self._dropped:
            self._dropped_before.append((self._next_index, self._dropped))
            self._dropped = 0
        self._next_index += 1
        LIVE_FRAMES.inc()

    async def _push(self, frame: LiveFrame) -> None:
        """Wait for the worker's snapshots to make room."""
        if self._connection is None:
            raise NotFound(f"session {self.session_id} is not there")
        limit = self._services.settings.live_input_bytes
        while True:
            pushed = await self._services.live.push(
                self._connection, frame, acknowledged=self._acknowledged, limit_bytes=limit
            )
            if pushed == "ok":
                return
            await asyncio.sleep(_FULL_PAUSE_S)
