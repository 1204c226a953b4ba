"""Frames of a video file, decoded in a child process: see ChildFrames for what happens when the child fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from service.worker.child_frames import ChildFrames, DecodeLimits


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

    def _request(self) -> dict[str, Any]:
        place = {"start_frame": self._next_index, "step": self._step, "max_side": self._max_side}
        return {"path": str(self._path.resolve()), **place}

    def _started(self, child_input: int) -> None:
        """The request was all that it needs."""
