"""`WS /sessions/{id}/stream`: masks while they are made, resumable, at the reader's pace or not at all.

The close codes: 1000 after `end`, 1012 on drain (the server's), 1013 too slow or too many, 44xx as HTTP's 4xx.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Query, WebSocket
from starlette.websockets import WebSocketDisconnect

from service.api.follow import Message, existing, follow, progress_message
from service.api.mask_pngs import MaskPngs, without_rle
from service.api.problems import as_maskstream_error, request_id_of
from service.api.services import Services, owner_of, services_of
from service.errors import InvalidInput, MaskstreamError, TooManyRequests, problem
from service.metrics import SOCKET_MESSAGES, SOCKETS, SOCKETS_STALLED
from service.redis_keys import is_session_id

Format = Literal["rle", "png"]
_CLOSE_GRACE_S = 5.0
_log = structlog.get_logger("maskstream.stream")
router = APIRouter()


class _Stalled(Exception):
    """The reader took nothing for too long."""


class Sender:
    """Writes messages to one socket, each within the stall limit. Holds one message at a time."""

    def __init__(self, socket: WebSocket, pngs: MaskPngs, stall_s: float) -> None:
        self._socket = socket
        self._pngs = pngs
        self._stall_s = stall_s

    async def send(self, session_id: str, message: Message, format: Format) -> None:
        """One message of `follow`, in the format asked for. Raises _Stalled."""
        text, png = message.payload, None
        if format == "png" and message.seq is not None:
            text = without_rle(message.payload)
            png = await self._pngs.png(session_id, message.seq, message.payload)
        try:
            async with asyncio.timeout(self._stall_s):
                await self._socket.send_text(text)
                if png is not None:
                    await self._socket.send_bytes(png)
        except TimeoutError as error:
            raise _Stalled from error
        if message.seq is not None:
            SOCKET_MESSAGES.labels(format).inc()


@router.websocket("/sessions/{session_id}/stream")
async def stream(
    socket: WebSocket, session_id: str, after: Annotated[str, Query()] = "-1", format: Annotated[str, Query()] = "rle"
) -> None:
    """Every mask from `seq` after + 1 on, exactly once and in order, then `end`."""
    services = services_of(socket)
    await socket.accept(subprotocol=socket.scope["state"].get("subprotocol"))
    sockets: set[WebSocket] = socket.app.state.sockets
    sockets.add(socket)
    SOCKETS.set(len(sockets))
    try:
        if len(sockets) > services.settings.max_sockets:
            raise TooManyRequests("this server has no room for another socket; try again", retry_after_s=10)
        await _serve(socket, services, session_id, _number(after), _format(format))
        await _close(socket, 1000, "end")
    except _Stalled:
        SOCKETS_STALLED.inc()
        await _close(socket, 1013, "the reader is too slow; reconnect with after=<last seq>")
    except (WebSocketDisconnect, RuntimeError):
        pass  # the client has gone; Starlette raises RuntimeError for a send after that
    except Exception as error:
        await _refuse(socket, error)
    finally:
        sockets.discard(socket)
        SOCKETS.set(len(sockets))


async def _serve(socket: WebSocket, services: Services, session_id: str, after: int, format: Format) -> None:
    """Send until the end, or until the client goes: whichever of the two tasks ends first."""
    record = await existing(services.store, _checked(session_id), owner_of(socket))
    sender = Sender(socket, socket.app.state.pngs, services.settings.socket_stall_s)

    async def send_all() -> None:
        await sender.send(session_id, progress_message(record), format)
        start = (after + 1, 0) if after >= 0 else (0, 0)
        with services.tailer.topic(session_id, start) as topic:
            async for message in follow(topic, services.store, services.masks, after):
                await sender.send(session_id, message, format)

    tasks = [asyncio.create_task(send_all()), asyncio.create_task(_until_gone(socket))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until_gone(socket: WebSocket) -> None:
    """Read what the client sends, which means nothing here, until it leaves. Raises WebSocketDisconnect."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))


async def _refuse(socket: WebSocket, error: Exception) -> None:
    shown: MaskstreamError = as_maskstream_error(error)
    if shown is not error:
        _log.error("socket failed", exc_info=error)
    document = {"type": "error", "problem": problem(shown, request_id=request_id_of(socket.scope))}
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_CLOSE_GRACE_S):
            await socket.send_text(json.dumps(document))
    await _close(socket, shown.close_code, shown.title[:120])


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    with contextlib.suppress(Exception):  # it may be closed already, or never read again
        async with asyncio.timeout(_CLOSE_GRACE_S):
            await socket.close(code, reason)


def _checked(session_id: str) -> str:
    """The id, or an id that no session has: what is no id names no key and no folder."""
    return session_id if is_session_id(session_id) else "0" * 26


def _number(after: str) -> int:
    try:
        number = int(after)
    except ValueError:
        number = -2
    if not -1 <= number < 2**53:
        raise InvalidInput(f"after={after[:40]!r} is not a seq; use the last seq you have, or -1 for all")
    return number


def _format(format: str) -> Format:
    if format == "rle":
        return "rle"
    if format == "png":
        return "png"
    raise InvalidInput(f"format={format[:40]!r} is unknown; use rle or png")
