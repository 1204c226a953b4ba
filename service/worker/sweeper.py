"""Takes sessions from dead workers, at a jittered pace. Every worker sweeps; the script makes that harmless."""

from __future__ import annotations

import asyncio
import random

import structlog

from service import metrics
from service.last_masks import archive_rest
from service.mask_stream import SequenceGap
from service.queue import Swept
from service.settings import Settings
from service.startup import Services
from service.worker.presence import Presence
from service.worker.retry import until_answered

_log = structlog.get_logger()


async def sweep_for_ever(services: Services, settings: Settings, presence: Presence) -> None:
    """Sweep at every interval. A worker whose lock has gone is dead whatever its lease says."""
    while True:
        await asyncio.sleep(settings.sweep_interval_s * random.uniform(0.7, 1.3))  # noqa: S311 - jitter, not a secret
        try:
            await _sweep_once(services, settings, presence)
        except Exception:  # nobody looks after this task: an error that ended it would end all sweeping
            _log.exception("sweeping failed; the next one tries again")


async def _sweep_once(services: Services, settings: Settings, presence: Presence) -> None:
    for one in await until_answered(lambda: _sweep(services, settings, presence)):
        metrics.SWEPT.labels(one.state).inc()
        _log.warning("worker died", worker=one.worker, session=one.session_id, state=one.state)
        if one.state == "failed":
            await _archive_rest(services, one.session_id)


async def _archive_rest(services: Services, session_id: str) -> None:
    """Masks of a poisoned session outlive Redis; what cannot be stored now, the janitor tries again."""
    try:
        await until_answered(lambda: archive_rest(session_id, services.sessions, services.masks, services.storage))
    except (OSError, SequenceGap) as error:
        _log.warning("the last masks of a failed session cannot be archived", session=session_id, error=str(error))


async def _sweep(services: Services, settings: Settings, presence: Presence) -> list[Swept]:
    for worker in await services.sessions.workers():
        if presence.is_gone(worker.id):
            await services.queue.expire_lease(worker.id)
            presence.forget(worker.id)
    return await services.queue.sweep(max_attempts=settings.max_attempts, ttl_s=settings.session_ttl_s)
