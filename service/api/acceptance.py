"""The last step of every new session: session.json, then record and job in one script. Whoever asks gets an answer.

Knows neither forms nor videos; a refusal here leaves the files to the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import anyio.to_thread
from redis.exceptions import RedisError

from service.api.reference_reader import ReadReferences
from service.api.services import Services
from service.api.upload import Form
from service.errors import Conflict, TooManyRequests
from service.metrics import SESSIONS_ACCEPTED, UPLOAD_BYTES
from service.schemas import SessionRecord
from service.session_file import write_session_file
from service.sessions import CreateResult, Idempotency, Limits
from service.settings import Settings


@dataclass(frozen=True)
class Accepted:
    """A session that exists. known: an earlier request with the same Idempotency-Key had made it.

    warnings: what holds at this moment alone.
    """

    record: SessionRecord
    notes: tuple[str, ...]
    known: bool = False
    warnings: tuple[str, ...] = ()


async def write_down(
    services: Services,
    record: SessionRecord,
    read: ReadReferences,
    form: Form,
    idempotency_key: str | None,
    keep: Callable[[], None],
) -> Accepted:
    """session.json, then record and job in one script. keep: called as soon as the session exists."""
    await anyio.to_thread.run_sync(write_session_file, services.storage, record)
    settings = services.settings
    limits = Limits(settings.max_queue_length, settings.max_sessions_per_key, settings.idempotency_ttl_s)
    idempotency = Idempotency(idempotency_key, form.digest) if idempotency_key else None
    made = await _create(services, record, limits, idempotency, keep)
    if made.status == "queue_full":
        raise TooManyRequests(
            f"{made.count} sessions wait already; try again later", retry_after_s=settings.retry_after_s
        )
    if made.status == "too_many":
        raise too_many(settings, made.count)
    if made.status == "conflict":
        raise Conflict("this Idempotency-Key was used for another upload; use a new key for a new session")
    if made.status == "known":
        known = await services.store.get(made.session_id)
        if known is None:
            raise Conflict("the session that this Idempotency-Key made was deleted; use a new key")
        return Accepted(known, (), known=True)
    SESSIONS_ACCEPTED.labels(record.spec.engine).inc()
    UPLOAD_BYTES.inc(form.video_bytes or 0)
    with contextlib.suppress(RedisError):
        record = await services.store.get(record.id) or record
    return Accepted(record, read.notes)


async def _create(
    services: Services, record: SessionRecord, limits: Limits, idempotency: Idempotency | None, keep: Callable[[], None]
) -> CreateResult:
    """Once asked for, the answer decides whether the files stay, even if nobody waits for it any more."""

    async def create() -> CreateResult:
        made = await services.store.create(record, limits, idempotency)
        if made.status == "ok":
            keep()
        return made

    creating = asyncio.create_task(create())
    try:
        return await asyncio.shield(creating)
    except asyncio.CancelledError:
        await creating
        raise


def too_many(settings: Settings, count: int) -> TooManyRequests:
    """The refusal of one session more than a key may have unfinished."""
    return TooManyRequests(
        f"{count} of your sessions are unfinished, the most allowed; wait for one or cancel one",
        retry_after_s=settings.retry_after_s,
    )
