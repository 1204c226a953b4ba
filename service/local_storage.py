"""Storage in a folder of a local or shared disk: see service.storage.Storage for what each call promises."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

from service.redis_keys import is_session_id
from service.storage import SessionGone, StoredFile, checked_name

_CHUNK_BYTES = 256 * 1024


class LocalWriter:
    """A FileWriter on a local disk: a hidden sibling, renamed on commit."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        self._file: BinaryIO | None = self._partial.open("xb")

    def write(self, data: bytes) -> None:
        """Append bytes."""
        if self._file is None:
            raise ValueError(f"{self._target.name} is closed")
        self._file.write(data)
        self._file.flush()

    def written(self) -> BinaryIO:
        """The hidden sibling, or the file itself when commit() was quicker."""
        try:
            return self._partial.open("rb")
        except FileNotFoundError:
            return self._target.open("rb")

    def commit(self) -> None:
        """Flush to disk, then rename; also syncs the folder, so that the name survives a power cut."""
        if self._file is None:
            raise ValueError(f"{self._target.name} is closed")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self._partial.replace(self._target)
        _sync_folder(self._target.parent)

    def abort(self) -> None:
        """Drop the hidden sibling."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # what found no room is still in its buffer, and finds none now
                file.close()
        self._partial.unlink(missing_ok=True)


class LocalStorage:
    """Storage in a folder of a local or shared disk."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._sessions = self._root / "sessions"
        self._trash = self._root / "trash"
        for folder in (self._sessions, self._trash):
            folder.mkdir(parents=True, exist_ok=True)
        self._storage_id = _read_or_make_id(self._root / "storage_id")

    @property
    def root(self) -> Path:
        """The folder."""
        return self._root

    @property
    def storage_id(self) -> str:
        """Random name of this folder, kept in its file `storage_id`."""
        return self._storage_id

    @property
    def is_here(self) -> bool:
        """Yes."""
        return True

    def create(self, session_id: str) -> None:
        """Make the session's folder."""
        self._folder(session_id).mkdir()

    def writer(self, session_id: str, name: str) -> LocalWriter:
        """Open a new file in an existing session."""
        target = self._file(session_id, name)
        try:
            _make_below(self._folder(session_id), target.parent)
            return LocalWriter(target)
        except FileNotFoundError as error:
            raise SessionGone(f"session {session_id} has no folder any more") from error

    def write(self, session_id: str, name: str, data: bytes) -> None:
        """Write a whole file."""
        writer = self.writer(session_id, name)
        try:
            writer.write(data)
            writer.commit()
        except FileNotFoundError as error:
            raise SessionGone(f"session {session_id} has no folder any more") from error
        finally:
            writer.abort()

    def read(self, session_id: str, name: str) -> bytes:
        """Read a whole file."""
        return self._file(session_id, name).read_bytes()

    def stat(self, session_id: str, name: str) -> StoredFile:
        """Size and time of one file."""
        facts = self._file(session_id, name).stat()
        return StoredFile(name, facts.st_size, facts.st_mtime)

    def chunks(self, session_id: str, name: str, start: int, end: int) -> Iterator[bytes]:
        """Bytes start..end (exclusive); once begun, they come even when the file is deleted."""
        with self._file(session_id, name).open("rb") as file:
            file.seek(start)
            while start < end:
                data = file.read(min(_CHUNK_BYTES, end - start))
                if not data:
                    raise ValueError(f"{name!r} ends at {start}, before byte {end}")
                start += len(data)
                yield data

    def local(self, session_id: str, name: str) -> AbstractContextManager[Path]:
        """The file itself."""
        path = self._file(session_id, name)
        if not path.exists():
            raise FileNotFoundError(f"session {session_id} has no file {name!r}")
        return nullcontext(path)

    def list(self, session_id: str) -> list[StoredFile]:
        """All files, unfinished ones included, by name."""
        folder = self._folder(session_id)
        found = []
        for parent, _, names in os.walk(folder):
            for path in (Path(parent, name) for name in names):
                with suppress(FileNotFoundError):  # renamed or removed since
                    facts = path.stat()
                    found.append(StoredFile(path.relative_to(folder).as_posix(), facts.st_size, facts.st_mtime))
        return sorted(found, key=lambda file: file.name)

    def sessions(self) -> Iterator[str]:
        """Ids of all session folders."""
        return (entry.name for entry in self._sessions.iterdir() if is_session_id(entry.name))

    def remove(self, session_id: str, name: str) -> None:
        """Delete one file."""
        self._file(session_id, name).unlink(missing_ok=True)

    def delete(self, session_id: str) -> None:
        """Rename the folder away first, so that nobody can write into it, then delete it."""
        doomed = self._trash / f"{session_id}.{secrets.token_hex(4)}"
        try:
            self._folder(session_id).rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed, ignore_errors=True)  # a janitor that empties the trash may be quicker

    def empty_trash(self) -> None:
        """Finish deletions that a crash or an error cut short."""
        for doomed in self._trash.iterdir():
            shutil.rmtree(doomed, ignore_errors=True)

    def free_bytes(self) -> int:
        """Free bytes of the disk."""
        return shutil.disk_usage(self._root).free

    def _folder(self, session_id: str) -> Path:
        if not is_session_id(session_id):
            raise ValueError(f"{session_id!r} is not a session id")
        return self._sessions / session_id

    def _file(self, session_id: str, name: str) -> Path:
        folder = self._folder(session_id)
        path = folder / checked_name(name)
        if not path.resolve().is_relative_to(folder):
            raise ValueError(f"{name!r} is not a name inside a session")
        return path


def _make_below(folder: Path, below: Path) -> None:
    """Make `below` and its parents down from `folder`, but never `folder` itself."""
    missing = [part for part in (below, *below.parents) if part.is_relative_to(folder) and part != folder]
    for part in reversed(missing):
        part.mkdir(exist_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_or_make_id(path: Path) -> str:
    """The id in the file; two processes that start at once agree, because the link can be made only once."""
    if not path.exists():
        draft = path.with_name(f".storage_id.{secrets.token_hex(4)}")
        draft.write_text(secrets.token_hex(16))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()
