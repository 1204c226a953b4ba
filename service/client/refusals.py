"""How a refused or closed WebSocket becomes one of the client's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from websockets.exceptions import ConnectionClosed, InvalidStatus

from service.client import wire
from service.client.errors import ApiError


@contextmanager
def refusals_as_errors() -> Iterator[None]:
    """Raise ApiError for what trying again would not change; what else websockets raises passes through."""
    try:
        yield
    except InvalidStatus as error:
        raise wire.problem_of(error.response.status_code, bytes(error.response.body or b"")) from error
    except ConnectionClosed as error:
        if error.rcvd is not None and 4400 <= error.rcvd.code < 4500:
            raise ApiError({"status": error.rcvd.code - 4000, "title": error.rcvd.reason}) from error
        raise
