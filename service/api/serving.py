"""How the app is run by uvicorn: one process, bounded sockets, an end in bounded time."""

from __future__ import annotations

import asyncio
import math
import socket

import uvicorn
from starlette.types import ASGIApp

from service.api.http_protocol import protocol
from service.api.socket_protocol import PatientProtocol
from service.errors import Unavailable
from service.settings import Settings
from service.startup import build_services, check_storage, open_storage
from service.storage import Storage

_STALLS = 10
"""Stall limits after which the kernel ends a connection: a paused player may take up its download again."""


def uvicorn_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """Messages are not deflated: PNG and RLE do not shrink, and it costs three times the CPU."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol(settings.upload_idle_timeout_s),
        loop="asyncio",  # uvloop cannot start child processes outside the main thread
        ws=PatientProtocol,
        ws_max_size=settings.max_live_frame_bytes,
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


def listen(settings: Settings) -> socket.socket:
    """The listening socket. Raises Unavailable when the address cannot be had.

    Accepted connections inherit the send buffer: left to itself the kernel would hold megabytes for a stalled reader.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.socket_send_buffer_bytes)
    _give_up_on_the_silent(listening, _STALLS * settings.socket_stall_s)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise Unavailable(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}") from error
    return listening


def _give_up_on_the_silent(listening: socket.socket, seconds: float) -> None:
    """Let the kernel end connections whose other end is gone, or takes nothing, for so long.

    Closing would not: what was sent must be taken first, and whoever takes nothing would hold the connection for ever.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(seconds * 1000)))


def run_api(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT: sockets are told 1012, requests end, then the process. Raises Unavailable."""
    from service.api.app import create_app

    storage = open_storage(settings)
    asyncio.run(_check(settings, storage))
    with listen(settings) as listening:
        uvicorn.Server(uvicorn_config(create_app(settings, storage), settings)).run(sockets=[listening])


async def _check(settings: Settings, storage: Storage) -> None:
    """Find out what stands in the way before the server starts, where it would be a stack trace."""
    services = build_services(settings, storage)
    try:
        await check_storage(services)
    finally:
        await services.redis.aclose()
