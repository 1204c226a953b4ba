"""Whether a worker's process still lives, by a file lock in the data folder: the kernel lets go when it dies.

Leases alone would do, but a worker that died while loading an engine holds its lease for minutes. A process that hangs
keeps its lock, so that only the lease decides about it; nobody's word is taken but the kernel's.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Presence:
    """The locks of all workers that share a data folder; of other workers it knows nothing and says so."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "workers"
        self._held: tuple[int, Path] | None = None

    def announce(self, worker_id: str) -> None:
        """Hold this worker's lock until the process ends. Call it before the worker claims anything."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / worker_id
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._held = (descriptor, path)

    def withdraw(self) -> None:
        """Let go of the lock, after the worker has handed everything back."""
        if self._held is not None:
            descriptor, path = self._held
            path.unlink(missing_ok=True)
            os.close(descriptor)
            self._held = None

    def is_gone(self, worker_id: str) -> bool:
        """Whether that worker announced itself here and its process has ended since."""
        try:
            descriptor = os.open(self._folder / worker_id, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def forget(self, worker_id: str) -> None:
        """Remove a dead worker's file."""
        (self._folder / worker_id).unlink(missing_ok=True)
