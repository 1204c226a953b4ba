"""The API as an ASGI app: `create_app(settings)` wires it, its lifespan connects it.

Middleware, outermost first: lingering close, request id and headers, CORS, access, rate limit, body limits. Pure ASGI,
so that streams stay streams.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from service.api import corrections, health, live, pictures, reference_maps, results, sessions, stream
from service.api.export_files import ExportFiles
from service.api.janitor import Janitor
from service.api.mask_pngs import MaskPngs
from service.api.middleware.access import AccessMiddleware
from service.api.middleware.body_limit import BodyLimitMiddleware
from service.api.middleware.linger import LingerMiddleware
from service.api.middleware.rate_limit import RateLimitMiddleware
from service.api.middleware.request_id import RequestIdMiddleware
from service.api.prober import Prober
from service.api.problems import answer_problem
from service.api.services import Services
from service.api.sockets import no_such_socket
from service.api.tailer import Tailer
from service.api.upload_slots import UploadSlots
from service.errors import MaskstreamError
from service.keys import AccessKeys
from service.redis_client import Scripts
from service.settings import Settings
from service.startup import build_services, check_storage, open_storage
from service.storage import Storage

_WEB = Path(__file__).parent / "web"
_DESCRIPTION = """Segment objects through video: upload it with a reference for each object, read the masks.

Two WebSockets, which OpenAPI cannot describe, carry masks while they are made: `/sessions/{session_id}/stream` of an
upload (`?after=` the last `seq` that you have, `&format=rle` or `png`), and `/live`, frames in and masks out.
Errors are problem documents (RFC 9457), whose `detail` says what to do."""
_ANSWERED = (MaskstreamError, RequestValidationError, HTTPException, ClientDisconnect, RedisError, OSError, Exception)
"""Named apart from Exception, whose handler's errors are raised again behind the answer and logged twice."""


def create_app(settings: Settings, storage: Storage | None = None) -> FastAPI:
    """The whole API. `settings.redis_url` must be set: `serve` sets it to its own server's."""
    app = FastAPI(
        title="maskstream",
        version=_version(),
        description=_DESCRIPTION,
        generate_unique_id_function=lambda route: route.name,  # generated clients name their methods by it
        lifespan=_lifespan(settings, storage),
        docs_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
        redoc_url=None,
    )
    for module in (sessions, corrections, reference_maps, results, pictures, stream, live, health):
        app.include_router(module.router)
    app.add_api_websocket_route("/{path:path}", no_such_socket)
    for kind in _ANSWERED:
        app.add_exception_handler(kind, answer_problem)
    if settings.docs:
        app.add_api_route("/docs", _api_page, include_in_schema=False)
    if _WEB.joinpath("index.html").exists():
        app.mount("/", StaticFiles(directory=_WEB, html=True), name="page")
    _add_middleware(app, settings)
    return app


async def _api_page() -> FileResponse:
    """openapi.json for people, by a script of our own: nothing is fetched from elsewhere."""
    return FileResponse(_WEB / "api.html")


def _version() -> str:
    try:
        return version("maskstream")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0"


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    """add_middleware() puts the newest outermost."""
    inner: list[tuple[Callable[..., ASGIApp], dict[str, Any]]] = [
        (BodyLimitMiddleware, {"settings": settings}),
        (RateLimitMiddleware, {"settings": settings}),
        (AccessMiddleware, {"settings": settings}),
    ]
    for layer, options in inner:
        app.add_middleware(layer, **options)
    if settings.cors_origins:  # outside of access: a browser asks without the key first, and refusals are read by pages
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "If-Range", "Range"],
            expose_headers=["Content-Range", "ETag", "Location", "Retry-After", "X-Request-ID"],
        )
    app.add_middleware(RequestIdMiddleware)
    app.add_middleware(LingerMiddleware)


def _lifespan(settings: Settings, storage: Storage | None) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = await _connect(settings, storage or open_storage(settings))
        app.state.services = services
        app.state.sockets = set()
        app.state.pngs = MaskPngs()
        cleaner = Janitor(services.store, services.masks, services.live, services.storage, settings)
        janitor = asyncio.create_task(cleaner.run(), name="janitor")
        try:
            async with services.tailer.running():
                yield
        finally:
            janitor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await janitor
            await services.exports.close()
            await services.prober.close()
            await services.redis.aclose()

    return lifespan


async def _connect(settings: Settings, storage: Storage) -> Services:
    shared = build_services(settings, storage)
    await check_storage(shared)
    access = AccessKeys(shared.redis, shared.keys)
    if settings.api_key is not None:
        await access.adopt(settings.api_key.get_secret_value(), "MASKSTREAM_API_KEY")
    return Services(
        settings=settings,
        redis=shared.redis,
        keys=shared.keys,
        scripts=Scripts(shared.redis, shared.keys),
        access=access,
        store=shared.sessions,
        storage=shared.storage,
        masks=shared.masks,
        live=shared.live,
        prober=Prober(settings),
        tailer=Tailer(shared.masks, shared.sessions, settings.socket_buffer_bytes),
        exports=ExportFiles(shared.storage),
        uploads=UploadSlots(settings.max_concurrent_uploads, settings.retry_after_s),
    )
