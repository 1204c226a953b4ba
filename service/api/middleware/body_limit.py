"""Bodies end where the limit is, counted while they stream; a client that stops sending is not waited for."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import refuse_http
from service.errors import MalformedRequest, RequestTimedOut, UploadTooLarge
from service.settings import Settings

_UPLOADS = frozenset((("POST", "/sessions"),))


class BodyLimitMiddleware:
    """413 from Content-Length before anything is read, and again from what really comes."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a body that is counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope)
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal():
            await refuse_http(scope, receive, send, MalformedRequest("Content-Length must be a number"))
            return
        if int(declared) > limit:
            await refuse_http(scope, receive, send, _too_large(limit))
            return
        await self._app(scope, _Bounded(receive, limit, self._settings.upload_idle_timeout_s), send)

    def _limit(self, scope: Scope) -> int:
        is_upload = (scope["method"], scope["path"]) in _UPLOADS or scope["path"].endswith("/references")
        return self._settings.max_upload_bytes if is_upload else self._settings.max_body_bytes


class _Bounded:
    """A `receive` that counts the body and times its pauses; once the body is in, it waits as long as need be."""

    def __init__(self, receive: Receive, limit: int, idle_s: float) -> None:
        self._receive = receive
        self._limit = limit
        self._idle_s = idle_s
        self._seen = 0
        self._more = True

    async def __call__(self) -> Message:
        if not self._more:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._idle_s)
        except TimeoutError as error:
            raise RequestTimedOut(f"nothing came for {self._idle_s:.0f} s in the middle of the body") from error
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            self._more = bool(message.get("more_body", False))
            if self._seen > self._limit:
                raise _too_large(self._limit)
        return message


def _too_large(limit: int) -> UploadTooLarge:
    return UploadTooLarge(f"the body is larger than {limit} bytes, the most that is taken here", limit_bytes=limit)
