"""`WS /live`: frames in, masks out. One task reads the client, one sends what `follow` gives, one places frames.

A connection that breaks loses nothing: frames that were taken stand in Redis, masks in the session's stream.
"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from service.api.follow import existing, first_position, follow
from service.api.intake import unserved
from service.api.live_feed import Feed, Terms
from service.api.live_messages import Ack, End, FrameNote, Open, read_message
from service.api.live_sessions import read_opening
from service.api.services import Services, owner_of, services_of
from service.api.sockets import Sender, first_to_end, run_socket
from service.errors import MalformedRequest, RequestTimedOut
from service.metrics import LIVE_SOCKETS
from service.redis_keys import new_session_id

router = APIRouter()


@router.websocket("/live")
async def live(socket: WebSocket) -> None:
    """Take frames and send their masks until the client's `end`."""

    async def serve() -> None:
        with LIVE_SOCKETS.track_inprogress():
            await _Live(socket).serve()

    await run_socket(socket, serve)


class _Live:
    """One connection."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._services: Services = services_of(socket)

    async def serve(self) -> None:
        """Open, then read, place and send until the session ends or the client goes."""
        first = read_message(await self._text())
        if not isinstance(first, Open):
            raise MalformedRequest('the first message must be {"type": "open", …}')
        sender = Sender(self._socket, self._socket.app.state.pngs, self._services.settings.socket_stall_s, first.format)
        feed, engine = await self._open(first)
        await sender.tell({**feed.ready(), "warnings": await unserved(self._services, engine)})
        try:
            await first_to_end(self._read(feed), feed.place_frames(), self._send(feed, sender, first.after))
        finally:
            await feed.leave()

    async def _open(self, message: Open) -> tuple[Feed, str]:
        """The session's feed, and its engine's name."""
        owner = owner_of(self._socket)
        if message.session_id is None:
            opening = read_opening(self._services, owner, new_session_id(), message)
            terms = Terms(opening.policy, opening.window)
            return Feed(self._services, opening.session_id, terms, opening=opening), opening.options.engine.name
        record = await existing(self._services.store, message.session_id, owner)
        if not record.spec.live:
            raise MalformedRequest(f"session {record.id} is no live session; its masks are at /sessions/{record.id}")
        terms = Terms(message.policy or record.spec.live_policy, message.window or record.spec.live_window)
        feed = Feed(self._services, record.id, terms, acknowledged=message.after + 1)
        await feed.resume(record)
        return feed, record.spec.engine

    async def _text(self) -> str:
        limit = self._services.settings.upload_idle_timeout_s
        try:
            async with asyncio.timeout(limit):
                message = await self._socket.receive()
        except TimeoutError as error:
            raise RequestTimedOut(f"no `open` came for {limit:g} s") from error
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        if message.get("text") is None:
            raise MalformedRequest('the first message must be text: {"type": "open", …}')
        return str(message["text"])

    async def _read(self, feed: Feed) -> None:
        """What the client sends, until it goes. Raises WebSocketDisconnect, InvalidInput."""
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            if message.get("bytes") is not None:
                await feed.take(message["bytes"])
                continue
            said = read_message(message["text"])
            if isinstance(said, Ack):
                await feed.acknowledge(said.seq)
            elif isinstance(said, FrameNote):
                feed.announce(said)
            elif isinstance(said, End):
                feed.finish()
            else:
                raise MalformedRequest("this connection is open already; `open` is its first message only")

    async def _send(self, feed: Feed, sender: Sender, after: int) -> None:
        """Masks as they are made, to the end."""
        if not await feed.exists():
            await sender.tell({"type": "end", "state": "completed", "frames": 0, "error": None})
            return
        services, session_id = self._services, feed.session_id
        record = await existing(services.store, session_id, owner_of(self._socket))
        with services.tailer.topic(session_id, first_position(after, record)) as topic:
            async for message in follow(topic, services.store, services.masks, after):
                if message.seq is not None and (dropped := feed.take_dropped(message.seq)):
                    await sender.tell({"type": "dropped", "frames": dropped})
                await sender.send(session_id, message)
                if message.seq is not None:
                    feed.sent(message.seq)
