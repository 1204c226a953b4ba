"""Masks that a session left in Redis alone as it failed: written to its archive, so that they last as long as the rest.

A session fails without its worker when it is poison (the sweep ends it), and with masks that could not be written when
the storage failed. Any process may call it, several at once: one of them names the file, all write the same.
"""

from __future__ import annotations

import anyio.to_thread

from service.archive import write_archive
from service.mask_stream import MaskStream
from service.session_file import write_session_file
from service.sessions import SessionStore
from service.storage import Storage


async def archive_rest(session_id: str, store: SessionStore, masks: MaskStream, storage: Storage) -> bool:
    """Archive what is published of an ended session, and write its session.json. False when there was nothing to do.

    Raises SequenceGap when Redis does not hold the masks, OSError when they cannot be stored, SessionGone included.
    """
    record = await store.get(session_id)
    if record is None or not record.state.final or record.archived_seq >= record.next_seq:
        return False
    events = await masks.streamed(session_id, record.archived_seq, record.next_seq - 1)
    named = await anyio.to_thread.run_sync(write_archive, storage, session_id, record.epoch, events)
    if not await store.commit_rest(record, named):
        return False
    after, archives = await store.get(session_id), tuple(await store.archives(session_id))
    if after is not None:
        await anyio.to_thread.run_sync(write_session_file, storage, after, archives)
    return True
