"""One frame further for all sessions together: those with the same engine and network size share a call.

Part of the step loop: uses the device, and enters the lease's stages for it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from engines.types import Prediction
from service import metrics
from service.media.reader import VideoFrame
from service.schemas import SessionState
from service.worker.bell import Bell
from service.worker.failures import problem_of
from service.worker.items import EndItem
from service.worker.lease import Lease
from service.worker.live_session import LiveSession
from service.worker.records import wait_for_any
from service.worker.roster import Roster
from service.worker.session import RunningSession

Ready = tuple[RunningSession, VideoFrame]


class Stepper:
    """Steps the roster's sessions; those that end or fail on the way leave it."""

    def __init__(self, roster: Roster, lease: Lease, bell: Bell) -> None:
        self._roster = roster
        self._lease = lease
        self._bell = bell
        self._warm: set[tuple[str, object]] = set()

    def step(self) -> bool:
        """Take a frame of every session that has one ready. Whether any had."""
        ready = self._ready_frames()
        for group in _groups(ready):
            self._step(group)
        return bool(ready)

    def wait(self, timeout_s: float) -> None:
        """Until a decoder has said something, the bell is rung, or the time is up."""
        pipes = [self._bell.pipe, *(session.pipe for session in self._roster.sessions)]
        wait_for_any([pipe for pipe in pipes if pipe is not None], timeout_s)

    def _ready_frames(self) -> list[Ready]:
        roster, ready = self._roster, []
        for session in roster.sessions:
            if roster.guard(session, session.is_ready):
                frame = roster.guard(session, session.next_frame)
                if isinstance(session, LiveSession) and session.brings_references:
                    self._lease.enter("resolve", (session.id,), wait=True)
                    roster.guard(session, session.take_frame_references)
                if not roster.runs(session):
                    continue
                if frame is not None:
                    ready.append((session, frame))
                else:
                    roster.finish_if_done(session)
        return ready

    def _step(self, group: list[Ready]) -> None:
        sessions = [session for session, _ in group]
        predictions: list[Prediction] | list[None] | None = [None] * len(group)
        self._enter_step(sessions)
        if sessions[0].can_propagate:
            predictions = self._propagate(group)
        if predictions is None:
            return
        for (session, frame), prediction in zip(group, predictions, strict=True):
            self._roster.guard(session, lambda s=session, f=frame, p=prediction: s.advance(f, p))  # type: ignore[misc]
            if self._roster.runs(session):
                self._roster.finish_if_done(session)

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
                self._roster.let_go(session, EndItem(SessionState.FAILED, problem_of(error, session.id)))
            else:
                self._roster.let_go_as_suspect(session)


def _groups(ready: Sequence[Ready]) -> list[list[Ready]]:
    """Those that may share one call: same engine, same network size. Suspects and untracked frames go alone."""
    groups: dict[object, list[Ready]] = {}
    for session, frame in ready:
        alone = session.suspect or not session.can_propagate
        key = session.id if alone else (session.record.spec.engine, session.track.network_size)
        groups.setdefault(key, []).append((session, frame))
    return list(groups.values())
