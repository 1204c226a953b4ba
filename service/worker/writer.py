"""One session's writes, in the order in which the step loop asked for them: masks, snapshots, plan, end.

Runs in the I/O thread. Masks are published first, snapshots committed behind them; every commit carries the epoch, and
the first one that is refused ends all writing of this session, without a trace.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from service import metrics
from service.errors import EpochLost
from service.masks import encode_level, encode_objects
from service.schemas import (
    ArchiveRecord,
    Claim,
    MaskEvent,
    MaskObject,
    Problem,
    Rle,
    SessionRecord,
    SessionState,
)
from service.session_file import read_session_file, write_session_file
from service.storage import ARCHIVE, SNAPSHOTS, SessionGone, snapshot_name
from service.worker.archiver import Archiver
from service.worker.io import IoThread
from service.worker.items import EndItem, FlushItem, Item, MaskItem, PlanItem, SnapshotItem
from service.worker.resize import resize_labels
from service.worker.retry import until_answered
from service.worker.snapshots import encode_state

_BATCH = 16
_TELLING = frozenset(("plan", "references", "objects"))
"""Fields that say what a mask shows."""
_log = structlog.get_logger()


class SessionWriter:
    """Made by the step loop at a claim; lives until the session is handed back, ended or lost."""

    def __init__(self, io: IoThread, claim: Claim, record: SessionRecord) -> None:
        self.lost = False
        """Another owner, or deleted: the step loop drops the session without a word."""
        self.failure: BaseException | None = None
        """What ended the writing for another reason."""
        self.is_over = False
        """Nothing more will be written."""
        self.snapshot_cost_s = 0.0
        self.snapshots_under_way = 0
        self._io = io
        self._claim = claim
        self._record = record
        self._size = (record.spec.video.height, record.spec.video.width)
        self._items: asyncio.Queue[Item] = asyncio.Queue()
        self._archiver = Archiver(io, claim, record)
        self._end_taken = False
        io.begin(self._run)

    def put(self, item: Item) -> None:
        """Hand over the next write; waits while too much is under way. Called by the step loop."""
        if isinstance(item, SnapshotItem):
            self.snapshots_under_way += 1
        self._io.hand_over(lambda: self._items.put_nowait(item))

    def flush(self) -> None:
        """Wait until all masks so far stand in the archive. Called by the step loop."""
        done = asyncio.Event()
        self.put(FlushItem(done))
        self._io.call(done.wait)

    async def _run(self) -> None:
        """Write until the end; afterwards take what still comes and drop it."""
        try:
            await self._archiver.load()
            ended = False
            while not ended:
                items = await self._next_items()
                try:
                    ended = await self._write(items)
                finally:
                    self._io.done(len(items))
        except (EpochLost, SessionGone):
            metrics.LEASES_LOST.inc()
            _log.warning("session is no longer ours", session=self._claim.session_id, epoch=self._claim.epoch)
            self.lost = True
        except Exception as error:
            self.failure = error
            await self._fail(error)
        if not self._end_taken:
            await self._drop_rest()
        self.is_over = True

    async def _next_items(self) -> list[Item]:
        """One item, or consecutive masks that wait already."""
        first = await self._items.get()
        items = [first]
        while isinstance(first, MaskItem) and len(items) < _BATCH and not self._items.empty():
            peeked = self._items._queue[0]  # type: ignore[attr-defined]
            if not isinstance(peeked, MaskItem):
                break
            items.append(self._items.get_nowait())
        return items

    async def _write(self, items: list[Item]) -> bool:
        """Write one item or a run of masks. Whether the session has ended."""
        first = items[0]
        if isinstance(first, MaskItem):
            await self._publish([item for item in items if isinstance(item, MaskItem)])
        elif isinstance(first, SnapshotItem):
            await self._commit_snapshot(first)
        elif isinstance(first, PlanItem):
            await self._commit_plan(first)
        elif isinstance(first, FlushItem):
            try:
                await self._archiver.flush()
            finally:
                first.done.set()
        else:
            self._end_taken = True
            await self._end(first)
            return True
        return False

    async def _publish(self, items: list[MaskItem]) -> None:
        events = [self._encode(item) for item in items]
        await until_answered(lambda: self._io.services.masks.publish(self._claim, events))
        if events[0].seq == 0:
            metrics.FIRST_MASK_SECONDS.observe(time.time() - items[0].created_at)
        await self._archiver.add(events)

    def _encode(self, item: MaskItem) -> MaskEvent:
        found_by = item.prediction
        label_map = resize_labels(found_by.label_map, self._size)
        doubts = {object_id: round(doubt, 4) for object_id, doubt in found_by.uncertainty.items()}
        soft = {object_id: encode_level(level) for object_id, level in item.probabilities.items()}
        objects = tuple(
            MaskObject(
                object_id=found["object_id"],
                score=round(found_by.scores[found["object_id"]], 4),
                bbox=tuple(found["bbox"]),
                rle=Rle(**found["rle"]),
                uncertainty=doubts.get(found["object_id"]),
                probability=soft.get(found["object_id"]),
            )
            for found in encode_objects(label_map, found_by.scores.keys())
        )
        return MaskEvent(seq=item.seq, frame_index=item.frame_index, pts_s=item.pts_s, size=self._size, objects=objects)

    async def _commit_plan(self, item: PlanItem) -> None:
        """Redis first. session.json too, where masks would mean other frames or objects if Redis lost the plan."""
        services, session_id = self._io.services, self._claim.session_id
        await until_answered(lambda: services.queue.commit_plan(self._claim, item.fields, note=item.note))
        if _TELLING.isdisjoint(item.fields):
            return
        try:
            known = await asyncio.to_thread(read_session_file, services.storage, session_id)
            if known is not None and known.session.state.final:
                return  # a completed session that is corrected: it is put back as it was completed
            record, archives = await self._facts()
            await asyncio.to_thread(write_session_file, services.storage, record, archives)
        except SessionGone:
            raise
        except (OSError, ValueError) as error:
            _log.warning("session.json lags behind", session=session_id, error=str(error))

    async def _facts(self) -> tuple[SessionRecord, tuple[ArchiveRecord, ...]]:
        """What session.json is to say. Raises SessionGone."""
        sessions, session_id = self._io.services.sessions, self._claim.session_id
        record = await until_answered(lambda: sessions.get(session_id))
        if record is None:
            raise SessionGone(f"session {session_id} was deleted meanwhile")
        return record, tuple(await until_answered(lambda: sessions.archives(session_id)))

    async def _commit_snapshot(self, item: SnapshotItem) -> None:
        """Write the file, name it in the hash, delete the one it replaces."""
        began = time.monotonic()
        claim, services = self._claim, self._io.services
        record = item.record.model_copy(update={"name": snapshot_name(claim.epoch, item.record.seq)})
        data = await asyncio.to_thread(encode_state, item.state)
        await asyncio.to_thread(services.storage.write, claim.session_id, record.name, data)
        replaced = await until_answered(lambda: services.queue.commit_snapshot(claim, record, item.bank_bytes))
        if replaced is not None and replaced.name != record.name:
            await asyncio.to_thread(services.storage.remove, claim.session_id, replaced.name)
        self.snapshot_cost_s = item.copy_s + time.monotonic() - began
        self.snapshots_under_way -= 1
        metrics.SNAPSHOT_SECONDS.observe(self.snapshot_cost_s)

    async def _end(self, item: EndItem) -> None:
        """Archive, then hand back or finish; tidy up behind it."""
        await self._archiver.flush()
        claim, queue = self._claim, self._io.services.queue
        state = item.state
        if state is None:
            if not item.park or not await until_answered(lambda: queue.park(claim)):
                await self._release()
            return
        expires_at = time.time() + self._io.settings.session_ttl_s
        finished = await until_answered(lambda: queue.finish(claim, state, expires_at=expires_at, problem=item.problem))
        if not finished:
            await self._release()
            return
        metrics.SESSIONS.labels(self._record.spec.engine, state.value).inc()
        await self._write_session_file()

    async def _release(self) -> None:
        claim, queue = self._claim, self._io.services.queue
        await until_answered(lambda: queue.release(claim))

    async def _write_session_file(self) -> None:
        """Write session.json with the final record; delete every snapshot, and archive files that nothing names."""
        services, session_id = self._io.services, self._claim.session_id
        record, archives = await self._facts()
        named = {archive.name for archive in archives}

        def tidy() -> None:
            write_session_file(services.storage, record, archives)
            for file in services.storage.list(session_id):
                folder = file.name.split("/", 1)[0]
                if folder == SNAPSHOTS or (folder == ARCHIVE and file.name not in named):
                    services.storage.remove(session_id, file.name)

        await asyncio.to_thread(tidy)

    async def _fail(self, error: BaseException) -> None:
        """The session cannot be written down: end it as failed; what is published stays readable."""
        _log.error("session cannot be written", session=self._claim.session_id, error=str(error))
        problem = Problem(code="storage-failed", detail=f"the masks cannot be stored: {error}. Check the server's disk")
        queue, ttl_s = self._io.services.queue, self._io.settings.session_ttl_s
        try:
            await until_answered(
                lambda: queue.finish(self._claim, SessionState.FAILED, expires_at=time.time() + ttl_s, problem=problem)
            )
        except EpochLost:
            self.lost = True
        except Exception:  # the rest must be dropped all the same, or the step loop would wait for ever
            _log.exception("the session's failure cannot be written down", session=self._claim.session_id)

    async def _drop_rest(self) -> None:
        """Free the places of items that come until the step loop notices and lets go with an EndItem."""
        while True:
            item = await self._items.get()
            self._io.done()
            if isinstance(item, FlushItem):
                item.done.set()
            if isinstance(item, EndItem):
                return
