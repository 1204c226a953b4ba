"""Token buckets per key, or per address where there are no keys, in Redis so that all API processes share them.

Pictures have a bucket of their own: whoever plays a video frame by frame, or opens a long list of sessions, asks for
many a second, and must not find that the next upload is refused for it.
"""

from __future__ import annotations

import math
import re

from redis.exceptions import OutOfMemoryError, ReadOnlyError
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.middleware.access import is_public
from service.api.problems import as_maskstream_error, refuse_http, refuse_socket
from service.api.services import Services
from service.errors import TooManyRequests
from service.redis_client import WritesRefused
from service.schemas import LOCAL_OWNER
from service.settings import Settings

_PICTURE = re.compile(r"/sessions/[^/]+/(?:frames/[^/]+\.jpg|thumbnail\.jpg)")


class RateLimitMiddleware:
    """429 with Retry-After, or close code 1013, when the bucket is empty."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on if the bucket has a token."""
        if scope["type"] not in ("http", "websocket") or is_public(scope, self._settings):
            await self._app(scope, receive, send)
            return
        try:
            await self._take(scope)
        except Exception as error:
            shown = as_maskstream_error(error)
            if scope["type"] == "websocket":
                await refuse_socket(scope, receive, send, shown, protocol=scope["state"].get("subprotocol"))
            else:
                await refuse_http(scope, receive, send, shown)
            return
        await self._app(scope, receive, send)

    async def _take(self, scope: Scope) -> None:
        services: Services = scope["app"].state.services
        owner = scope["state"]["owner"]
        client = scope.get("client")
        who = f"address:{client[0] if client else 'unknown'}" if owner == LOCAL_OWNER else f"key:{owner}"
        per_minute, what = self._settings.rate_limit_per_minute, "requests"
        if _is_picture(scope):
            per_minute, what = self._settings.rate_limit_pictures_per_minute, "pictures"
            who = f"pictures:{who}"
        args = [per_minute / 60, self._settings.rate_limit_burst]
        try:
            wait_s = float(await services.scripts.call("rate", args, keys=[services.keys.rate(who)]))
        except (OutOfMemoryError, ReadOnlyError, WritesRefused):
            return  # what can be read must stay readable, and what is deleted makes room
        if wait_s > 0:
            raise TooManyRequests(
                f"more than {per_minute} {what} a minute; wait and try again", retry_after_s=math.ceil(wait_s)
            )


def _is_picture(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "GET" and _PICTURE.fullmatch(scope["path"]) is not None
