"""What all WebSocket routes share: admission, sending within the stall limit, refusals and close codes.

The close codes: 1000 after `end`, 1012 on drain (the server's), 1013 too slow or too many, 44xx as HTTP's 4xx.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal

import structlog
from fastapi import WebSocket
from redis.exceptions import RedisError
from starlette.websockets import WebSocketDisconnect

from service.api.follow import Message
from service.api.mask_pngs import MaskPngs, without_rle
from service.api.problems import as_maskstream_error, request_id_of
from service.api.services import services_of
from service.errors import InvalidInput, MaskstreamError, NotFound, TooManyRequests, Unauthorized, problem
from service.metrics import SOCKET_MESSAGES, SOCKETS, SOCKETS_STALLED
from service.redis_keys import is_session_id

Format = Literal["rle", "png"]
_CLOSE_GRACE_S = 5.0
_CANCEL_AGAIN_S = 0.2
_log = structlog.get_logger("maskstream.sockets")


class _Stalled(Exception):
    """The reader took nothing for too long."""


class Sender:
    """Writes messages to one socket, each within the stall limit. Holds one message at a time."""

    def __init__(self, socket: WebSocket, pngs: MaskPngs, stall_s: float, format: Format) -> None:
        self._socket = socket
        self._pngs = pngs
        self._stall_s = stall_s
        self._format = format
        self._one_at_a_time = asyncio.Lock()

    async def send(self, session_id: str, message: Message) -> None:
        """One message of `follow`. Raises _Stalled, which run_socket() turns into 1013."""
        text, png = message.payload, None
        if self._format == "png" and message.seq is not None:
            text = without_rle(message.payload)
            png = await self._pngs.png(session_id, message.seq, message.payload)
        await self._send(text, png)
        if message.seq is not None:
            SOCKET_MESSAGES.labels(self._format).inc()

    async def tell(self, document: dict[str, Any]) -> None:
        """Any other message."""
        await self._send(json.dumps(document), None)

    async def _send(self, text: str, png: bytes | None) -> None:
        try:
            async with asyncio.timeout(self._stall_s), self._one_at_a_time:
                await self._socket.send_text(text)
                if png is not None:
                    await self._socket.send_bytes(png)
        except TimeoutError as error:
            raise _Stalled from error


async def run_socket(socket: WebSocket, serve: Callable[[], Awaitable[None]]) -> None:
    """Accept the socket, serve it, and close it with what its end means."""
    services = services_of(socket)
    try:
        await socket.accept(subprotocol=socket.scope["state"].get("subprotocol"))
    except (OSError, RuntimeError):
        return  # the client went before the handshake was over
    sockets: set[WebSocket] = socket.app.state.sockets
    sockets.add(socket)
    SOCKETS.set(len(sockets))
    try:
        if len(sockets) > services.settings.max_sockets:
            raise TooManyRequests("this server has no room for another socket; try again", retry_after_s=10)
        await _serve_while_allowed(socket, serve)
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


async def _serve_while_allowed(socket: WebSocket, serve: Callable[[], Awaitable[None]]) -> None:
    """A camera's socket is open for days: a key that is revoked meanwhile ends it. Raises Unauthorized."""
    key, services = socket.scope["state"].get("key"), services_of(socket)

    async def until_revoked() -> None:
        while True:
            await asyncio.sleep(services.settings.socket_stall_s)
            with contextlib.suppress(RedisError):
                if await services.access.owner_of(key) is None:
                    raise Unauthorized("the key has been revoked")

    async def served() -> None:
        await serve()

    await (served() if key is None else first_to_end(served(), until_revoked()))


async def no_such_socket(socket: WebSocket) -> None:
    """Every other address, said after accepting: of a refused handshake a client learns a 403 at most."""

    async def refuse() -> None:
        raise NotFound("there is no socket at this address; there are /sessions/{session_id}/stream and /live")

    await run_socket(socket, refuse)


async def first_to_end(*work: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends or raises, then cancel the others."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        left = set(tasks)
        while left:
            # More than once: a command that Redis answers as it is cancelled can swallow the cancellation.
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)
        await asyncio.gather(*tasks, return_exceptions=True)


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


def checked_id(session_id: str) -> str:
    """The id. Raises NotFound for what is none: it must name no key and no folder."""
    if not is_session_id(session_id):
        raise NotFound("that is not a session id; GET /sessions lists yours")
    return session_id


def as_seq(after: str | int) -> int:
    """The client's `after`. Raises InvalidInput."""
    try:
        number = int(after)
    except ValueError:
        number = -2
    if not -1 <= number < 2**53:
        raise InvalidInput(f"after={str(after)[:40]!r} is not a seq; use the last seq you have, or -1 for all")
    return number


def as_format(format: str) -> Format:
    """The client's `format`. Raises InvalidInput."""
    if format == "rle":
        return "rle"
    if format == "png":
        return "png"
    raise InvalidInput(f"format={format[:40]!r} is unknown; use rle or png")
