"""A live session's frames: read from Redis by the I/O thread, decoded in a child, taken by the step loop.

Like a video file's FrameSource, except that the next frame may take hours to come.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from service.errors import DecodeFailed
from service.live_input import InputEnd, LiveFrame
from service.media.reader import VideoFrame, scaled_size
from service.schemas import ReferenceRequest, SessionRecord
from service.worker.child_frames import ChildFrames, DecodeLimits
from service.worker.decode import END, FRAME, HEADER
from service.worker.io import IoThread
from service.worker.retry import until_answered

_BATCH = 2
_BLOCK_MS = 500


class LiveSource(ChildFrames):
    """Frames from `start_frame` on. fed_bytes: of all pictures handed to the decoder so far."""

    module = "service.worker.live_decode"

    def __init__(self, io: IoThread, record: SessionRecord, limits: DecodeLimits, start_frame: int) -> None:
        super().__init__(limits, start_frame, 1)
        self.fed_bytes = 0
        self._io = io
        self._session_id = record.id
        self._shown = (record.spec.video.height, record.spec.video.width)
        self._scaled = scaled_size(self._shown, record.spec.max_side)
        self._requests: dict[int, ReferenceRequest] = {}
        self._stop_feeding: Callable[[], None] | None = None
        self._failure: DecodeFailed | None = None
        self._waits_for_index = -1
        self._handed_before = start_frame
        """Frames below it were handed to the child, the last one perhaps in part."""

    @property
    def waits_for_client(self) -> bool:
        """Whether all that the client has sent was taken: the decoder has nothing, and Redis had nothing more."""
        return self._waits_for_index == self._next_index

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the frames given out; known without the child."""
        return self._scaled

    def is_ready(self) -> bool:
        """Whether next_frame() would answer without waiting."""
        return self._failure is not None or super().is_ready()

    def next_frame(self) -> VideoFrame | None:
        """The next frame, or None after the client's `end`. Raises DecodeFailed."""
        if self._failure is not None:
            raise self._failure
        return super().next_frame()

    def request_at(self, frame_index: int) -> ReferenceRequest | None:
        """The references that came with a frame; asked once."""
        return self._requests.pop(frame_index, None)

    def close(self) -> None:
        """End the child and its feeding."""
        if self._stop_feeding is not None:
            self._stop_feeding()
            self._stop_feeding = None
        super().close()

    def _request(self) -> dict[str, Any]:
        return {"size": self._shown, "scaled": self._scaled}

    def _owed_within_s(self) -> float | None:
        owes = self._awaits_open or self._handed_before > self._next_index
        return super()._owed_within_s() if owes else None

    def _started(self, child_input: int) -> None:
        # A descriptor of its own: the child's may be closed, and its number taken, before the feeding notices.
        pipe = os.dup(child_input)
        os.set_blocking(pipe, False)
        self._handed_before = self._next_index
        self._stop_feeding = self._io.spawn(self._feed(pipe, self._next_index), at_end=lambda: os.close(pipe))

    async def _feed(self, pipe: int, next_index: int) -> None:
        """Hand pictures to the child as they come, at its own pace."""
        try:
            while True:
                entries = await self._read(next_index)
                self._waits_for_index = -1 if entries else next_index
                for entry in entries:
                    self._handed_before = next_index + 1
                    if isinstance(entry, InputEnd):
                        await _write(pipe, HEADER.pack(END, next_index, 0.0, 0))
                        return
                    if entry.frame_index != next_index:
                        self._failure = _gone(next_index, entry.frame_index)
                        return
                    await self._hand_on(pipe, entry)
                    next_index += 1
        except BrokenPipeError:
            return  # the child died; the step loop starts another, and another feeding

    async def _read(self, next_index: int) -> list[LiveFrame | InputEnd]:
        live, limit = self._io.services.live, self._io.live_reads
        async with limit:
            return await until_answered(
                lambda: live.read(self._session_id, next_index, count=_BATCH, block_ms=_BLOCK_MS)
            )

    async def _hand_on(self, pipe: int, entry: LiveFrame) -> None:
        if entry.request is not None:
            self._requests[entry.frame_index] = entry.request
        await _write(pipe, HEADER.pack(FRAME, entry.frame_index, entry.pts_s, len(entry.image)))
        await _write(pipe, entry.image)
        self.fed_bytes += len(entry.image)


def _gone(wanted: int, first: int) -> DecodeFailed:
    detail = (
        f"frame {wanted} is needed again, but frames before {first} are no longer held: the worker could not use the "
        "session's snapshot (another engine version or dtype). Open a new live session"
    )
    return DecodeFailed(detail, frame_index=wanted)


async def _write(pipe: int, data: bytes) -> None:
    """All of it, waiting whenever the pipe is full."""
    loop, view = asyncio.get_running_loop(), memoryview(data)
    while view:
        try:
            view = view[os.write(pipe, view) :]
        except BlockingIOError:
            writable = loop.create_future()
            loop.add_writer(pipe, _resolve, writable)
            try:
                await writable
            finally:
                loop.remove_writer(pipe)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
