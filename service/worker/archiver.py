"""One session's published masks on their way into archive files, a file for every so many of them.

Runs in the I/O thread as part of the session's writer. Every commit carries the epoch.
"""

from __future__ import annotations

import asyncio
import time

from service.archive import write_archive
from service.schemas import Claim, MaskEvent, SessionRecord
from service.worker.io import IoThread
from service.worker.retry import until_answered


class Archiver:
    """load() first; then add() what is published. Raises EpochLost, SessionGone when the session is no longer ours."""

    def __init__(self, io: IoThread, claim: Claim, record: SessionRecord) -> None:
        self._io = io
        self._claim = claim
        self._record = record
        self._archived_seq = record.archived_seq
        self._unarchived: list[MaskEvent] = []
        self._archived_at = time.monotonic()

    async def load(self) -> None:
        """Masks that an earlier owner published but did not archive; the stream still holds them."""
        record = self._record
        if record.archived_seq >= record.next_seq:
            return
        masks = self._io.services.masks
        first, last = record.archived_seq, record.next_seq - 1
        self._unarchived = await until_answered(lambda: masks.streamed(record.id, first, last))

    async def add(self, events: list[MaskEvent]) -> None:
        """Masks that have been published; archived when there are enough of them, or they have waited long enough."""
        expected = self._unarchived[-1].seq + 1 if self._unarchived else self._archived_seq
        self._unarchived += [event for event in events if event.seq >= expected]
        settings = self._io.settings
        waited_s = time.monotonic() - self._archived_at
        if len(self._unarchived) >= settings.archive_every or waited_s >= settings.archive_interval_s:
            await self.flush()

    async def flush(self) -> None:
        """Write and commit what is published but not archived."""
        self._archived_at = time.monotonic()
        if not self._unarchived:
            return
        claim, events, io = self._claim, self._unarchived, self._io
        storage = io.services.storage
        record = await asyncio.to_thread(write_archive, storage, claim.session_id, claim.epoch, events)
        await until_answered(lambda: io.services.queue.commit_archive(claim, record))
        self._archived_seq = record.last + 1
        self._unarchived = []
        if self._record.spec.live:
            await self._trim()

    async def _trim(self) -> None:
        """Live: delete archive files whose time is over."""
        claim, services, before = self._claim, self._io.services, time.time() - self._record.spec.keep_s
        for name in await until_answered(lambda: services.queue.trim_archive(claim, before)):
            await asyncio.to_thread(services.storage.remove, claim.session_id, name)
