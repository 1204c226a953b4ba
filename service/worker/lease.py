"""The worker's lease, renewed by the step loop alone as it enters a stage, for that stage's own deadline.

Knows nothing of what the stages do. A death in a stage is laid at the door of the sessions named with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from service.schemas import WorkerRecord
from service.settings import Settings
from service.worker.io import IoThread, Stage

StageName = Literal["idle", "wait", "load", "resolve", "restore", "warmup", "step", "stopped"]

_RENEW_S = 0.5
_STEP_S = {"cuda": 10.0, "cpu": 120.0}
"""A step of a large engine takes many seconds of a busy processor; a device that takes this long hangs."""


@dataclass(frozen=True)
class Load:
    """What the worker has in hand: sessions, and the device bytes that they may take."""

    sessions: int
    used_bytes: int


class Lease:
    """One worker's lease. facts: what never changes of its record; load: asked at every renewal."""

    def __init__(self, io: IoThread, facts: WorkerRecord, load: Callable[[], Load], settings: Settings) -> None:
        self._io = io
        self._facts = facts
        self._load = load
        self._entered: tuple[str, tuple[str, ...], float] = ("", (), float("-inf"))
        tick_s = settings.lease_step_s or _STEP_S["cuda"]
        step_s = settings.lease_step_s or _STEP_S.get(facts.device.partition(":")[0], _STEP_S["cuda"])
        self._deadlines: dict[StageName, float] = {
            "idle": tick_s,
            "wait": tick_s,
            "step": step_s,
            "stopped": tick_s,
            "warmup": settings.lease_warmup_s,
            "restore": settings.lease_restore_s,
            "load": settings.lease_load_s,
            "resolve": settings.lease_load_s,
        }

    def enter(self, stage: StageName, sessions: tuple[str, ...] = (), *, wait: bool = False) -> None:
        """Renew for a stage that works on `sessions`; unless it waits, no more often than the same stage needs.

        wait: return only when Redis has it, because what follows may end the process.
        """
        last_stage, last_sessions, at = self._entered
        now, deadline_s = time.monotonic(), self._deadlines[stage]
        same = (stage, sessions) == (last_stage, last_sessions)
        if same and not wait and now - at < min(_RENEW_S, deadline_s / 4):
            return
        self._entered = (stage, sessions, now)
        load = self._load()
        changes = {
            "stage": stage,
            "sessions": load.sessions,
            "free_bytes": self._facts.capacity_bytes - load.used_bytes,
            "at": time.time(),
        }
        self._io.enter(Stage(self._facts.model_copy(update=changes), sessions, deadline_s), wait=wait)
