"""The worker's step loop: claim what fits, step all sessions together, hand masks on, snapshot, yield, drain.

Who comes and goes is decided in claims.py, who is here stands in roster.py, stepper.py takes one step with all.
Sole owner of the device, and the only one who renews the worker's lease: by entering stages. Redis and storage are
reached through the I/O thread; frames come from decode children.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time

import structlog
import torch

from engines.prompts.resolver import ReferenceResolver
from engines.registry import resolve_device
from service import metrics
from service.queue import Control
from service.schemas import ArchiveRecord, SessionState, WorkerRecord
from service.settings import Settings
from service.storage import Storage
from service.worker.bell import Bell
from service.worker.child_frames import DecodeLimits
from service.worker.claims import Claims
from service.worker.io import IoThread
from service.worker.items import EndItem
from service.worker.lease import Lease
from service.worker.live_session import LiveSession
from service.worker.pool import EnginePool, capacity_bytes
from service.worker.presence import Presence
from service.worker.roster import Roster
from service.worker.session import RunningSession
from service.worker.stepper import Stepper
from service.worker.surroundings import Surroundings

_NO_FRAME_PAUSE_S = 0.05
"""Longest wait for a decoder; one that is silent for too long is found out in between."""
_log = structlog.get_logger()


class Worker:
    """One process's worker. run() returns after stop(), or in burst mode when nothing is left to do."""

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self.id = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._settings = settings
        self._device = resolve_device(settings.device)
        capacity = capacity_bytes(settings, self._device)
        pool = EnginePool(settings, self._device)
        self._presence = Presence(settings.data_dir)
        self._bell = Bell()
        self._io = IoThread(settings, storage, self._presence, self._bell)
        resolver = ReferenceResolver(self._device)
        limits = DecodeLimits.of(settings)
        around = Surroundings(storage, limits, self._archives, resolver, self._io, settings.live_input_bytes)
        self._roster = Roster(self._io, storage, self._bell)
        self._stopping = threading.Event()
        facts = WorkerRecord(
            id=self.id,
            stage="idle",
            sessions=0,
            engines=pool.names,
            capacity_bytes=capacity,
            free_bytes=capacity,
            device=str(self._device),
            at=0.0,
        )
        self._engines = facts.engines
        self._lease = Lease(self._io, facts, self._roster.load, settings)
        self._claims = Claims(facts, settings, pool, self._roster, self._lease, around)
        self._stepper = Stepper(self._roster, self._lease, self._bell)
        self._attended_at = float("-inf")

    def stop(self) -> None:
        """Finish the step, snapshot, hand all sessions back, return from run(). Safe in a signal handler."""
        self._io.give_up_in(2 * self._settings.drain_timeout_s)
        self._stopping.set()
        self._bell.ring()

    def run(self, *, burst: bool = False) -> None:
        """Work. Raises Unavailable when Redis or storage cannot be used at the start."""
        self._io.start()
        try:
            self._presence.announce(self.id)
            self._lease.enter("idle", wait=True)
            threads = torch.get_num_threads()
            _log.info("worker ready", worker=self.id, device=str(self._device), threads=threads, engines=self._engines)
            while not self._stopping.is_set():
                self._attend()
                if self._roster.sessions:
                    self._step_or_wait()
                elif burst and self._nothing_left():
                    break
                else:
                    self._lease.enter("idle")
                    self._bell.wait(self._settings.poll_interval_s)
            self._drain()
        finally:
            for session in self._roster.sessions:
                session.close()
            self._io.stop()

    def _attend(self) -> None:
        """When rung for, and at every poll interval: take orders, claim new sessions, yield to those that wait."""
        now = time.monotonic()
        if not self._bell.was_rung() and now - self._attended_at < self._settings.poll_interval_s:
            return
        self._attended_at = now
        self._roster.drop_ended_writers()
        self._drop_lost()
        self._take_orders()
        self._claims.reconcile_if_due()
        self._park_idle()
        self._claims.admit(self._stopping)
        sessions = self._roster.sessions
        metrics.SESSIONS_RUNNING.set(len(sessions))
        metrics.BANK_BYTES.set(sum(session.track.bank_bytes for session in sessions if session.track is not None))

    def _drop_lost(self) -> None:
        for session in self._roster.sessions:
            if session.writer.lost or session.writer.failure is not None:
                self._roster.let_go(session, EndItem(None))

    def _take_orders(self) -> None:
        sessions = self._roster.sessions
        if not sessions:
            return
        claims = [session.claim for session in sessions]
        controls: list[Control] = self._io.ask(lambda: self._io.services.queue.controls(claims))
        for session, control in zip(sessions, controls, strict=True):
            if not control.owned:
                session.writer.lost = True
                self._roster.let_go(session, EndItem(None))
            elif control.cancel:
                self._roster.let_go(session, EndItem(SessionState.CANCELLED))
            elif control.requests:
                self._roster.guard(session, lambda session=session: self._take_requests(session))  # type: ignore[misc]

    def _take_requests(self, session: RunningSession) -> None:
        queue, taken = self._io.services.queue, session.record.requests_taken
        self._lease.enter("resolve", (session.id,), wait=True)
        session.take_requests(self._io.ask(lambda: queue.requests(session.claim, taken)))

    def _park_idle(self) -> None:
        """Live sessions without frames give their place up until the next one comes."""
        for session in self._roster.sessions:
            if isinstance(session, LiveSession) and session.is_idle(self._settings.live_idle_s):
                _log.info("live session parks", session=session.id, seq=session.seq)
                self._roster.guard(session, session.take_snapshot)
                if self._roster.runs(session):
                    self._roster.let_go(session, EndItem(None, park=True))

    def _step_or_wait(self) -> None:
        if not self._stepper.step():
            self._lease.enter("wait")
            self._stepper.wait(min(_NO_FRAME_PAUSE_S, self._settings.poll_interval_s))
        for session in self._roster.sessions:
            if session.snapshot_is_due(self._settings.snapshot_interval_s, self._settings.snapshot_share):
                self._roster.guard(session, session.take_snapshot)

    def _nothing_left(self) -> bool:
        return not self._roster.arrivals and self._io.wait_for_writers(1.0) and not self._claims.others_wait()

    def _drain(self) -> None:
        """Snapshot and hand back every session, then let the lease go."""
        for arrival in self._roster.arrivals.give_up():
            arrival.writer.put(EndItem(None))
        for session in self._roster.sessions:
            self._roster.guard(session, session.take_snapshot)
            if self._roster.runs(session):
                self._roster.let_go(session, EndItem(None))
        if not self._io.wait_for_writers(self._settings.drain_timeout_s):
            _log.warning("some sessions could not be handed back in time; others will take them over")
        self._lease.enter("stopped", wait=True)
        self._io.ask(lambda: self._io.services.queue.expire_lease(self.id))
        self._presence.withdraw()
        _log.info("worker stopped", worker=self.id)

    def _archives(self, session_id: str) -> list[ArchiveRecord]:
        return self._io.ask(lambda: self._io.services.sessions.archives(session_id))
