"""Lets a client that is still sending read its refusal: answer at once, then take in the rest for a moment.

A server that answers and closes while bytes are still coming makes the kernel reset the connection, and the client
loses the answer: a 413 would look like a broken network.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LINGER_S = 2.0
_LINGER_BYTES = 256 * 1024**2


class LingerMiddleware:
    """Holds back the end of an answer until the body has come in, or for two seconds."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; nothing changes for one whose body was read, or that has none."""
        if scope["type"] != "http" or not _has_body(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        body = _Body(receive)

        async def send_then_linger(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not last or body.ended:
                await send(message)
                return
            await send({**message, "more_body": True})
            await body.discard()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, body, send_then_linger)


class _Body:
    """A `receive` that knows whether the body has ended."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.ended = True
        return message

    async def discard(self) -> None:
        """Take in what still comes, and forget it."""
        seen = 0
        try:
            async with asyncio.timeout(_LINGER_S):
                while not self.ended and seen < _LINGER_BYTES:
                    seen += len((await self()).get("body", b""))
        except TimeoutError:
            return


def _has_body(headers: Headers) -> bool:
    """Whether bytes come without being asked for; a client that expects 100 Continue waits for the answer first."""
    if "expect" in headers:
        return False
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
