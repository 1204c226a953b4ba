"""Who may call: keys, or without keys loopback only. Decided from headers, before the first body byte.

Without keys a web page that the user visits must not reach the service through the user's browser: `Host` must be
loopback (against DNS rebinding), and on unsafe methods and sockets a present `Origin` must equal `Host`.
"""

from __future__ import annotations

import ipaddress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import as_maskstream_error, refuse_http, refuse_socket
from service.api.services import Services
from service.errors import Forbidden, Unauthorized
from service.schemas import LOCAL_OWNER
from service.settings import Settings

COOKIE = "maskstream_key"
SUBPROTOCOL = "bearer"
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_OPEN_PATHS = frozenset(("/healthz", "/readyz", "/", "/docs", "/openapi.json"))
_OPEN_PREFIXES = ("/js/",)
_OPEN_SUFFIXES = ("/style.css", "/icon.svg", "/sample.mp4", "/sample.png")


class AccessMiddleware:
    """Sets `scope["state"]["owner"]`, or refuses with 401, 403, 4401 or 4403."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its owner, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        offered, protocol = _subprotocol_key(scope)
        try:
            owner = await self._owner(scope, headers, offered)
        except Exception as error:
            shown = as_maskstream_error(error)
            if scope["type"] == "websocket":
                await refuse_socket(scope, receive, send, shown, protocol=protocol)
            else:
                await refuse_http(scope, receive, send, shown)
            return
        state = scope.setdefault("state", {})
        state["owner"], state["subprotocol"] = owner, protocol
        if scope["type"] == "websocket" and owner != LOCAL_OWNER:
            state["key"] = _key_of(scope, headers, offered)[0]
        await self._app(scope, receive, _with_cookie(scope, headers, send))

    async def _owner(self, scope: Scope, headers: Headers, offered: str | None) -> str:
        services: Services = scope["app"].state.services
        self._check_host(headers)
        if is_public(scope, self._settings):
            return LOCAL_OWNER
        if self._may_do_without_keys() and not await services.access.exist():
            self._check_origin(scope, headers)
            return LOCAL_OWNER
        key, from_cookie = _key_of(scope, headers, offered)
        if key is None:
            raise Unauthorized(
                "send `Authorization: Bearer <key>` (sockets of browsers: subprotocols `bearer, <key>`); "
                "`maskstream keys create` makes a key"
            )
        owner = await services.access.owner_of(key)
        if owner is None:
            raise Unauthorized("the key is unknown or revoked; `maskstream keys create` makes a new one")
        if from_cookie:
            self._check_origin(scope, headers)
        return owner

    def _may_do_without_keys(self) -> bool:
        settings = self._settings
        return settings.api_key is None and not settings.require_key and is_loopback(settings.host)

    def _check_host(self, headers: Headers) -> None:
        host = _host_name(headers.get("host", ""))
        allowed = self._settings.allowed_hosts
        if allowed and host not in allowed:
            raise Forbidden(f"this server does not answer to the host name {host!r} (MASKSTREAM_ALLOWED_HOSTS)")
        if not allowed and is_loopback(self._settings.host) and not is_loopback(host):
            raise Forbidden("this server answers to localhost only; set MASKSTREAM_ALLOWED_HOSTS for other names")

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or (scope["type"] == "http" and scope["method"] in _SAFE):
            return
        if urlsplit(origin).netloc != headers.get("host") and origin not in self._settings.cors_origins:
            raise Forbidden("requests from pages of another origin are refused (MASKSTREAM_CORS_ORIGINS)")


def is_loopback(host: str) -> bool:
    """Whether a bind address or host name can only be this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_public(scope: Scope, settings: Settings) -> bool:
    """Paths that need no key: health, the page and its files, the documentation."""
    path: str = scope["path"]
    if scope["type"] != "http" or scope["method"] not in _SAFE:
        return False
    if path == "/metrics":
        return settings.metrics_public
    return path in _OPEN_PATHS or path.startswith(_OPEN_PREFIXES) or path in _OPEN_SUFFIXES


def _host_name(host: str) -> str:
    """`Host` without its port."""
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.rpartition(":")[0] if ":" in host else host


def _subprotocol_key(scope: Scope) -> tuple[str | None, str | None]:
    """(key, what to echo) of `Sec-WebSocket-Protocol: bearer, <key>`; the key is never echoed."""
    offered = scope.get("subprotocols") or []
    if not offered or offered[0] != SUBPROTOCOL:
        return None, None
    return (offered[1] if len(offered) > 1 else None), SUBPROTOCOL


def _key_of(scope: Scope, headers: Headers, offered: str | None) -> tuple[str | None, bool]:
    """(key, whether it came by cookie). The cookie serves reading only: <video> and <img> can send nothing else."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip(), False
    if offered:
        return offered, False
    if scope["type"] == "http" and scope["method"] in _SAFE:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            morsel = None
        if morsel is not None:
            return morsel.value, True
    return None, False


def _with_cookie(scope: Scope, headers: Headers, send: Send) -> Send:
    """A browser that sent its key in a header gets it as a cookie too, for the media elements of the page."""
    authorization = headers.get("authorization", "")
    if scope["type"] != "http" or "sec-fetch-site" not in headers or not authorization.lower().startswith("bearer "):
        return send
    secure = "; Secure" if scope.get("scheme") == "https" else ""

    async def send_with_cookie(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] < 400:
            value = f"{COOKIE}={authorization[7:].strip()}; Path=/; HttpOnly; SameSite=Strict{secure}"
            MutableHeaders(scope=message).append("Set-Cookie", value)
        await send(message)

    return send_with_cookie
