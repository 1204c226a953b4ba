"""How the app is run by uvicorn: one process, bounded sockets, an end in bounded time."""

from __future__ import annotations

import math

import uvicorn
from starlette.types import ASGIApp

from service.settings import Settings

_FRAME_BYTES = 64 * 1024
"""Largest WebSocket message that a client may send on a stream."""


def uvicorn_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """Messages are not deflated: PNG and RLE do not shrink, and it costs three times the CPU."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="asyncio",  # uvloop cannot start child processes outside the main thread
        ws="websockets-sansio",
        ws_max_size=_FRAME_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
    )


def run_api(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT: sockets are told 1012, requests end, then the process."""
    from service.api.app import create_app

    uvicorn.Server(uvicorn_config(create_app(settings), settings)).run()
