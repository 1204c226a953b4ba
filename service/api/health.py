"""What the service can do now: engines, liveness, readiness, metrics."""

from __future__ import annotations

import math

import anyio.to_thread
import structlog
from engines.catalog import CATALOG
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.responses import JSONResponse, Response

from service import metrics
from service.api.documents import EngineList, EngineOut
from service.api.options import default_engine
from service.api.services import Services
from service.api.sessions import KEY, ServicesDep, refusals

router = APIRouter(tags=["service"])
_log = structlog.get_logger("maskstream.health")


class Health(BaseModel):
    """The process answers."""

    status: str = "ok"


class Readiness(BaseModel):
    """What a session needs. ready: a new session would be taken and worked on now."""

    ready: bool
    redis: bool
    storage: bool
    workers: int
    engines: tuple[str, ...]


@router.get("/healthz")
async def healthz() -> Health:
    """Liveness: the event loop turns. Says nothing of Redis or workers."""
    return Health()


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
async def readyz(services: ServicesDep) -> JSONResponse:
    """Readiness: Redis answers, the storage has room, and a worker with a live lease is there."""
    redis, workers = True, []
    try:
        workers = await services.store.workers()
    except (RedisError, OSError) as error:
        _log.warning("redis does not answer", error=str(error))
        redis = False
    storage = await has_room(services)
    engines = tuple(sorted({name for worker in workers for name in worker.engines}))
    document = Readiness(
        ready=redis and storage and bool(workers), redis=redis, storage=storage, workers=len(workers), engines=engines
    )
    return JSONResponse(document.model_dump(mode="json"), 200 if document.ready else 503)


async def has_room(services: Services) -> bool:
    """Whether the storage answers and may take more."""
    try:
        free = await anyio.to_thread.run_sync(services.storage.free_bytes)
    except OSError as error:
        _log.warning("storage does not answer", error=str(error))
        return False
    return free >= services.settings.min_free_bytes


@router.get("/engines", responses=refusals(), dependencies=[KEY])
async def list_engines(services: ServicesDep) -> EngineList:
    """All engines, and which are served now."""
    served = {name for worker in await services.store.workers() for name in worker.engines}
    chosen = default_engine(services.settings)
    found = []
    for info in CATALOG.values():
        found.append(
            EngineOut(
                name=info.name,
                family=info.family,
                summary=info.summary,
                reference_kinds=info.reference_kinds,
                max_objects=min(info.max_objects, services.settings.max_objects),
                starter=info.starter,
                weights_licence=info.weights_licence,
                vocabulary=info.vocabulary,
                default=info.name == chosen,
                ready=info.name in served,
                queue_length=await services.store.queue_length(info.name),
            )
        )
    return EngineList(engines=tuple(found))


@router.get(
    "/metrics",
    dependencies=[KEY],
    response_class=Response,
    responses={**refusals(), 200: {"description": "Prometheus text", "content": {"text/plain": {}}}},
)
async def get_metrics(services: ServicesDep) -> Response:
    """Metrics of this process, and gauges of the queue and the workers; NaN where those cannot be asked."""
    try:
        await _look_at_redis(services)
    except (RedisError, OSError):
        for gauge in (metrics.WORKERS, metrics.WORKER_SESSIONS, *(metrics.QUEUED.labels(name) for name in CATALOG)):
            gauge.set(math.nan)
    try:
        metrics.STORAGE_FREE_BYTES.set(await anyio.to_thread.run_sync(services.storage.free_bytes))
    except OSError:
        metrics.STORAGE_FREE_BYTES.set(math.nan)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _look_at_redis(services: Services) -> None:
    workers = await services.store.workers()
    metrics.WORKERS.set(len(workers))
    metrics.WORKER_SESSIONS.set(sum(worker.sessions for worker in workers))
    for name in CATALOG:
        metrics.QUEUED.labels(name).set(await services.store.queue_length(name))
