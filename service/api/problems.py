"""Errors as answers: RFC 9457 documents over HTTP, and over a socket before it is closed."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from service.errors import InvalidInput, MalformedRequest, MaskstreamError, NotFound, StorageFull, Unavailable, problem
from service.storage import SessionGone, StorageUnavailable

_ENOSPC, _EDQUOT = 28, 122
_log = structlog.get_logger("maskstream.api")


class ProblemResponse(JSONResponse):
    """A problem document with the headers that belong to it."""

    media_type = "application/problem+json"

    def __init__(self, error: MaskstreamError, request_id: str | None) -> None:
        headers: dict[str, str] = {}
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(error.retry_after_s)
        if error.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="maskstream"'
        if error.status in (408, 413):
            headers["Connection"] = "close"  # the rest of the body is never read
        super().__init__(problem(error, request_id=request_id), error.status, headers)


class _HttpProblem(MaskstreamError):
    """An answer of the framework itself (405, say) in our form."""

    slug = "http"

    def __init__(self, error: HTTPException) -> None:
        wrong_method = error.status_code == 405
        super().__init__(
            "this address does not take this method; /docs lists what each takes" if wrong_method else str(error.detail)
        )
        self.status = error.status_code  # type: ignore[misc]
        self.title = str(error.detail)  # type: ignore[misc]


def as_maskstream_error(error: Exception) -> MaskstreamError:
    """The error that tells a client what it may know; a defect of ours says only that."""
    if isinstance(error, MaskstreamError):
        return error
    if isinstance(error, RequestValidationError):
        return _validation_error(error)
    if isinstance(error, HTTPException):
        if error.status_code == 404:
            return NotFound("there is nothing at this address; see /docs")
        return MalformedRequest(str(error.detail)) if error.status_code == 400 else _HttpProblem(error)
    if isinstance(error, ClientDisconnect):
        return MalformedRequest("the client went away in the middle of the body")
    if isinstance(error, (RedisError, ConnectionError)):
        return Unavailable("the queue cannot be reached at the moment; try again", retry_after_s=2)
    if isinstance(error, SessionGone):
        return NotFound("the session was deleted meanwhile")
    if isinstance(error, StorageUnavailable):
        return Unavailable("the storage cannot be reached at the moment; try again", retry_after_s=2)
    if isinstance(error, OSError) and error.errno in (_ENOSPC, _EDQUOT):
        return StorageFull("the server's disk is full; delete sessions or try again later", retry_after_s=60)
    return MaskstreamError("something went wrong in the server; its log has the details under this request id")


def _validation_error(error: RequestValidationError) -> InvalidInput:
    reasons = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        reasons.append(f"{where}: {item['msg']}")
    return InvalidInput("; ".join(reasons))


async def answer_problem(request: Request, error: Exception) -> Response:
    """Exception handler for everything."""
    shown = as_maskstream_error(error)
    if shown.status >= 500 and shown is not error:
        _log.error("request failed", path=request.url.path, exc_info=error)
    return ProblemResponse(shown, request_id_of(request.scope))


def request_id_of(scope: Scope | MutableMapping[str, Any]) -> str | None:
    """The id that the request-id middleware gave."""
    state: Mapping[str, Any] = scope.get("state") or {}
    return state.get("request_id")


async def refuse_http(scope: Scope, receive: Receive, send: Send, error: MaskstreamError) -> None:
    """Answer from inside a middleware, before any of the body is read."""
    await ProblemResponse(error, request_id_of(scope))(scope, receive, send)


async def refuse_socket(
    scope: Scope, receive: Receive, send: Send, error: MaskstreamError, *, protocol: str | None = None
) -> None:
    """Accept, say why, close: a browser tells a page nothing of a refused handshake."""
    await receive()
    await send({"type": "websocket.accept", "subprotocol": protocol, "headers": []})
    document = {"type": "error", "problem": problem(error, request_id=request_id_of(scope))}
    await send({"type": "websocket.send", "text": json.dumps(document)})
    await send({"type": "websocket.close", "code": error.close_code, "reason": error.title[:120]})
