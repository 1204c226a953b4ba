"""References that join a session that exists, whichever way they come: read against it, counted, stored."""

from __future__ import annotations

import secrets

import anyio.to_thread
from engines.catalog import CATALOG

from service.api.reference_reader import ReadReferences, References
from service.api.references import Intake, parse
from service.api.services import Services
from service.api.upload import Form
from service.errors import InvalidInput
from service.schemas import SessionRecord


def parse_added(services: Services, record: SessionRecord, form: Form, frame_index: int) -> Intake:
    """The form's references, of which the session has room for some. Raises InvalidInput."""
    room = services.settings.max_references - len(record.references)
    return parse(form, CATALOG[record.spec.engine], mask_frame=frame_index, max_references=room)


async def read_added(services: Services, record: SessionRecord, intake: Intake) -> ReadReferences:
    """Read and checked against the session. Raises UnreadableMask, InvalidInput."""
    video = record.spec.video
    most = min(services.settings.max_objects, CATALOG[record.spec.engine].max_objects)
    read = await read_apart(intake, (video.height, video.width), most)
    objects = {item.object_id for item in (*record.objects, *read.objects)}
    if len(objects) > most:
        raise InvalidInput(f"the session would have {len(objects)} objects; at most {most} are allowed")
    return read


async def read_apart(intake: Intake, size: tuple[int, int], max_objects: int) -> ReadReferences:
    """Read under file names that no other request of the session can have taken."""
    reader = References(intake, size, max_objects=max_objects, first_file=secrets.randbits(48))
    return await anyio.to_thread.run_sync(reader.read)


async def store_files(services: Services, session_id: str, read: ReadReferences) -> None:
    """Write what the references name into the session's storage."""
    for name, data in read.files.items():
        await anyio.to_thread.run_sync(services.storage.write, session_id, name, data)
