"""From a form to a session: probe the video, read the references, check them against the engine, write it all down.

Whatever goes wrong, nothing is left in storage. The order: files first, then one script that makes record and job.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
from redis.exceptions import RedisError

from service.admission import device_bytes
from service.api.acceptance import Accepted, too_many, write_down
from service.api.added_references import store_files
from service.api.budgets import require_budget
from service.api.options import Options, read_options
from service.api.reference_reader import ReadReferences, References
from service.api.references import Intake, parse
from service.api.services import Services
from service.api.upload import Form, FormReader
from service.errors import (
    DoesNotFit,
    InvalidInput,
    StorageFull,
    UnreadableVideo,
)
from service.media.reader import VideoInfo as ProbedVideo
from service.media.reader import scaled_size
from service.plan import Plan, first_plan
from service.redis_keys import new_session_id
from service.schemas import Reference, SessionRecord, SessionSpec, VideoInfo
from service.settings import MIB
from service.storage import INPUT, Storage

VIDEO_FILE = f"{INPUT}/video"


async def accept_upload(
    services: Services, owner: str, content_type: str, chunks: AsyncIterator[bytes], idempotency_key: str | None
) -> Accepted:
    """Take one upload. Raises what service.errors says of bad input, limits and full disks."""
    await check_room(services, owner)
    async with new_folder(services.storage) as (session_id, keep):
        writer = await anyio.to_thread.run_sync(services.storage.writer, session_id, VIDEO_FILE)
        try:
            form = await FormReader(content_type, services.settings, writer).read(chunks)
            options = read_options(form, services.settings)
            intake = parse(
                form,
                options.engine,
                mask_frame=options.start_frame,
                max_references=services.settings.max_references,
            )
            if form.video_bytes is None:
                raise UnreadableVideo("no video was sent: add a `video` part (curl -F video=@clip.mp4)")
            if form.video_bytes == 0:
                raise UnreadableVideo("the file is empty: it has 0 bytes")
            await anyio.to_thread.run_sync(writer.commit)
        finally:
            await anyio.to_thread.run_sync(writer.abort)
        draft = await _draft(services, session_id, owner, form, options, intake)
        result = await write_down(services, *draft, form, idempotency_key, keep)
    if not result.known:
        result = replace(result, warnings=await unserved(services, result.record.spec.engine))
    return result


async def unserved(services: Services, engine: str) -> tuple[str, ...]:
    """A warning for the client whose session nobody can work on yet."""
    try:
        served = sorted({name for worker in await services.store.workers() for name in worker.engines})
    except RedisError:
        return ()  # the session is accepted; this was courtesy
    if engine in served:
        return ()
    others = f"served now: {', '.join(served)}" if served else "no worker is connected at all"
    return (f"no worker serves {engine} at the moment, and the session waits for one; {others}",)


@asynccontextmanager
async def new_folder(storage: Storage, session_id: str | None = None) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """A session's folder that disappears again, by whatever way the block is left, unless it is kept."""
    session_id, kept = session_id or new_session_id(), False

    def keep() -> None:
        nonlocal kept
        kept = True

    await anyio.to_thread.run_sync(storage.create, session_id)
    try:
        yield session_id, keep
    finally:
        if not kept:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(storage.delete, session_id)


@asynccontextmanager
async def _in_threads(manager: AbstractContextManager[Path]) -> AsyncIterator[Path]:
    """A blocking context manager, entered and left in threads."""
    value = await anyio.to_thread.run_sync(manager.__enter__)
    try:
        yield value
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(manager.__exit__, None, None, None)


async def check_room(services: Services, owner: str) -> None:
    """Refuse before gigabytes are sent; create() checks again when it counts."""
    settings = services.settings
    await require_disk(services)
    active = int(await services.redis.scard(services.keys.owner_active(owner)))
    if active >= settings.max_sessions_per_key:
        raise too_many(settings, active)


async def require_disk(services: Services) -> None:
    """Raises StorageFull."""
    free = await anyio.to_thread.run_sync(services.storage.free_bytes)
    if free < services.settings.min_free_bytes:
        raise StorageFull("the server's disk is nearly full; delete sessions or try again later", retry_after_s=60)


async def _draft(
    services: Services, session_id: str, owner: str, form: Form, options: Options, intake: Intake
) -> tuple[SessionRecord, ReadReferences]:
    """Probe the video, read the references against it, write their files."""
    async with _in_threads(services.storage.local(session_id, VIDEO_FILE)) as path:
        video = await _probe(services, path, form)
    _check_range(options, intake, video)
    most = min(services.settings.max_objects, options.engine.max_objects)
    reader = References(intake, (video.height, video.width), max_objects=most)
    read = await anyio.to_thread.run_sync(reader.read)
    seen = scaled_size((video.height, video.width), options.max_side)
    require_budget(options.engine, options.memory, seen, len(read.objects))
    await store_files(services, session_id, read)
    now = time.time()
    spec = SessionSpec(
        engine=options.engine.name,
        video=_stored(video, form),
        name=form.video_filename or None,
        memory=options.memory,
        max_side=options.max_side,
        start_frame=options.start_frame,
        end_frame=options.end_frame,
        probability=options.probability,
        device_bytes=device_bytes(
            options.engine, (video.height, video.width), len(read.objects), options.memory, options.max_side
        ),
    )
    await check_fit(services, spec)
    record = SessionRecord(
        id=session_id,
        owner=owner,
        spec=spec,
        references=read.references,
        objects=read.objects,
        plan=plan_of(read.references, options),
        warnings=intake.warnings,
        created_at=now,
        expires_at=now + services.settings.session_ttl_s,
    )
    return record, read


async def check_fit(services: Services, spec: SessionSpec) -> None:
    """Refuse what no worker of this engine could ever hold. With no worker up yet, the session waits for one.

    Raises DoesNotFit.
    """
    capacities = [w.capacity_bytes for w in await services.store.workers() if spec.engine in w.engines]
    if capacities and spec.device_bytes > max(capacities):
        raise DoesNotFit(
            f"the session takes up to {spec.device_bytes // MIB} MiB of device memory, the largest worker has "
            f"{max(capacities) // MIB} MiB: give a smaller `max_side`, fewer objects, or `memory` with a `budget_mib`"
        )


def plan_of(references: Sequence[Reference], options: Options) -> Plan:
    """Forwards from the earliest reference, and before that backwards from it where it is followed that way."""
    earliest = min((each.frame_index for each in references), default=options.start_frame)
    back = any(each.frame_index == earliest and each.direction in ("backward", "both") for each in references)
    return first_plan(options.start_frame, options.end_frame, back_from=earliest if back else None)


async def _probe(services: Services, path: Path, form: Form) -> ProbedVideo:
    try:
        return await services.prober.probe(path)
    except UnreadableVideo as error:
        if form.video_filename is None and (form.video_bytes or 0) < 4096:
            raise UnreadableVideo(f"{error.detail}. Was the @ forgotten? curl -F video=@clip.mp4") from error
        raise


def _check_range(options: Options, intake: Intake, video: ProbedVideo) -> None:
    """References and the range to segment must lie inside the video."""
    if options.start_frame >= video.frames:
        raise InvalidInput(f"start_frame {options.start_frame} lies beyond the video's {video.frames} frames")
    end = min(options.end_frame or video.frames, video.frames)
    for entry in intake.entries:
        if not options.start_frame <= entry.frame_index < end:
            raise InvalidInput(
                f"references: object {entry.object_id} is given at frame {entry.frame_index}, outside the frames "
                f"{options.start_frame} to {end - 1} that are segmented"
            )


def _stored(video: ProbedVideo, form: Form) -> VideoInfo:
    return VideoInfo(
        name=VIDEO_FILE,
        height=video.height,
        width=video.width,
        frames=video.frames,
        fps=video.fps,
        duration_s=video.duration_s,
        container=video.container,
        codec=video.codec,
        size_bytes=form.video_bytes or 0,
    )
