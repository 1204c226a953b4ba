"""Which sessions get a place on this worker: claim what fits, fetch and open it, yield to those that wait.

Part of the step loop. Redis decides who owns a session; the memory that it may take decides whether it fits.
"""

from __future__ import annotations

import threading
import time

import structlog

from service import metrics
from service.schemas import Claim, SessionRecord, SessionState, WorkerRecord
from service.settings import Settings
from service.worker.arrivals import Arrival
from service.worker.failures import problem_of
from service.worker.items import EndItem
from service.worker.lease import Lease
from service.worker.live_session import LiveSession
from service.worker.pool import EnginePool
from service.worker.resolve import needs_resolution
from service.worker.retry import RETRYABLE
from service.worker.roster import Roster
from service.worker.session import RunningSession
from service.worker.surroundings import Surroundings
from service.worker.writer import SessionWriter

_RECONCILE_S = 5.0
_log = structlog.get_logger()


class Claims:
    """Fills the roster. facts: who the worker is, which engines it has, how much memory its sessions may take."""

    def __init__(
        self,
        facts: WorkerRecord,
        settings: Settings,
        pool: EnginePool,
        roster: Roster,
        lease: Lease,
        around: Surroundings,
    ) -> None:
        self._facts = facts
        self._settings = settings
        self._pool = pool
        self._roster = roster
        self._lease = lease
        self._around = around
        self._io = around.io
        self._reconciled_at = float("-inf")

    def reconcile_if_due(self) -> None:
        """Hand back sessions that Redis says are ours but that we do not have: the answer to a claim was lost."""
        now = time.monotonic()
        if now - self._reconciled_at < _RECONCILE_S:
            return
        self._reconciled_at = now
        queue, worker_id = self._io.services.queue, self._facts.id
        for session_id in self._io.ask(lambda: queue.held_by(worker_id)):
            if self._roster.knows(session_id):
                continue
            record = self._record(session_id)
            if record is not None and record.worker == worker_id:
                claim = Claim(session_id=session_id, epoch=record.epoch)
                SessionWriter(self._io, claim, record).put(EndItem(None))

    def admit(self, stopping: threading.Event) -> None:
        """Claim while there is room, open whose video is here, hand one back when its quantum is over."""
        queue, facts, roster = self._io.services.queue, self._facts, self._roster
        while not stopping.is_set():
            load = roster.load()
            if load.sessions >= self._settings.max_tracks:
                break
            free = facts.capacity_bytes - load.used_bytes
            try:
                claim = self._io.call(lambda free=free: queue.claim(facts.id, free, facts.engines))  # type: ignore[misc]
            except RETRYABLE:
                self._reconciled_at = float("-inf")  # it may have claimed; find out
                return
            if claim is None:
                break
            self._take_in(claim)
        for arrival in roster.arrivals.arrived():
            self._open(arrival)
        self._yield_quantum()

    def others_wait(self) -> bool:
        """Whether a session is queued for an engine that is here, whatever it needs."""
        return bool(self._heads())

    def _heads(self) -> list[int]:
        return self._io.ask(lambda: self._io.services.queue.heads(self._facts.engines))

    def _yield_quantum(self) -> None:
        """Hand back the session that ran longest beyond its quantum, when another waits that could run here.

        A live one only where there is no other: somebody watches it, but a camera never ends by itself.
        """
        got_further = [session for session in self._roster.sessions if session.got_further_at is not None]
        longest = min(got_further, key=lambda s: (s.record.spec.live, s.got_further_at or 0.0), default=None)
        if longest is None or time.monotonic() - (longest.got_further_at or 0.0) < self._settings.quantum_s:
            return
        if any(head <= self._facts.capacity_bytes for head in self._heads()):
            _log.info("session yields", session=longest.id, seq=longest.seq)
            self._roster.guard(longest, longest.take_snapshot)
            if self._roster.runs(longest):
                self._roster.let_go(longest, EndItem(None))

    def _take_in(self, claim: Claim) -> None:
        """A claimed session's video is fetched first; the others go on meanwhile."""
        record = self._record(claim.session_id)
        if record is None:
            return
        writer = self._roster.begin_writer(claim, record)
        if record.cancel:
            writer.put(EndItem(SessionState.CANCELLED))
            return
        _log.info("session claimed", session=record.id, epoch=claim.epoch, seq=record.next_seq)
        if record.queued_at is not None:
            metrics.QUEUE_SECONDS.observe(max(0.0, time.time() - record.queued_at))
        self._roster.arrivals.begin(Arrival(claim, record, writer))

    def _open(self, arrival: Arrival) -> None:
        claim, record, writer = arrival.claim, arrival.record, arrival.writer
        try:
            with arrival.held:
                session = self._prepare(claim, record, writer)
        except Exception as error:
            writer.put(EndItem(SessionState.FAILED, problem_of(error, record.id)))
            return
        self._roster.add(session)

    def _prepare(self, claim: Claim, record: SessionRecord, writer: SessionWriter) -> RunningSession:
        ids = (record.id,)
        engine = self._pool.get(
            record.spec.engine,
            in_use={session.record.spec.engine for session in self._roster.sessions},
            before_load=lambda: self._lease.enter("load", ids, wait=True),
        )
        if needs_resolution(record.references):
            self._lease.enter("resolve", ids, wait=True)  # it may load a network of its own
        else:
            self._lease.enter("restore", ids, wait=True)
        kind = LiveSession if record.spec.live else RunningSession
        session = kind(claim, record, engine, writer, self._around)
        session.suspect = self._roster.take_suspicion(record.id) or session.suspect
        try:
            session.prepare()
            self._take_requests(session)
        except BaseException:
            session.close()
            raise
        return session

    def _take_requests(self, session: RunningSession) -> None:
        """References that clients added while nobody ran the session."""
        queue, taken = self._io.services.queue, session.record.requests_taken
        requests = self._io.ask(lambda: queue.requests(session.claim, taken))
        if requests:
            session.take_requests(requests)

    def _record(self, session_id: str) -> SessionRecord | None:
        return self._io.ask(lambda: self._io.services.sessions.get(session_id))
