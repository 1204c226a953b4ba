"""Copies of stored files on this process's disk, for programs that read only paths. Bounded; nothing in use is removed.

Each process has a folder of its own, held by a file lock: what a dead process left is removed by the next one to start.
Knows neither where the files come from nor what is in them.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

Fetch = Callable[[Path], None]
"""Writes a stored file to a path. Raises FileNotFoundError where there is none."""


@dataclass
class _Copy:
    path: Path
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class LocalCopies:
    """Idle copies leave, least recently used first, while all together pass limit_bytes or the disk has less than
    keep_free_bytes left. Safe for several threads.
    """

    def __init__(self, folder: Path, limit_bytes: int, keep_free_bytes: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        self._folder = folder / secrets.token_hex(8)
        self._folder.mkdir()
        self._held = _try_lock(self._folder)
        self._limit = limit_bytes
        self._keep_free = keep_free_bytes
        self._guard = threading.Lock()
        self._copies: OrderedDict[tuple[str, str], _Copy] = OrderedDict()

    @property
    def folder(self) -> Path:
        """Where the copies lie; files under way may lie here too."""
        return self._folder

    @contextmanager
    def hold(self, session_id: str, name: str, fetch: Fetch) -> Iterator[Path]:
        """The path of a copy, fetched by whoever comes first; it stays for as long as the block lasts."""
        key = (session_id, name)
        with self._guard:
            copy = self._copies.setdefault(key, _Copy(self._folder / secrets.token_hex(8)))
            copy.users += 1
            self._copies.move_to_end(key)
        try:
            with copy.lock:
                if not copy.path.exists():
                    _fetch_whole(copy.path, fetch)
            yield copy.path
        finally:
            with self._guard:
                copy.users -= 1
                if copy.users == 0 and not copy.path.exists():
                    self._copies.pop(key, None)
                self._evict()

    def adopt(self, session_id: str, name: str, path: Path) -> None:
        """Take a file of this folder as the copy of a stored one."""
        with self._guard:
            self._copies[session_id, name] = _Copy(path)
            self._evict()

    def forget(self, session_id: str) -> None:
        """Remove the copies of a deleted session; those in use lose their name, not their bytes."""
        with self._guard:
            for key in [key for key in self._copies if key[0] == session_id]:
                self._copies.pop(key).path.unlink(missing_ok=True)

    def _evict(self) -> None:
        """Remove idle copies until the rest fit."""
        sizes = {key: copy.path.stat().st_size for key, copy in self._copies.items() if copy.path.exists()}
        used, free = sum(sizes.values()), shutil.disk_usage(self._folder).free
        for key, copy in list(self._copies.items()):
            if used <= self._limit and free >= self._keep_free:
                return
            if copy.users == 0:
                del self._copies[key]
                copy.path.unlink(missing_ok=True)
                used -= sizes.get(key, 0)
                free += sizes.get(key, 0)


def _fetch_whole(path: Path, fetch: Fetch) -> None:
    """The file appears under its path only when all of it is there."""
    part = path.with_name(f"{path.name}.part")
    try:
        fetch(part)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def _try_lock(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock until the process ends; None when another process has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_abandoned(folder: Path) -> None:
    for left in folder.iterdir():
        descriptor = _try_lock(left)
        if descriptor is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(descriptor)
