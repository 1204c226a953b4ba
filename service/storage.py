"""Where videos, references, snapshots and archives lie. Knows names and bytes, neither Redis nor their meaning.

A session is a folder:
    session.json                                     the SessionRecord when it was made, and again when it ended
    input/                                           the upload and its references, as the API wrote them
    snapshots/<epoch>-<seq>.safetensors              immutable; counts only when the session's hash names it
    archive/<epoch>-<first>-<last>.jsonl             immutable, likewise
    exports/                                         files made from the archive, free to be deleted
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

SESSION_FILE = "session.json"
INPUT = "input"
SNAPSHOTS = "snapshots"
ARCHIVE = "archive"
EXPORTS = "exports"


def snapshot_name(epoch: int, seq: int) -> str:
    """Name of the snapshot that epoch took before seq."""
    return f"{SNAPSHOTS}/{epoch}-{seq}.safetensors"


def archive_name(epoch: int, first: int, last: int) -> str:
    """Name of the archive file in which epoch wrote the masks first..last."""
    return f"{ARCHIVE}/{epoch}-{first}-{last}.jsonl"


class SessionGone(FileNotFoundError):
    """The session's folder does not exist: deleted, or never made."""


class StorageUnavailable(OSError):
    """The place for files does not answer, or refuses us."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a session: its name relative to the folder, bytes, and time of last change (seconds since 1970)."""

    name: str
    size_bytes: int
    modified_at: float


class FileWriter(Protocol):
    """A file under way. It appears under its name, whole, on commit(); until then nobody sees it."""

    def write(self, data: bytes) -> None:
        """Append bytes. Raises OSError (ENOSPC) when the disk is full."""
        ...

    def written(self) -> BinaryIO:
        """What was written so far, opened to be read along; it goes on being readable after commit()."""
        ...

    def commit(self) -> None:
        """Make the bytes durable and the name visible."""
        ...

    def abort(self) -> None:
        """Drop what was written; harmless after commit()."""
        ...


class Storage(Protocol):
    """What the service asks of a place for files. All calls block; async callers use a thread."""

    @property
    def storage_id(self) -> str:
        """Random name of this place; processes that see different ones must not share a Redis."""
        ...

    @property
    def is_here(self) -> bool:
        """Whether the files lie on a disk of this machine, so that local() has nothing to fetch."""
        ...

    def create(self, session_id: str) -> None:
        """Make room for a new session. Raises FileExistsError."""
        ...

    def writer(self, session_id: str, name: str) -> FileWriter:
        """Open a new file. Raises SessionGone."""
        ...

    def write(self, session_id: str, name: str, data: bytes) -> None:
        """Write a whole file, atomically and durably. Raises SessionGone."""
        ...

    def read(self, session_id: str, name: str) -> bytes:
        """A whole file. Raises FileNotFoundError."""
        ...

    def stat(self, session_id: str, name: str) -> StoredFile:
        """Size and time of one file. Raises FileNotFoundError."""
        ...

    def chunks(self, session_id: str, name: str, start: int, end: int) -> Iterator[bytes]:
        """Bytes start..end (exclusive) of a file, piece by piece. Raises FileNotFoundError, ValueError if it shrank."""
        ...

    def local(self, session_id: str, name: str) -> AbstractContextManager[Path]:
        """A path on this machine with the file's content, good for as long as the block lasts.

        For programs that only read paths. Fetching may take as long as the file is large. Raises FileNotFoundError.
        """
        ...

    def list(self, session_id: str) -> list[StoredFile]:
        """All files of a session; none when there is no such session."""
        ...

    def sessions(self) -> Iterator[str]:
        """Ids of all sessions that have a folder."""
        ...

    def remove(self, session_id: str, name: str) -> None:
        """Delete one file; no error when it is gone already."""
        ...

    def delete(self, session_id: str) -> None:
        """Delete a session with all its files; writers that are late get SessionGone. No error when it is gone."""
        ...

    def free_bytes(self) -> int:
        """Bytes that can still be written."""
        ...


def checked_name(name: str) -> str:
    """The name itself. Raises ValueError for one that could lead out of a session."""
    if not name or name.startswith("/") or ".." in Path(name).parts:
        raise ValueError(f"{name!r} is not a name inside a session")
    return name
