"""The parent's side of a decode child: one session's frames, in order, whatever the child does.

A child that dies or hangs is started again at the same frame, twice; then the session fails there. A video that the
child *reports* as broken fails at once: trying again would give the same. Knows nothing of sessions or Redis.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from service.errors import DecodeFailed
from service.media.reader import MediaLimits, VideoFrame, media_limits
from service.settings import MIB, Settings
from service.worker.decode import END, ERROR, FRAME, HEADER, OPEN, REPEATED
from service.worker.silence import Silence

_RESTARTS_PER_FRAME = 2


@dataclass(frozen=True)
class DecodeLimits:
    """What one decode child may use."""

    media: MediaLimits
    memory_bytes: int
    frame_timeout_s: float
    seek_timeout_s: float
    readahead: int = 2

    @classmethod
    def of(cls, settings: Settings) -> DecodeLimits:
        """The limits that the settings name."""
        return cls(
            media=media_limits(settings),
            memory_bytes=settings.decode_memory_mib * MIB,
            frame_timeout_s=settings.decode_frame_timeout_s,
            seek_timeout_s=settings.decode_seek_timeout_s,
            readahead=settings.decode_readahead,
        )


class _ChildLost(Exception):
    """The child died, hung, or said something that is no record."""


class ChildFrames:
    """Frames from a child process, from `start_frame` on; what the child reads them from is the subclass's business.

    size: (height, width) as displayed; frame_size: of the frames given out. Both start the child if need be.
    Not for several threads at once.
    """

    module: ClassVar[str]
    """The child's program."""

    def __init__(self, limits: DecodeLimits, start_frame: int, step: Literal[1, -1]) -> None:
        self._limits = limits
        self._next_index = start_frame
        self._step = step
        self._child: subprocess.Popen[bytes] | None = None
        self._sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
        self._awaits_open = True
        self._ended = False
        self.repeated: list[int] = []
        """Frames that could not be decoded and show the one before them; live sessions only."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def next_index(self) -> int:
        """Index of the frame that next_frame() gives."""
        return self._next_index

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as displayed. Raises DecodeFailed."""
        return self._opened()[0]

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the frames given out. Raises DecodeFailed."""
        return self._opened()[1]

    def start(self) -> None:
        """Start decoding ahead without waiting for anything."""
        if self._child is None and not self._ended:
            self._spawn()

    def is_ready(self) -> bool:
        """Whether next_frame() would answer without waiting for the decoder. Starts the child if need be."""
        if self._ended:
            return True
        self.start()
        if self._awaits_open and _readable(self._stdout(), 0.0):
            self._opened()
        return _readable(self._stdout(), 0.0)

    def next_frame(self) -> VideoFrame | None:
        """The next frame, or None after the last. Raises DecodeFailed with the frame's index."""
        if self._ended:
            return None
        attempts = 0
        while True:
            try:
                self._opened()
                frame = self._read_frame()
                break
            except _ChildLost as lost:
                attempts += 1
                self._restart_or_fail(attempts, lost)
        if frame is None:
            self._ended = True
            self.close()
        else:
            self._next_index = frame.frame_index + self._step
        return frame

    def close(self) -> None:
        """End the child. A later next_frame() starts another one at the same place."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
        child.wait()

    def _opened(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The sizes, from the child's first record; starts it (again) where there is none."""
        attempts = 0
        while True:
            if self._child is None:
                self._spawn()
            elif self._sizes is not None and not self._awaits_open:
                return self._sizes
            try:
                answer = json.loads(self._record(OPEN, self._limits.seek_timeout_s)[2].tobytes())
                self._sizes = (_pair(answer["size"]), _pair(answer["scaled"]))
                self._awaits_open = False
            except _ChildLost as lost:
                attempts += 1
                self._restart_or_fail(attempts, lost)

    def _restart_or_fail(self, attempts: int, lost: _ChildLost) -> None:
        self.close()
        if attempts > _RESTARTS_PER_FRAME:
            index = self._next_index
            raise DecodeFailed(f"the decoder stopped at frame {index}: {lost}", frame_index=index) from lost

    def _read_frame(self) -> VideoFrame | None:
        """One FRAME record as an array, or None at the END."""
        kind, header, payload = self._record(None, self._limits.frame_timeout_s)
        if kind == END:
            return None
        if kind not in (FRAME, REPEATED) or self._sizes is None or header[1] != self._next_index:
            raise _ChildLost(f"it sent {kind!r} {header[1]} in place of frame {self._next_index}")
        if kind == REPEATED:
            self.repeated.append(header[1])
        return VideoFrame(header[1], header[2], payload.reshape(*self._sizes[1], 3))

    def _record(self, expected: bytes | None, timeout_s: float) -> tuple[bytes, tuple[Any, ...], NDArray[np.uint8]]:
        """One record; ERROR becomes DecodeFailed."""
        deadline = time.monotonic() + timeout_s
        header = HEADER.unpack(self._read_exactly(HEADER.size, deadline).data)
        kind, index, _, length = header
        payload = self._read_exactly(length, deadline)
        if kind == ERROR:
            self.close()
            raise DecodeFailed(json.loads(payload.tobytes())["detail"], frame_index=index)
        if expected is not None and kind != expected:
            raise _ChildLost(f"it sent {kind!r} in place of {expected!r}")
        return kind, header, payload

    def _read_exactly(self, length: int, deadline: float) -> NDArray[np.uint8]:
        fd, data = self._stdout(), np.empty(length, np.uint8)
        view, have = data.data, 0
        while have < length:
            left = deadline - time.monotonic()
            if left <= 0 or not _readable(fd, left):
                raise _ChildLost("it took too long")
            got = os.readv(fd, [view[have:]])
            if got == 0:
                raise _ChildLost(f"its process ended ({self._exit_reason()})")
            have += got
        return data

    def _exit_reason(self) -> str:
        if self._child is None:
            return "not started"
        try:
            code = self._child.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "output closed"
        return f"signal {-code}" if code < 0 else f"status {code}"

    def _stdout(self) -> int:
        if self._child is None or self._child.stdout is None:
            raise _ChildLost("not started")
        return self._child.stdout.fileno()

    def _spawn(self) -> None:
        self.close()
        limits = self._limits
        request = {
            **self._request(),
            "limits": asdict(limits.media),
            "memory_bytes": limits.memory_bytes,
            "cpu_s": limits.frame_timeout_s * 2,
            "seek_cpu_s": limits.seek_timeout_s * 2,
            "readahead": limits.readahead,
        }
        self._awaits_open = True
        command = [sys.executable, "-m", self.module]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        _widen(self._stdout())
        if self._child.stdin is not None:
            try:
                self._child.stdin.write(json.dumps(request).encode() + b"\n")
            except BrokenPipeError:
                return  # it died at once; reading finds out
            self._started(self._child.stdin.fileno())

    def _request(self) -> dict[str, Any]:
        """What the child is to do; limits are added."""
        raise NotImplementedError

    def _started(self, child_input: int) -> None:
        """A child is up and has its request; `child_input` is the descriptor of its standard input."""


class FrameSource(ChildFrames):
    """Frames of a video file, forwards or backwards, scaled to `max_side`."""

    module = "service.worker.decode"

    def __init__(
        self,
        path: Path,
        limits: DecodeLimits,
        *,
        start_frame: int = 0,
        step: Literal[1, -1] = 1,
        max_side: int | None = None,
    ) -> None:
        super().__init__(limits, start_frame, step)
        self._path = path
        self._max_side = max_side
        self._asked_from = start_frame
        self._silence = Silence()

    def is_ready(self) -> bool:
        """As promised. A child that is silent beyond its time is restarted, and at last DecodeFailed is raised."""
        if super().is_ready():
            self._silence.end()
            return True
        seeks = self._awaits_open or self._next_index == self._asked_from
        limit_s = self._limits.seek_timeout_s if seeks else self._limits.frame_timeout_s
        if times := self._silence.times_too_long(limit_s, self._next_index):
            self._restart_or_fail(times, _ChildLost("it took too long"))
        return False

    def _request(self) -> dict[str, Any]:
        self._asked_from = self._next_index
        place = {"start_frame": self._next_index, "step": self._step, "max_side": self._max_side}
        return {"path": str(self._path.resolve()), **place}


def _readable(fd: int, timeout_s: float) -> bool:
    """Whether reading would not wait. poll(), because select() knows no descriptor above 1023."""
    poller = select.poll()
    poller.register(fd, select.POLLIN | select.POLLHUP)
    return bool(poller.poll(timeout_s * 1000))


def _widen(pipe: int) -> None:
    """Room for most of a frame where the system allows it, so that parent and child take fewer turns over one."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, MIB)


def _pair(values: list[int]) -> tuple[int, int]:
    return values[0], values[1]
