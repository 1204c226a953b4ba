"""A session's stored video: frames of it from anywhere, in either direction.

Knows no plan. Where storage is elsewhere, the copy is held from the first frame on until close().
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from engines.types import LabelMap
from service.errors import DecodeFailed
from service.media.reader import VideoFrame
from service.plan import Step
from service.schemas import SessionRecord
from service.storage import Storage
from service.worker.child_frames import DecodeLimits
from service.worker.frames import FrameSource


class SessionVideo:
    """Frames at the engine's size; a live session has none and never asks."""

    def __init__(self, storage: Storage, limits: DecodeLimits, record: SessionRecord) -> None:
        self._storage = storage
        self._limits = limits
        self._session_id = record.id
        self._spec = record.spec
        self._held = ExitStack()
        self._path: Path | None = None

    def frames(self, start_frame: int, step: Step) -> FrameSource:
        """Frames from `start_frame` on, decoded ahead; the caller closes it."""
        if self._path is None:
            self._path = self._held.enter_context(self._storage.local(self._session_id, self._spec.video.name))
        max_side = self._spec.max_side
        return FrameSource(self._path, self._limits, start_frame=start_frame, step=step, max_side=max_side)

    def frame_at(self, frame_index: int) -> VideoFrame:
        """One frame from anywhere in the video. Raises DecodeFailed where there is none."""
        with self.frames(frame_index, 1) as source:
            frame = source.next_frame()
        if frame is None:
            raise DecodeFailed(f"the video has no frame {frame_index}", frame_index=frame_index)
        return frame

    def read(self, first: int, count: int) -> list[LabelMap]:
        """[H, W, 3] frames from anywhere in the video; fewer at its end."""
        with self.frames(first, 1) as source:
            read = (source.next_frame() for _ in range(count))
            return [frame.rgb for frame in read if frame is not None]

    def close(self) -> None:
        """Let the copy go."""
        self._held.close()
