"""A live session's frames on their way from the client to the worker: a Redis stream, trimmed to the newest snapshot.

Only the newest connection may push; frames are numbered from 0 without a gap. Knows nothing of sockets or pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from redis.asyncio import Redis

from service.errors import Conflict, NotFound
from service.redis_client import Scripts, text
from service.redis_keys import Keys
from service.schemas import ReferenceRequest


@dataclass(frozen=True)
class Connection:
    """A client's hold on a session's input. next_frame_index: what it is to send next."""

    session_id: str
    number: int
    next_frame_index: int


@dataclass(frozen=True)
class LiveFrame:
    """A frame as the client sent it: JPEG or PNG bytes. request: the references that came with it."""

    frame_index: int
    image: bytes
    pts_s: float
    request: ReferenceRequest | None = None


@dataclass(frozen=True)
class InputEnd:
    """The client will send no more."""


class LiveInput:
    """The inputs of all live sessions of one Redis."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys)

    async def connect(self, session_id: str) -> Connection:
        """Take the input over from whoever has it. Raises NotFound, Conflict when the session has ended."""
        status, *numbers = await self._scripts.call("live_connect", [session_id])
        _require(session_id, text(status), "ok")
        return Connection(session_id, int(numbers[0]), int(numbers[1]))

    async def push(
        self, connection: Connection, frame: LiveFrame, *, acknowledged: int, limit_bytes: int
    ) -> Literal["ok", "full"]:
        """Hand one frame on; `full` while the session holds as many bytes as it may. acknowledged: masks, a count.

        Raises Conflict when the session has ended or another connection has taken over, NotFound when it is gone.
        """
        request = "" if frame.request is None else frame.request.model_dump_json()
        args = [connection.session_id, connection.number, frame.frame_index, frame.image, frame.pts_s, request]
        status = text(await self._scripts.call("live_push", [*args, limit_bytes, acknowledged]))
        _require(connection.session_id, status, "ok", "full", "duplicate")
        return "full" if status == "full" else "ok"

    async def acknowledge(self, connection: Connection, acknowledged: int) -> None:
        """Note how many masks the client has; from another connection's time it is left alone."""
        await self._scripts.call("live_ack", [connection.session_id, connection.number, acknowledged])

    async def end(self, session_id: str, connection: Connection | None = None) -> None:
        """No more frames will come; None: the service says so. Raises as push() does."""
        number = "" if connection is None else connection.number
        _require(session_id, text(await self._scripts.call("live_end", [session_id, number])), "ok")

    async def read(self, session_id: str, next_index: int, *, count: int, block_ms: int) -> list[LiveFrame | InputEnd]:
        """Frames from next_index on, or what there is of them."""
        name = self._keys.live_input(session_id)
        reply: Any = await self._redis.xread({name: f"{next_index}-9"}, count=count, block=block_ms)
        return [_entry(*item) for _, items in reply or [] for item in items]


def _entry(stream_id: bytes, fields: dict[bytes, bytes]) -> LiveFrame | InputEnd:
    if b"end" in fields:
        return InputEnd()
    request = fields[b"request"]
    return LiveFrame(
        frame_index=int(stream_id.partition(b"-")[0]) - 1,
        image=fields[b"frame"],
        pts_s=float(fields[b"pts_s"]),
        request=ReferenceRequest.model_validate_json(request) if request else None,
    )


def _require(session_id: str, status: str, *good: str) -> None:
    if status in good:
        return
    if status == "missing":
        raise NotFound(f"session {session_id} was deleted, or Redis was emptied; open a new one")
    if status == "taken":
        raise Conflict(f"another connection has taken session {session_id} over; use that one")
    if status == "ended":
        raise Conflict(f"session {session_id} takes no more frames: its end was announced. Open a new one")
    raise Conflict(f"session {session_id} has ended ({status}); open a new one")
