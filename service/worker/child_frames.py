"""Frames that a child process decodes, in order, whatever the child does. Knows nothing of sessions or Redis.

A child that dies or hangs is started again at the same frame, twice; then the session fails there. A video that the
child *reports* as broken fails at once: trying again would give the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, ClassVar, Literal, NamedTuple, Self

from service.errors import DecodeFailed
from service.media.reader import MediaLimits, VideoFrame, media_limits
from service.settings import MIB, Settings
from service.worker.decode import END, ERROR, FRAME, OPEN, REPEATED
from service.worker.records import ChildEnded, ChildLost, Record, RecordReader

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


class Sizes(NamedTuple):
    """(height, width) as displayed, and of the frames given out."""

    shown: tuple[int, int]
    scaled: tuple[int, int]


class ChildFrames(ABC):
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
        self._spawned_for = start_frame
        self._child: subprocess.Popen[bytes] | None = None
        self._reader: RecordReader | None = None
        self._sizes: Sizes | None = None
        self._awaits_open = True
        self._ended = False
        self._silent_since: float | None = None
        self._lost: Counter[int] = Counter()
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
        return (self._sizes or self._opened()).shown

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the frames given out. Raises DecodeFailed."""
        return (self._sizes or self._opened()).scaled

    @property
    def pipe(self) -> int | None:
        """What has bytes to read when there is news of the child; None without a child."""
        return None if self._reader is None else self._reader.pipe

    def start(self) -> None:
        """Start decoding ahead without waiting for anything."""
        if self._child is None and not self._ended:
            self._spawn()

    def is_ready(self) -> bool:
        """Whether next_frame() would answer without waiting for the decoder. Starts the child if need be.

        A child that has died, or is silent beyond its time, is started again; at last DecodeFailed is raised.
        """
        if self._ended:
            return True
        self.start()
        try:
            reader = self._connected()
            if self._awaits_open and reader.is_whole():
                self._take_open(reader)
            ready = not self._awaits_open and reader.is_whole()
            if not ready:
                self._require_patience()
        except ChildLost as lost:
            self._restart_or_fail(lost)
            return False
        if ready:
            self._silent_since = None
        return ready

    def next_frame(self) -> VideoFrame | None:
        """The next frame, or None after the last. Raises DecodeFailed with the frame's index."""
        if self._ended:
            return None
        while True:
            self._opened()
            try:
                frame = self._read_frame()
                break
            except ChildLost as lost:
                self._restart_or_fail(lost)
        if frame is None:
            self._ended = True
            self.close()
        else:
            self._next_index = frame.frame_index + self._step
        return frame

    def close(self) -> None:
        """End the child. A later next_frame() starts another one at the same place."""
        child, self._child, self._reader = self._child, None, None
        self._awaits_open, self._silent_since = True, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
        child.wait()

    def _opened(self) -> Sizes:
        """The sizes, from the child's first record; starts it (again) where there is none."""
        while self._sizes is None or self._awaits_open:
            if self._child is None:
                self._spawn()
            try:
                self._take_open(self._connected())
            except ChildLost as lost:
                self._restart_or_fail(lost)
        return self._sizes

    def _take_open(self, reader: RecordReader) -> None:
        record = self._take(reader, self._limits.seek_timeout_s)
        if record.kind != OPEN:
            raise ChildLost(f"it sent {record.kind!r} in place of {OPEN!r}")
        answer = json.loads(record.payload.tobytes())
        self._sizes = Sizes(_pair(answer["size"]), _pair(answer["scaled"]))
        self._awaits_open = False

    def _read_frame(self) -> VideoFrame | None:
        """One FRAME record as an array, or None at the END."""
        timeout_s = self._owed_within_s() or self._limits.frame_timeout_s
        kind, index, pts_s, payload = self._take(self._connected(), timeout_s)
        if kind == END:
            return None
        if kind not in (FRAME, REPEATED) or self._sizes is None or index != self._next_index:
            raise ChildLost(f"it sent {kind!r} {index} in place of frame {self._next_index}")
        if kind == REPEATED:
            self.repeated.append(index)
        return VideoFrame(index, pts_s, payload.reshape(*self._sizes.scaled, 3))

    def _take(self, reader: RecordReader, timeout_s: float) -> Record:
        """One record; ERROR becomes DecodeFailed."""
        record = reader.take(timeout_s)
        if record.kind == ERROR:
            self.close()
            raise DecodeFailed(json.loads(record.payload.tobytes())["detail"], frame_index=record.frame_index)
        return record

    def _require_patience(self) -> None:
        """Raise ChildLost when the child has owed a record for too long. The kernel ends only what uses processor."""
        limit_s, now = self._owed_within_s(), time.monotonic()
        if limit_s is None:
            self._silent_since = None
            return
        self._silent_since = self._silent_since or now
        if now - self._silent_since > limit_s:
            raise ChildLost("it took too long")

    def _restart_or_fail(self, lost: ChildLost) -> None:
        """End the child; the next call starts another one. Raises DecodeFailed at the third time at one frame."""
        how = f"{lost} ({self._exit_status()})" if isinstance(lost, ChildEnded) else str(lost)
        self.close()
        index = self._next_index
        self._lost[index] += 1
        if self._lost[index] > _RESTARTS_PER_FRAME:
            raise DecodeFailed(f"the decoder stopped at frame {index}: {how}", frame_index=index) from lost

    def _exit_status(self) -> str:
        if self._child is None:
            return "not started"
        try:
            code = self._child.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "output closed"
        return f"signal {-code}" if code < 0 else f"status {code}"

    def _connected(self) -> RecordReader:
        if self._reader is None:
            raise ChildLost("not started")
        return self._reader

    def _spawn(self) -> None:
        self.close()
        self._spawned_for = self._next_index
        limits = self._limits
        request = {
            **self._request(),
            "limits": asdict(limits.media),
            "memory_bytes": limits.memory_bytes,
            "cpu_s": limits.frame_timeout_s * 2,
            "seek_cpu_s": limits.seek_timeout_s * 2,
            "readahead": limits.readahead,
        }
        command = [sys.executable, "-m", self.module]
        pipe = subprocess.PIPE
        self._child = child = subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, start_new_session=True)
        if child.stdin is None or child.stdout is None:
            raise ChildLost("it has no pipes")
        self._reader = RecordReader(child.stdout.fileno())
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            return  # it died at once; reading finds out
        self._started(child.stdin.fileno())

    @abstractmethod
    def _request(self) -> dict[str, Any]:
        """What the child is to do; limits are added."""

    def _owed_within_s(self) -> float | None:
        """How long the next record may take from the child; None while the child waits for others."""
        starts = self._awaits_open or self._next_index == self._spawned_for
        return self._limits.seek_timeout_s if starts else self._limits.frame_timeout_s

    @abstractmethod
    def _started(self, child_input: int) -> None:
        """A child is up and has its request; `child_input` is the descriptor of its standard input."""


def _pair(values: list[int]) -> tuple[int, int]:
    return values[0], values[1]
