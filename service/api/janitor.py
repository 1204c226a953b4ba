"""Removes what nobody needs: expired sessions, and files that nothing names. Archives what failed sessions left.

A session's own session.json says when it expires. Redis not knowing a session is no reason to delete its files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import anyio.to_thread
import structlog
from redis.exceptions import RedisError

from service.last_masks import archive_rest
from service.live_input import LiveInput
from service.local_storage import LocalStorage
from service.mask_stream import MaskStream, SequenceGap
from service.metrics import ORPHANS_REMOVED, SESSIONS_EXPIRED
from service.recovery import recovered
from service.schemas import SessionRecord, SessionState
from service.session_file import read_session_file, write_session_file
from service.sessions import SessionStore
from service.settings import Settings
from service.storage import ARCHIVE, EXPORTS, SESSION_FILE, SNAPSHOTS, Storage, StoredFile

_UPLOAD_GRACE_S = 60.0
"""An upload's session.json is written moments before Redis is told; only older ones can have been lost."""
_log = structlog.get_logger("maskstream.janitor")


class Janitor:
    """One pass looks at every session folder once."""

    def __init__(
        self, store: SessionStore, masks: MaskStream, live: LiveInput, storage: Storage, settings: Settings
    ) -> None:
        self._store = store
        self._masks = masks
        self._live = live
        self._storage = storage
        self._settings = settings

    async def run(self) -> None:
        """A pass now and after every interval, for ever."""
        while True:
            try:
                await self.clean(time.time())
            except Exception as error:  # nobody looks after this task: an error that ended it would end all cleaning
                _log.warning("cleaning stopped half-way; the next pass goes on", error=str(error))
            await asyncio.sleep(self._settings.janitor_interval_s)

    async def clean(self, now: float) -> None:
        """One pass."""
        for session_id in await self._store.deleting():
            await self._apart(session_id, self._delete_files(session_id))
        session_ids = await anyio.to_thread.run_sync(lambda: list(self._storage.sessions()))
        for session_id in session_ids:
            await self._apart(session_id, self._clean_one(session_id, now))
        if isinstance(self._storage, LocalStorage):
            await anyio.to_thread.run_sync(self._storage.empty_trash)

    async def _apart(self, session_id: str, work: Coroutine[Any, Any, None]) -> None:
        """What goes wrong with one session keeps no other from being cleaned; Redis being away does."""
        try:
            await work
        except RedisError:
            raise
        except Exception as error:
            _log.warning("a session cannot be cleaned; the next pass tries again", session=session_id, error=str(error))

    async def _clean_one(self, session_id: str, now: float) -> None:
        record = await self._store.get(session_id)
        if record is None:
            await self._clean_unknown(session_id, now)
        else:
            await self._clean_known(record, now)

    async def _clean_known(self, record: SessionRecord, now: float) -> None:
        if record.state.final and record.expires_at is not None and record.expires_at < now:
            await self._store.delete(record.id, expired=True)
            await self._delete_files(record.id)
            SESSIONS_EXPIRED.inc()
            _log.info("session expired", session=record.id)
            return
        if record.state.final and record.archived_seq < record.next_seq:
            await self._archive_rest(record.id)
            return  # its files are not as `record` says any more
        if record.state is SessionState.IDLE and (record.last_frame_at or 0.0) < now - self._settings.live_gone_s:
            await self._live.end(record.id)
            _log.info("live session ends: its client has gone", session=record.id)
        files = await anyio.to_thread.run_sync(self._storage.list, record.id)
        if _is_unsaid(record, files):
            archives = tuple(await self._store.archives(record.id))
            await anyio.to_thread.run_sync(write_session_file, self._storage, record, archives)
        await self._remove_unnamed(record, files, now)

    async def _archive_rest(self, session_id: str) -> None:
        """A failed session's last masks, if its storage takes them now."""
        try:
            if await archive_rest(session_id, self._store, self._masks, self._storage):
                _log.info("archived the last masks of a failed session", session=session_id)
        except (OSError, SequenceGap) as error:
            _log.warning("the last masks of a failed session cannot be archived", session=session_id, error=str(error))

    async def _clean_unknown(self, session_id: str, now: float) -> None:
        """A folder that Redis does not know: an upload under way or broken off, or a session that Redis lost."""
        files = await anyio.to_thread.run_sync(self._storage.list, session_id)
        newest = max((file.modified_at for file in files), default=0.0)
        if newest < now - _UPLOAD_GRACE_S and await self._recover(session_id, files, now):
            return
        if newest > now - self._settings.orphan_age_s:
            return
        expires_at = await anyio.to_thread.run_sync(self._expiry_of, session_id)
        if expires_at is None or expires_at < now:
            await anyio.to_thread.run_sync(self._storage.delete, session_id)
            ORPHANS_REMOVED.inc()
            _log.info("removed a folder that nothing names", session=session_id)

    async def _recover(self, session_id: str, files: list[StoredFile], now: float) -> bool:
        """Put a session back that Redis has lost, unless it has expired anyway."""
        try:
            file = await anyio.to_thread.run_sync(read_session_file, self._storage, session_id)
        except ValueError:
            return False
        if file is None or (file.session.expires_at or now) < now:
            return False
        lost = recovered(file, files, now)
        if not await self._store.adopt(lost.session, lost.archives):
            return False
        _log.warning("put back a session that Redis had lost", session=session_id, state=lost.session.state)
        return True

    def _expiry_of(self, session_id: str) -> float | None:
        """When session.json says the session expires; None when it was never made, or says nothing that can be read."""
        try:
            file = read_session_file(self._storage, session_id)
        except ValueError:
            return None
        if file is None:
            return None
        return float("inf") if file.session.expires_at is None else file.session.expires_at

    async def _remove_unnamed(self, record: SessionRecord, files: list[StoredFile], now: float) -> None:
        """Snapshots and archive files that no commit named, exports and unfinished writes, once they are old."""
        named = {archive.name for archive in await self._store.archives(record.id)}
        if record.snapshot is not None:
            named.add(record.snapshot.name)
        for file in files:
            folder = file.name.split("/")[0]
            unnamed = folder in (ARCHIVE, SNAPSHOTS, EXPORTS) and file.name not in named
            garbage = unnamed or file.name.endswith(".part")
            if garbage and file.modified_at < now - self._settings.orphan_age_s:
                await anyio.to_thread.run_sync(self._storage.remove, record.id, file.name)
                ORPHANS_REMOVED.inc()

    async def _delete_files(self, session_id: str) -> None:
        await anyio.to_thread.run_sync(self._storage.delete, session_id)
        await self._store.files_deleted(session_id)


def _is_unsaid(record: SessionRecord, files: list[StoredFile]) -> bool:
    """Whether the session ended behind the back of its session.json: cancelled in the queue, or its worker died."""
    written = max((file.modified_at for file in files if file.name == SESSION_FILE), default=0.0)
    return record.state.final and record.finished_at is not None and written < record.finished_at
