"""Keeps the processes of `maskstream serve` alive, and ends them together.

A process that dies is started again after a pause that grows; one that cannot even start ends all of them, with its
exit code, because trying for ever would hide why. Knows nothing of what the processes do.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

import structlog

from service.embedded import die_with_parent

_TICK_S = 0.2
_STEADY_S = 20.0
"""A process that ran this long had started well."""
_MAX_FALSE_STARTS = 3
_LONGEST_PAUSE_S = 10.0
_log = structlog.get_logger("maskstream.serve")


def free_port() -> int:
    """A port of this machine that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class _Child:
    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    false_starts: int = 0
    exit_code: int = field(default=0)


class Supervisor:
    """Runs named commands until SIGTERM, SIGINT or a process that cannot start.

    look_after: called several times a second, for what is kept alive in another way; what it raises ends all.
    """

    def __init__(
        self, environment: Mapping[str, str], stop_timeout_s: float, look_after: Callable[[], None] | None = None
    ) -> None:
        self._look_after_others = look_after
        self._environment = {**os.environ, **environment}
        self._stop_timeout_s = stop_timeout_s
        self._children: list[_Child] = []
        self._stopping = False

    def add(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """A process to run, with variables of its own; started by run()."""
        self._children.append(_Child(name, command, environment or {}))

    def run(self) -> int:
        """Supervise until told to stop; returns the exit code. Call it from the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            while not self._stopping:
                if self._look_after_others is not None:
                    self._look_after_others()
                for child in self._children:
                    self._look_after(child)
                if any(child.false_starts >= _MAX_FALSE_STARTS for child in self._children):
                    return self._give_up()
                time.sleep(_TICK_S)
            return 0
        finally:
            self._stop_all()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _look_after(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is None:
            if now >= child.restart_at:
                self._start(child)
            return
        code = child.process.poll()
        if code is None:
            if now - child.started_at > _STEADY_S:
                child.false_starts = 0
            return
        child.process = None
        child.exit_code = code
        child.false_starts += 1 if now - child.started_at < _STEADY_S and code > 0 else 0
        pause = min(_LONGEST_PAUSE_S, 0.5 * 2**child.false_starts)
        child.restart_at = now + pause
        _log.warning("a process ended; starting it again", name=child.name, exit_code=code, pause_s=pause)

    def _start(self, child: _Child) -> None:
        child.started_at = time.monotonic()
        child.process = subprocess.Popen(
            child.command,
            env={**self._environment, **child.environment},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches us alone; we end the others in order
            preexec_fn=die_with_parent(),
        )
        _log.info("started", name=child.name, pid=child.process.pid)

    def _give_up(self) -> int:
        failed = next(child for child in self._children if child.false_starts >= _MAX_FALSE_STARTS)
        _log.error("a process cannot start; its own messages say why", name=failed.name, exit_code=failed.exit_code)
        return failed.exit_code

    def _stop_all(self) -> None:
        """SIGTERM to all, so that they drain at the same time; then SIGKILL for what is left."""
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + self._stop_timeout_s
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
