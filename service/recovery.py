"""Sessions that Redis has lost (a flush, an older backup) but storage still holds: put back from session.json.

One that had ended is whole again. One that was under way has failed, cleanly: what stands in archive files stays
readable, and nothing is deleted before the session's own expiry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from service.schemas import ArchiveRecord, Problem, SessionRecord, SessionState
from service.session_file import SessionFile
from service.storage import StoredFile

_FORGOTTEN_EPOCHS = 1000
"""More than Redis can have given since session.json was written: whoever holds one of them holds nothing any more."""
_ARCHIVE_FILE = re.compile(r"archive/(\d+)-(\d+)-(\d+)\.jsonl")


def recovered(file: SessionFile, stored: Iterable[StoredFile], now: float) -> SessionFile:
    """The session as it can be put back. stored: the files in its folder; now: seconds since 1970."""
    epoch = file.session.epoch + _FORGOTTEN_EPOCHS
    if file.session.state.final:
        return file.model_copy(update={"session": file.session.model_copy(update={"epoch": epoch})})
    live = file.session.spec.live
    archives = newest_chain(stored) if live else chain(stored)
    kept_from = archives[0].first if archives else 0
    next_seq = archives[-1].last + 1 if archives else 0
    changes = {
        "state": SessionState.FAILED,
        "error": _lost(next_seq - kept_from, live),
        "worker": "",
        "epoch": epoch,
        "snapshot": None,
        "next_seq": next_seq,
        "archived_seq": next_seq,
        "kept_from_seq": kept_from,
        "finished_at": now,
    }
    session = SessionRecord.model_validate(file.session.model_dump() | changes)
    return SessionFile(session=session, archives=archives)


def _lost(masks: int, live: bool) -> Problem:
    """What the client is told."""
    kept = (
        "The one mask that had been stored is kept"
        if masks == 1
        else f"The {masks} masks that had been stored are kept"
    )
    kept = kept if masks else "No mask had been stored yet"
    again = "open a new live session to go on" if live else "upload the video again for the rest"
    return Problem(code="queue-lost", detail=f"Redis lost this session while it was under way. {kept}; {again}")


def chain(stored: Iterable[StoredFile]) -> tuple[ArchiveRecord, ...]:
    """Archive files that follow each other from seq 0 without a gap; of those that start alike, the latest epoch's."""
    return _chain_from(0, _by_start(stored))


def newest_chain(stored: Iterable[StoredFile]) -> tuple[ArchiveRecord, ...]:
    """The same from wherever it begins: a live session's oldest files are deleted as it goes on."""
    starts = _by_start(stored)
    chains = (_chain_from(first, starts) for first in starts)
    return max(chains, key=lambda found: (found[-1].last, len(found)), default=())


def _chain_from(first: int, starts: Mapping[int, ArchiveRecord]) -> tuple[ArchiveRecord, ...]:
    found: list[ArchiveRecord] = []
    while (following := starts.get(found[-1].last + 1 if found else first)) is not None:
        found.append(following)
    return tuple(found)


def _by_start(stored: Iterable[StoredFile]) -> dict[int, ArchiveRecord]:
    """Archive files by their first seq."""
    starts: dict[int, tuple[int, ArchiveRecord]] = {}
    for file in stored:
        match = _ARCHIVE_FILE.fullmatch(file.name)
        if match is None:
            continue
        epoch, first, last = (int(part) for part in match.groups())
        if first not in starts or epoch > starts[first][0]:
            record = ArchiveRecord(name=file.name, first=first, last=last, at=file.modified_at)
            starts[first] = (epoch, record)
    return {first: record for first, (_, record) in starts.items()}
