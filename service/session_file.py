"""session.json: what a session's folder says of itself, so that files and their expiry outlive Redis."""

from __future__ import annotations

from service.schemas import ArchiveRecord, Record, SessionRecord
from service.storage import SESSION_FILE, Storage


class SessionFile(Record):
    """The record as it was when the session was made or ended, and its archive files."""

    session: SessionRecord
    archives: tuple[ArchiveRecord, ...] = ()


def write_session_file(storage: Storage, session: SessionRecord, archives: tuple[ArchiveRecord, ...] = ()) -> None:
    """Write session.json whole. Raises SessionGone."""
    content = SessionFile(session=session, archives=archives)
    storage.write(session.id, SESSION_FILE, content.model_dump_json(indent=1).encode())


def read_session_file(storage: Storage, session_id: str) -> SessionFile | None:
    """session.json, or None where there is none."""
    try:
        return SessionFile.model_validate_json(storage.read(session_id, SESSION_FILE))
    except FileNotFoundError:
        return None
