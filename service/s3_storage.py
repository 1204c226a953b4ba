"""Storage in a bucket that speaks S3: hosts share nothing but Redis and the store.

Objects are <prefix>/sessions/<id>/<name>. A session exists while its marker object does. Deletion removes the marker
first, and a writer looks for it after its object is there: one of the two sees the other, so that nothing is left
behind. That rests on the store's strong consistency, which S3 and all servers that speak it promise.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from service.local_copies import LocalCopies
from service.local_storage import LocalWriter
from service.redis_keys import is_session_id
from service.storage import SESSION_FILE, SessionGone, StorageUnavailable, StoredFile, checked_name

if TYPE_CHECKING:
    from obstore.store import BackoffConfig

_MARKER = ".session"
_FETCH_BYTES = 8 * 1024**2
_FETCH_THREADS = 4
_PATIENCE_S = 45.0
"""A store that is away for a moment fails no session; one that stays away does."""
_START_PATIENCE_S = 8.0


def open_bucket(bucket: str, prefix: str, endpoint: str | None, copies: LocalCopies) -> S3Storage:
    """Storage in a bucket; keys, region and role come from the usual AWS_ variables. endpoint: for servers but AWS.

    Raises FileNotFoundError for a bucket that does not exist, StorageUnavailable when it cannot be used.
    """
    storage_id = _read_or_make_id(_open_store(bucket, prefix, endpoint, _START_PATIENCE_S))
    return S3Storage(_open_store(bucket, prefix, endpoint, _PATIENCE_S), copies, storage_id)


def _open_store(bucket: str, prefix: str, endpoint: str | None, patience_s: float) -> S3Store:
    pauses: BackoffConfig = {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=3), "base": 2}
    return S3Store(
        bucket,
        prefix=prefix or None,
        config={"endpoint": endpoint} if endpoint else None,
        client_options={"allow_http": (endpoint or "").startswith("http://"), "connect_timeout": "5 seconds"},
        retry_config={"max_retries": 1000, "retry_timeout": timedelta(seconds=patience_s), "backoff": pauses},
    )


class S3Storage:
    """See service.storage.Storage. copies: where files lie that programs read by path."""

    def __init__(self, store: S3Store, copies: LocalCopies, storage_id: str) -> None:
        self._store = store
        self._copies = copies
        self._storage_id = storage_id

    @property
    def storage_id(self) -> str:
        """Random name of this prefix, kept in its object `storage_id`."""
        return self._storage_id

    @property
    def is_here(self) -> bool:
        """No: local() fetches."""
        return False

    def create(self, session_id: str) -> None:
        """Put the session's marker."""
        with _as_os_errors(session_id):
            obstore.put(self._store, _object(session_id, _MARKER), b"", mode="create")

    def writer(self, session_id: str, name: str) -> S3Writer:
        """Open a new file; it is collected on this disk and sent to the store on commit."""
        path = _object(session_id, name)
        self._require(session_id)
        return S3Writer(self, session_id, name, path)

    def write(self, session_id: str, name: str, data: bytes) -> None:
        """Write a whole file."""
        self.put(session_id, name, data)

    def put(self, session_id: str, name: str, content: bytes | BinaryIO) -> None:
        """Send an object; takes it back and raises SessionGone when the session was deleted meanwhile."""
        path = _object(session_id, name)
        with _as_os_errors(path):
            obstore.put(self._store, path, content)
        try:
            self._require(session_id)
        except SessionGone:
            self.remove(session_id, name)
            raise

    def read(self, session_id: str, name: str) -> bytes:
        """Read a whole file."""
        path = _object(session_id, name)
        with _as_os_errors(path):
            return bytes(obstore.get(self._store, path).bytes())

    def stat(self, session_id: str, name: str) -> StoredFile:
        """Size and time of one file."""
        path = _object(session_id, name)
        with _as_os_errors(path):
            facts = obstore.head(self._store, path)
        return StoredFile(name, facts["size"], facts["last_modified"].timestamp())

    def chunks(self, session_id: str, name: str, start: int, end: int) -> Iterator[bytes]:
        """Bytes start..end (exclusive), a request for each few MiB."""
        path = _object(session_id, name)
        for first in range(start, end, _FETCH_BYTES):
            with _as_os_errors(path):
                yield bytes(obstore.get_range(self._store, path, start=first, end=min(first + _FETCH_BYTES, end)))

    def local(self, session_id: str, name: str) -> AbstractContextManager[Path]:
        """A copy on this disk, fetched once for as long as it is in use or fits."""
        return self._copies.hold(session_id, name, lambda target: self._fetch(session_id, name, target))

    def list(self, session_id: str) -> list[StoredFile]:
        """All files, the marker included, by name."""
        folder = _folder(session_id)
        found = []
        with _as_os_errors(folder):
            for page in obstore.list(self._store, folder, chunk_size=1000):
                for facts in page:
                    name = facts["path"].removeprefix(f"{folder}/")
                    found.append(StoredFile(name, facts["size"], facts["last_modified"].timestamp()))
        return sorted(found, key=lambda file: file.name)

    def sessions(self) -> Iterator[str]:
        """Ids of all sessions that have any object."""
        with _as_os_errors("sessions"):
            prefixes = obstore.list_with_delimiter(self._store, "sessions/")["common_prefixes"]
        names = (prefix.rstrip("/").rsplit("/", 1)[-1] for prefix in prefixes)
        return (name for name in names if is_session_id(name))

    def remove(self, session_id: str, name: str) -> None:
        """Delete one object."""
        path = _object(session_id, name)
        with _as_os_errors(path):
            obstore.delete(self._store, path)

    def delete(self, session_id: str) -> None:
        """Delete the marker, so that writers give up, and what would make the session known again; then the rest."""
        self._copies.forget(session_id)
        for name in (_MARKER, SESSION_FILE):
            self.remove(session_id, name)
        with _as_os_errors(session_id):
            obstore.delete(self._store, [_object(session_id, file.name) for file in self.list(session_id)])

    def free_bytes(self) -> int:
        """Free bytes of the disk that uploads pass through; asks the store for a sign of life."""
        with _as_os_errors("storage_id"):
            obstore.head(self._store, "storage_id")
        return shutil.disk_usage(self._copies.folder).free

    def spool(self) -> Path:
        """A fresh path for a file that is under way to the store."""
        return self._copies.folder / secrets.token_hex(8)

    def keep_copy(self, session_id: str, name: str, path: Path) -> None:
        """A spooled file that was stored stays as the copy of itself."""
        self._copies.adopt(session_id, name, path)

    def _require(self, session_id: str) -> None:
        try:
            with _as_os_errors(session_id):
                obstore.head(self._store, _object(session_id, _MARKER))
        except FileNotFoundError as error:
            raise SessionGone(f"session {session_id} is not in the store any more") from error

    def _fetch(self, session_id: str, name: str, target: Path) -> None:
        """Download in parallel ranges: one connection would leave most of the network idle."""
        path, size = _object(session_id, name), self.stat(session_id, name).size_bytes

        def copy_range(start: int) -> None:
            with _as_os_errors(path):
                data = obstore.get_range(self._store, path, start=start, end=min(start + _FETCH_BYTES, size))
            os.pwrite(file.fileno(), data, start)

        with target.open("xb") as file, ThreadPoolExecutor(_FETCH_THREADS, "fetch") as pool:
            for _ in pool.map(copy_range, range(0, size, _FETCH_BYTES)):
                pass


class S3Writer:
    """A FileWriter that spools to this disk: whole or not at all, and no parts are left in the store."""

    def __init__(self, storage: S3Storage, session_id: str, name: str, path: str) -> None:
        self._storage = storage
        self._session_id = session_id
        self._name = name
        self._path = path
        self._target = storage.spool()
        self._spool = LocalWriter(self._target)

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._spool.write(data)

    def written(self) -> BinaryIO:
        """The spooled file."""
        return self._spool.written()

    def commit(self) -> None:
        """Send the file to the store; keep it as a local copy. Raises SessionGone."""
        self._spool.commit()
        try:
            with self._target.open("rb") as file:
                self._storage.put(self._session_id, self._name, file)
        except BaseException:
            self._target.unlink()
            raise
        self._storage.keep_copy(self._session_id, self._name, self._target)

    def abort(self) -> None:
        """Drop the spooled bytes."""
        self._spool.abort()


def _read_or_make_id(store: S3Store) -> str:
    """The id in the object; of two processes that start at once, one makes it and both read it."""
    with _as_os_errors("storage_id"):
        try:
            obstore.put(store, "storage_id", secrets.token_hex(16).encode(), mode="create")
        except AlreadyExistsError:
            pass
        return bytes(obstore.get(store, "storage_id").bytes()).decode().strip()


def _folder(session_id: str) -> str:
    if not is_session_id(session_id):
        raise ValueError(f"{session_id!r} is not a session id")
    return f"sessions/{session_id}"


def _object(session_id: str, name: str) -> str:
    return f"{_folder(session_id)}/{checked_name(name)}"


@contextmanager
def _as_os_errors(what: str) -> Iterator[None]:
    """The store's errors as callers of any storage expect them."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the store has no {what!r}: {_first_line(error)}") from error
    except AlreadyExistsError as error:
        raise FileExistsError(f"{what!r} is in the store already") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise StorageUnavailable(f"the store refuses these credentials: {_first_line(error)}") from error
    except BaseError as error:
        raise StorageUnavailable(f"the store cannot be reached: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).split("\n\nDebug source", 1)[0].replace("\n", " ")[:400]
