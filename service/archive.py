"""Archive files: the masks of a session as lines of JSON, immutable, counted only once the hash names them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from service.schemas import ArchiveRecord, MaskEvent
from service.storage import Storage, archive_name


def write_archive(storage: Storage, session_id: str, epoch: int, events: Sequence[MaskEvent]) -> ArchiveRecord:
    """Write consecutive masks as one file; the caller commits the record under the same epoch. Raises SessionGone."""
    first, last = events[0].seq, events[-1].seq
    name = archive_name(epoch, first, last)
    storage.write(session_id, name, b"".join(event.model_dump_json().encode() + b"\n" for event in events))
    return ArchiveRecord(name=name, first=first, last=last, at=time.time())


def read_archive(storage: Storage, session_id: str, record: ArchiveRecord) -> list[bytes]:
    """The lines of one committed file, one mask each, from record.first to record.last. Raises FileNotFoundError."""
    return storage.read(session_id, record.name).splitlines()
