"""The worker's step loop: claim what fits, step all sessions together, hand masks on, snapshot, yield, drain.

Sole owner of the device, and the only one who renews the worker's lease: by entering stages. Redis and storage are
reached through the I/O thread; frames come from decode children.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog
import torch

from engines.prompts.resolver import ReferenceResolver
from engines.types import Prediction
from service import metrics
from service.media.reader import VideoFrame
from service.queue import Control
from service.schemas import ArchiveRecord, Claim, SessionRecord, SessionState, WorkerRecord
from service.settings import Settings
from service.storage import Storage
from service.worker.arrivals import Arrival, Arrivals
from service.worker.failures import problem_of
from service.worker.frames import DecodeLimits
from service.worker.io import IoThread
from service.worker.lease import Lease, Load
from service.worker.live_session import LiveSession
from service.worker.pool import EnginePool, capacity_bytes, resolve_device
from service.worker.presence import Presence
from service.worker.resolve import needs_resolution
from service.worker.retry import RETRYABLE
from service.worker.session import RunningSession, Surroundings
from service.worker.writer import EndItem, SessionWriter

T = TypeVar("T")

_RECONCILE_S = 5.0
_NO_FRAME_PAUSE_S = 0.003
_log = structlog.get_logger()

Ready = tuple[RunningSession, VideoFrame]


class Worker:
    """One process's worker. run() returns after stop(), or in burst mode when nothing is left to do."""

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self.id = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._settings = settings
        self._device = resolve_device(settings.device)
        self._capacity = capacity_bytes(settings, self._device)
        self._pool = EnginePool(settings, self._device)
        self._presence = Presence(settings.data_dir)
        self._io = IoThread(settings, storage, self._presence)
        resolver = ReferenceResolver(self._device)
        limits = DecodeLimits.of(settings)
        self._around = Surroundings(storage, limits, self._archives, resolver, self._io, settings.live_input_bytes)
        self._arrivals = Arrivals(storage)
        self._sessions: dict[str, RunningSession] = {}
        self._writers: dict[str, SessionWriter] = {}
        self._suspects: set[str] = set()
        self._warm: set[tuple[str, object]] = set()
        self._stopping = threading.Event()
        facts = WorkerRecord(
            id=self.id,
            stage="idle",
            sessions=0,
            engines=self._pool.names,
            capacity_bytes=self._capacity,
            free_bytes=self._capacity,
            device=str(self._device),
            at=0.0,
        )
        self._lease = Lease(self._io, facts, self._load, settings)
        self._attended_at = self._reconciled_at = float("-inf")

    def stop(self) -> None:
        """Finish the step, snapshot, hand all sessions back, return from run(). Safe in a signal handler."""
        self._io.give_up_in(2 * self._settings.drain_timeout_s)
        self._stopping.set()

    def run(self, *, burst: bool = False) -> None:
        """Work. Raises Unavailable when Redis or storage cannot be used at the start."""
        self._io.start()
        try:
            self._presence.announce(self.id)
            self._lease.enter("idle", wait=True)
            threads = torch.get_num_threads()
            _log.info(
                "worker ready", worker=self.id, device=str(self._device), threads=threads, engines=self._pool.names
            )
            while not self._stopping.is_set():
                self._attend()
                if self._sessions:
                    self._step_or_wait()
                elif burst and self._nothing_left():
                    break
                else:
                    self._lease.enter("idle")
                    self._stopping.wait(self._settings.poll_interval_s)
            self._drain()
        finally:
            for session in self._sessions.values():
                session.close()
            self._io.stop()

    # What others want

    def _attend(self) -> None:
        """At every poll interval: take orders for running sessions, claim new ones, yield to those that wait."""
        now = time.monotonic()
        if now - self._attended_at < self._settings.poll_interval_s:
            return
        self._attended_at = now
        self._writers = {i: writer for i, writer in self._writers.items() if i in self._sessions or not writer.is_over}
        self._drop_lost()
        self._take_orders()
        if now - self._reconciled_at >= _RECONCILE_S:
            self._reconciled_at = now
            self._reconcile()
        self._park_idle()
        self._claim_all()
        metrics.SESSIONS_RUNNING.set(len(self._sessions))
        metrics.BANK_BYTES.set(sum(s.track.bank_bytes for s in self._sessions.values() if s.track is not None))

    def _drop_lost(self) -> None:
        for session in list(self._sessions.values()):
            if session.writer.lost or session.writer.failure is not None:
                self._let_go(session, EndItem(None))

    def _take_orders(self) -> None:
        sessions = list(self._sessions.values())
        if not sessions:
            return
        claims = [session.claim for session in sessions]
        controls: list[Control] = self._io.ask(lambda: self._io.services.queue.controls(claims))
        for session, control in zip(sessions, controls, strict=True):
            if not control.owned:
                session.writer.lost = True
                self._let_go(session, EndItem(None))
            elif control.cancel:
                self._let_go(session, EndItem(SessionState.CANCELLED))
            elif control.requests:
                self._guard(session, lambda session=session: self._take_requests(session))  # type: ignore[misc]

    def _take_requests(self, session: RunningSession) -> None:
        queue, taken = self._io.services.queue, session.record.requests_taken
        self._lease.enter("resolve", (session.id,), wait=True)
        session.take_requests(self._io.ask(lambda: queue.requests(session.claim, taken)))

    def _claim_all(self) -> None:
        queue = self._io.services.queue
        while len(self._sessions) + len(self._arrivals) < self._settings.max_tracks and not self._stopping.is_set():
            free = self._capacity - self._load().used_bytes
            try:
                claim = self._io.call(lambda free=free: queue.claim(self.id, free, self._pool.names))  # type: ignore[misc]
            except RETRYABLE:
                self._reconciled_at = float("-inf")  # it may have claimed; find out
                return
            if claim is None:
                break
            self._take_in(claim)
        for arrival in self._arrivals.arrived():
            self._open(arrival)
        self._yield_quantum()

    def _park_idle(self) -> None:
        """Live sessions without frames give their place up until the next one comes."""
        for session in list(self._sessions.values()):
            if isinstance(session, LiveSession) and session.is_idle(self._settings.live_idle_s):
                _log.info("live session parks", session=session.id, seq=session.seq)
                self._guard(session, session.take_snapshot)
                if session.id in self._sessions:
                    self._let_go(session, EndItem(None, park=True))

    def _yield_quantum(self) -> None:
        """Hand back the session that ran longest beyond its quantum, when another waits that could run here.

        A live one only where there is no other: somebody watches it, but a camera never ends by itself.
        """
        got_further = [session for session in self._sessions.values() if session.got_further_at is not None]
        longest = min(got_further, key=lambda s: (s.record.spec.live, s.got_further_at or 0.0), default=None)
        if longest is None or time.monotonic() - (longest.got_further_at or 0.0) < self._settings.quantum_s:
            return
        heads = self._io.ask(lambda: self._io.services.queue.heads(self._pool.names))
        if any(head <= self._capacity for head in heads):
            _log.info("session yields", session=longest.id, seq=longest.seq)
            longest.take_snapshot()
            self._let_go(longest, EndItem(None))

    def _reconcile(self) -> None:
        """Hand back sessions that Redis says are ours but that we do not have: the answer to a claim was lost."""
        queue = self._io.services.queue
        for session_id in self._io.ask(lambda: queue.held_by(self.id)):
            if session_id in self._sessions or session_id in self._writers:
                continue
            record = self._record(session_id)
            if record is not None and record.worker == self.id:
                claim = Claim(session_id=session_id, epoch=record.epoch)
                SessionWriter(self._io, claim, record).put(EndItem(None))

    # Sessions come and go

    def _take_in(self, claim: Claim) -> None:
        """A claimed session's video is fetched first; the others go on meanwhile."""
        record = self._record(claim.session_id)
        if record is None:
            return
        writer = self._writers[claim.session_id] = SessionWriter(self._io, claim, record)
        if record.cancel:
            writer.put(EndItem(SessionState.CANCELLED))
            return
        _log.info("session claimed", session=record.id, epoch=claim.epoch, seq=record.next_seq)
        if record.queued_at is not None:
            metrics.QUEUE_SECONDS.observe(max(0.0, time.time() - record.queued_at))
        self._arrivals.begin(Arrival(claim, record, writer))

    def _open(self, arrival: Arrival) -> None:
        claim, record, writer = arrival.claim, arrival.record, arrival.writer
        with arrival.held:
            session = self._guard_open(record.id, writer, lambda: self._prepare(claim, record, writer))
        if session is not None:
            self._sessions[record.id] = session
            self._finish_if_done(session)

    def _prepare(self, claim: Claim, record: SessionRecord, writer: SessionWriter) -> RunningSession:
        ids = (record.id,)
        engine = self._pool.get(
            record.spec.engine,
            in_use={session.record.spec.engine for session in self._sessions.values()},
            before_load=lambda: self._lease.enter("load", ids, wait=True),
        )
        if needs_resolution(record.references):
            self._lease.enter("resolve", ids, wait=True)  # it may load a network of its own
        else:
            self._lease.enter("restore", ids, wait=True)
        kind = LiveSession if record.spec.live else RunningSession
        session = kind(claim, record, engine, writer, self._around)
        session.suspect = session.suspect or record.id in self._suspects
        self._suspects.discard(record.id)
        try:
            session.prepare()
        except BaseException:
            session.close()
            raise
        queue = self._io.services.queue
        requests = self._io.ask(lambda: queue.requests(claim, record.requests_taken))
        if requests:
            session.take_requests(requests)
        return session

    def _let_go(self, session: RunningSession, end: EndItem) -> None:
        """The session leaves the loop; its writer does the rest."""
        session.close()
        self._sessions.pop(session.id, None)
        session.writer.put(end)

    def _finish_if_done(self, session: RunningSession) -> None:
        if session.is_done:
            _log.info("session completed", session=session.id, masks=session.seq)
            self._let_go(session, EndItem(SessionState.COMPLETED))

    def _guard(self, session: RunningSession, action: Callable[[], T]) -> T | None:
        """Run what concerns one session; whatever goes wrong ends that session only."""
        try:
            return action()
        except Exception as error:
            self._let_go(session, EndItem(SessionState.FAILED, problem_of(error, session.id)))
            return None

    def _guard_open(self, session_id: str, writer: SessionWriter, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except Exception as error:
            writer.put(EndItem(SessionState.FAILED, problem_of(error, session_id)))
            return None

    # Steps

    def _step_or_wait(self) -> None:
        ready = self._ready_frames()
        if not ready:
            self._lease.enter("wait")
            self._stopping.wait(_NO_FRAME_PAUSE_S)
        for group in self._groups(ready):
            self._step(group)
        for session in list(self._sessions.values()):
            if session.snapshot_is_due(self._settings.snapshot_interval_s, self._settings.snapshot_share):
                self._guard(session, session.take_snapshot)

    def _ready_frames(self) -> list[Ready]:
        ready = []
        for session in list(self._sessions.values()):
            if self._guard(session, session.is_ready):
                frame = self._guard(session, session.next_frame)
                if isinstance(session, LiveSession) and session.brings_references:
                    self._lease.enter("resolve", (session.id,), wait=True)
                    self._guard(session, session.take_frame_references)
                if session.id not in self._sessions:
                    continue
                if frame is not None:
                    ready.append((session, frame))
                else:
                    self._finish_if_done(session)
        return ready

    def _groups(self, ready: Sequence[Ready]) -> list[list[Ready]]:
        """Those that may share one call: same engine, same network size. Suspects and untracked frames go alone."""
        groups: dict[object, list[Ready]] = {}
        for session, frame in ready:
            alone = session.suspect or not session.can_propagate
            key = session.id if alone else (session.record.spec.engine, session.track.network_size)
            groups.setdefault(key, []).append((session, frame))
        return list(groups.values())

    def _step(self, group: list[Ready]) -> None:
        sessions = [session for session, _ in group]
        predictions: list[Prediction] | list[None] | None = [None] * len(group)
        self._enter_step(sessions)
        if sessions[0].can_propagate:
            predictions = self._propagate(group)
        if predictions is None:
            return
        for (session, frame), prediction in zip(group, predictions, strict=True):
            self._guard(session, lambda s=session, f=frame, p=prediction: s.advance(f, p))  # type: ignore[misc]
            if session.id in self._sessions:
                self._finish_if_done(session)

    def _propagate(self, group: list[Ready]) -> list[Prediction] | None:
        """One call for the group. When it fails, a lone session fails; several are tried again one by one."""
        engine, name = group[0][0].engine, group[0][0].record.spec.engine
        began = time.monotonic()
        try:
            predictions = engine.propagate(
                [session.track for session, _ in group],
                [frame.rgb for _, frame in group],
                probability=any(session.record.spec.probability for session, _ in group),
            )
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            self._isolate(group, error)
            return None
        except torch.AcceleratorError:
            raise  # the device is unusable for this process
        except Exception as error:
            self._isolate(group, error)
            return None
        metrics.STEP_SECONDS.labels(name).observe(time.monotonic() - began)
        metrics.STEP_TRACKS.observe(len(group))
        return predictions

    def _isolate(self, group: list[Ready], error: Exception) -> None:
        for session, _ in group:
            if len(group) == 1:
                self._let_go(session, EndItem(SessionState.FAILED, problem_of(error, session.id)))
            else:
                self._suspects.add(session.id)
                self._let_go(session, EndItem(None))

    # Lease

    def _enter_step(self, sessions: list[RunningSession]) -> None:
        ids = tuple(session.id for session in sessions)
        first = sessions[0]
        size = first.track.network_size if first.can_propagate else None
        shape = (first.record.spec.engine, size)
        if size is not None and shape not in self._warm:
            self._warm.add(shape)
            self._lease.enter("warmup", ids, wait=True)
        else:
            self._lease.enter("step", ids, wait=first.suspect)

    # The end

    def _nothing_left(self) -> bool:
        return (
            not self._arrivals
            and self._io.wait_for_writers(1.0)
            and not self._io.ask(lambda: self._io.services.queue.heads(self._pool.names))
        )

    def _drain(self) -> None:
        """Snapshot and hand back every session, then let the lease go."""
        for arrival in self._arrivals.give_up():
            arrival.writer.put(EndItem(None))
        for session in list(self._sessions.values()):
            self._guard(session, session.take_snapshot)
            if session.id in self._sessions:
                self._let_go(session, EndItem(None))
        if not self._io.wait_for_writers(self._settings.drain_timeout_s):
            _log.warning("some sessions could not be handed back in time; others will take them over")
        self._lease.enter("stopped", wait=True)
        self._io.ask(lambda: self._io.services.queue.expire_lease(self.id))
        self._presence.withdraw()
        _log.info("worker stopped", worker=self.id)

    def _load(self) -> Load:
        used = sum(session.record.spec.device_bytes for session in self._sessions.values())
        return Load(len(self._sessions) + len(self._arrivals), used + self._arrivals.device_bytes)

    def _record(self, session_id: str) -> SessionRecord | None:
        return self._io.ask(lambda: self._io.services.sessions.get(session_id))

    def _archives(self, session_id: str) -> list[ArchiveRecord]:
        return self._io.ask(lambda: self._io.services.sessions.archives(session_id))
