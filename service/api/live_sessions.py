"""From a live client's `open` and first frame to a session, and from later references to requests.

Nothing is stored before the first frame: only it tells the size that references are checked against.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from service.admission import device_bytes
from service.api.acceptance import write_down
from service.api.added_references import parse_added, read_added, read_apart, store_files
from service.api.budgets import require_budget
from service.api.intake import check_fit, check_room, new_folder
from service.api.live_messages import Open, form_of
from service.api.options import Options, read_options
from service.api.reference_reader import ReadReferences
from service.api.references import parse
from service.api.services import Services
from service.errors import InvalidInput
from service.media.reader import check_size, media_limits, scaled_size
from service.plan import first_plan
from service.schemas import LivePolicy, ReferenceRequest, SessionRecord, SessionSpec, VideoInfo

_NOT_LIVE = frozenset(("start_frame", "end_frame"))
_OPTION_FIELDS = frozenset(("engine", "memory", "max_side", "max_objects"))


@dataclass(frozen=True)
class Opening:
    """A checked `open` of a session that its first frame will make."""

    session_id: str
    owner: str
    options: Options
    fields: dict[str, Any]
    name: str | None
    policy: LivePolicy
    window: int | None
    keep_s: float


def read_opening(services: Services, owner: str, session_id: str, message: Open) -> Opening:
    """Everything that can be checked without a frame. Raises InvalidInput, UnknownEngine."""
    fields = message.rest()
    for name in _NOT_LIVE & set(fields):
        raise InvalidInput(f"open: a live session has no {name}", field=name)
    form = form_of(fields, 0)
    options = read_options(form, services.settings)
    parse(form, options.engine, mask_frame=0, max_references=services.settings.max_references)
    most = services.settings.live_keep_s
    keep_s = most if message.keep_s is None else message.keep_s
    if keep_s > most:
        raise InvalidInput(f"keep_s is at most {most:g} on this server", field="keep_s")
    policy: LivePolicy = message.policy or "all"
    return Opening(session_id, owner, options, fields, message.name, policy, message.window, keep_s)


def as_requested(read: ReadReferences) -> ReferenceRequest:
    """References that come with a frame are followed forwards: there is nothing behind it."""
    forward = read.followed("forward").references
    return ReferenceRequest(references=forward, objects=read.objects, warnings=read.warnings)


async def make_session(
    services: Services, opening: Opening, size: tuple[int, int], fields: dict[str, Any]
) -> ReferenceRequest:
    """Write the session down, queued; returns the references of its first frame. fields: what came with that frame.

    Raises what service.errors says of bad references, limits and full disks.
    """
    if fields and opening.fields.keys() - _OPTION_FIELDS:
        raise InvalidInput("the first frame's references stand in `open` or in its `frame` message, not in both")
    check_size(size, media_limits(services.settings))
    await check_room(services, opening.owner)
    form = form_of(opening.fields | fields, 0)
    settings, engine = services.settings, opening.options.engine
    intake = parse(form, engine, mask_frame=0, max_references=settings.max_references)
    read = await read_apart(intake, size, min(settings.max_objects, engine.max_objects))
    require_budget(engine, opening.options.memory, scaled_size(size, opening.options.max_side), len(read.objects))
    record = _record(opening, size, read, intake.warnings, services.settings.session_ttl_s)
    await check_fit(services, record.spec)
    async with new_folder(services.storage, opening.session_id) as (_, keep):
        await store_files(services, record.id, read)
        await write_down(services, record, read, form, None, keep)
    return as_requested(read)


async def read_later(
    services: Services, record: SessionRecord, fields: dict[str, Any], frame_index: int
) -> ReferenceRequest | None:
    """References that came with a later frame, stored; None for none. Raises as make_session() does."""
    if not fields:
        return None
    intake = parse_added(services, record, form_of(fields, frame_index), frame_index)
    if intake.auto is not None:
        raise InvalidInput(f"frame: {', '.join(sorted(fields))[:200]} hold no reference")
    read = await read_added(services, record, intake)
    await store_files(services, record.id, read)
    return as_requested(read)


def check_frame(size: tuple[int, int], expected: tuple[int, int] | None) -> None:
    """All frames of a session are of one size. Raises InvalidInput."""
    if expected is not None and size != expected:
        raise InvalidInput(
            f"this frame is {size[0]}x{size[1]} (height x width), the session's first was {expected[0]}x{expected[1]}; "
            "scale it, or open a new session"
        )


def _record(
    opening: Opening, size: tuple[int, int], read: ReadReferences, warnings: tuple[str, ...], ttl_s: float
) -> SessionRecord:
    """The session as it is queued. Its references are not in it: they come with their frames."""
    options, now = opening.options, time.time()
    spec = SessionSpec(
        engine=options.engine.name,
        video=VideoInfo(name="", height=size[0], width=size[1], container="live"),
        name=opening.name,
        memory=options.memory,
        max_side=options.max_side,
        live=True,
        live_policy=opening.policy,
        live_window=opening.window,
        keep_s=opening.keep_s,
        device_bytes=device_bytes(options.engine, size, len(read.objects), options.memory, options.max_side),
    )
    return SessionRecord(
        id=opening.session_id,
        owner=opening.owner,
        spec=spec,
        objects=read.objects,
        plan=first_plan(0, None),
        warnings=warnings,
        created_at=now,
        expires_at=now + ttl_s,
    )
