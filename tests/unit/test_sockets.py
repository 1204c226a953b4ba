"""Sockets whose clients do not stay."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fastapi import WebSocket
from starlette.types import Message

from service.api.sockets import run_socket


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_client_that_goes_before_the_handshake_is_over_is_no_error() -> None:
    state = SimpleNamespace(services=SimpleNamespace(), sockets=set())
    scope = {"type": "websocket", "app": SimpleNamespace(state=state), "state": {}, "headers": [], "path": "/"}

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        raise OSError("the connection is closed")

    async def serve() -> None:
        raise AssertionError("there is nobody to serve")

    await run_socket(WebSocket(scope, receive, send), serve)
    assert state.sockets == set()
