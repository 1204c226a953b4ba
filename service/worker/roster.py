"""The sessions that a worker has in hand: on their way in, running, or with their last writes under way.

Owned by the step loop, the only one to touch it. Whatever goes wrong with a session ends that session only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog

from service.schemas import Claim, SessionRecord, SessionState
from service.storage import Storage
from service.worker.arrivals import Arrivals
from service.worker.bell import Bell
from service.worker.failures import problem_of
from service.worker.io import IoThread
from service.worker.items import EndItem
from service.worker.lease import Load
from service.worker.session import RunningSession
from service.worker.writer import SessionWriter

T = TypeVar("T")

_log = structlog.get_logger()


class Roster:
    """A session has a writer from its claim on, arrives, runs when it is open, and leaves by let_go()."""

    def __init__(self, io: IoThread, storage: Storage, bell: Bell) -> None:
        self.arrivals = Arrivals(storage, bell)
        self._io = io
        self._bell = bell
        self._sessions: dict[str, RunningSession] = {}
        self._writers: dict[str, SessionWriter] = {}
        self._suspects: set[str] = set()

    @property
    def sessions(self) -> list[RunningSession]:
        """Those that run now; any may be let go while the list is gone through."""
        return list(self._sessions.values())

    def runs(self, session: RunningSession) -> bool:
        """Whether it has not been let go yet."""
        return session.id in self._sessions

    def knows(self, session_id: str) -> bool:
        """Whether it runs here, or is still being fetched or written."""
        return session_id in self._sessions or session_id in self._writers

    def load(self) -> Load:
        """What runs and what is on its way in."""
        used = sum(session.record.spec.device_bytes for session in self._sessions.values())
        return Load(len(self._sessions) + len(self.arrivals), used + self.arrivals.device_bytes)

    def begin_writer(self, claim: Claim, record: SessionRecord) -> SessionWriter:
        """The writer of a session that has just been claimed."""
        writer = self._writers[claim.session_id] = SessionWriter(self._io, claim, record)
        return writer

    def drop_ended_writers(self) -> None:
        """Forget the writers that have nothing left to do."""
        self._writers = {i: writer for i, writer in self._writers.items() if i in self._sessions or not writer.is_over}

    def add(self, session: RunningSession) -> None:
        """An open session runs from now on, unless nothing of it is left to make."""
        self._sessions[session.id] = session
        self.finish_if_done(session)

    def let_go(self, session: RunningSession, end: EndItem) -> None:
        """The session leaves the loop; its writer does the rest."""
        session.close()
        self._sessions.pop(session.id, None)
        session.writer.put(end)
        self._bell.ring()  # another may take its place

    def finish_if_done(self, session: RunningSession) -> None:
        """Let it go when its plan is through."""
        if session.is_done:
            _log.info("session completed", session=session.id, masks=session.seq)
            self.let_go(session, EndItem(SessionState.COMPLETED))

    def let_go_as_suspect(self, session: RunningSession) -> None:
        """Back to the queue, because of a call that failed with others in it; whether it was at fault is unknown."""
        self._suspects.add(session.id)
        self.let_go(session, EndItem(None))

    def take_suspicion(self, session_id: str) -> bool:
        """Whether it was let go as a suspect here; asked once, when it comes back."""
        was_suspect = session_id in self._suspects
        self._suspects.discard(session_id)
        return was_suspect

    def guard(self, session: RunningSession, action: Callable[[], T]) -> T | None:
        """Run what concerns one session; whatever goes wrong ends that session only."""
        try:
            return action()
        except Exception as error:
            self.let_go(session, EndItem(SessionState.FAILED, problem_of(error, session.id)))
            return None
