"""Sessions that Redis has lost (a flush, an older backup) but storage still holds: put back from session.json.

One that had ended is whole again. One that was under way has failed, cleanly: what stands in archive files stays
readable, and nothing is deleted before the session's own expiry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from service.schemas import ArchiveRecord, Problem, SessionRecord, SessionState
from service.session_file import SessionFile
from service.storage import StoredFile

_ARCHIVE_FILE = re.compile(r"archive/(\d+)-(\d+)-(\d+)\.jsonl")
LOST = Problem(
    code="queue-lost",
    detail="Redis lost this session while it was under way. The masks made so far are kept; upload the video again for "
    "the rest",
)


def recovered(file: SessionFile, stored: Iterable[StoredFile], now: float) -> SessionFile:
    """The session as it can be put back. stored: the files in its folder; now: seconds since 1970."""
    if file.session.state.final:
        return file
    archives = chain(stored)
    count = archives[-1].last + 1 if archives else 0
    changes = {
        "state": SessionState.FAILED,
        "error": LOST,
        "worker": "",
        "snapshot": None,
        "next_seq": count,
        "archived_seq": count,
        "finished_at": now,
    }
    session = SessionRecord.model_validate(file.session.model_dump() | changes)
    return SessionFile(session=session, archives=archives)


def chain(stored: Iterable[StoredFile]) -> tuple[ArchiveRecord, ...]:
    """Archive files that follow each other from seq 0 without a gap; of those that start alike, the latest epoch's."""
    starts: dict[int, tuple[int, ArchiveRecord]] = {}
    for file in stored:
        match = _ARCHIVE_FILE.fullmatch(file.name)
        if match is None:
            continue
        epoch, first, last = (int(part) for part in match.groups())
        if first not in starts or epoch > starts[first][0]:
            starts[first] = (epoch, ArchiveRecord(name=file.name, first=first, last=last))
    found: list[ArchiveRecord] = []
    while (following := starts.get(found[-1].last + 1 if found else 0)) is not None:
        found.append(following[1])
    return tuple(found)
