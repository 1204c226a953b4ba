"""References that join a session that exists, whichever way they come: read against it, counted, stored."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from engines.catalog import CATALOG

from service.api.reference_reader import ReadReferences, References
from service.api.references import Intake, parse, require_few_points
from service.api.services import Services
from service.api.upload import Form
from service.errors import InvalidInput, MaskstreamError
from service.schemas import ReferenceRequest, SessionRecord


def as_planned(record: SessionRecord, waiting: Iterable[ReferenceRequest]) -> SessionRecord:
    """The session as it will be, with the requests taken in that still wait for that."""
    references, objects = list(record.references), {item.object_id: item for item in record.objects}
    for request in waiting:
        references += request.references
        objects |= {item.object_id: item for item in request.objects}
        objects = {i: item for i, item in objects.items() if i not in request.drop_object_ids}
    return record.model_copy(update={"references": tuple(references), "objects": tuple(objects.values())})


def parse_added(services: Services, record: SessionRecord, form: Form, frame_index: int) -> Intake:
    """The form's references, of which the session has room for some. Raises InvalidInput."""
    room = services.settings.max_references - len(record.references)
    return parse(form, CATALOG[record.spec.engine], mask_frame=frame_index, max_references=room)


async def read_added(services: Services, record: SessionRecord, intake: Intake) -> ReadReferences:
    """Read and checked against the session. Raises UnreadableMask, InvalidInput."""
    video = record.spec.video
    read = await read_apart(intake, (video.height, video.width), _most_objects(services, record))
    require_room(services, record, read)
    return read


def require_room(services: Services, record: SessionRecord, read: ReadReferences) -> None:
    """Raises InvalidInput when the session would have more objects or references than are allowed."""
    objects, most = {item.object_id for item in (*record.objects, *read.objects)}, _most_objects(services, record)
    if len(objects) > most:
        raise InvalidInput(f"the session would have {len(objects)} objects; at most {most} are allowed")
    require_few_points(sum(len(each.points) for each in (*record.references, *read.references)))
    references, most = len(record.references) + len(read.references), services.settings.max_references
    if references > most:
        raise InvalidInput(f"the session would have {references} references; at most {most} are taken")


def _most_objects(services: Services, record: SessionRecord) -> int:
    return min(services.settings.max_objects, CATALOG[record.spec.engine].max_objects)


async def read_apart(intake: Intake, size: tuple[int, int], max_objects: int) -> ReadReferences:
    """Read under file names that no other request of the session can have taken."""
    reader = References(intake, size, max_objects=max_objects, first_file=secrets.randbits(48))
    return await anyio.to_thread.run_sync(reader.read)


async def store_files(services: Services, session_id: str, read: ReadReferences) -> None:
    """Write what the references name into the session's storage."""
    for name, data in read.files.items():
        await anyio.to_thread.run_sync(services.storage.write, session_id, name, data)


@asynccontextmanager
async def stored_files(services: Services, session_id: str, read: ReadReferences) -> AsyncIterator[None]:
    """store_files(), taken back when the block refuses the references or they cannot be written whole.

    Not when Redis falls silent inside: it may have taken them.
    """
    try:
        await store_files(services, session_id, read)
        yield
    except (MaskstreamError, OSError):
        with anyio.CancelScope(shield=True):
            for name in read.files:
                await anyio.to_thread.run_sync(services.storage.remove, session_id, name)
        raise
