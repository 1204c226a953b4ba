"""A running live session: references come with the frames that they show, and the next frame may take hours.

seq == frame_index throughout: one forward segment without an end, until the client says so.
"""

from __future__ import annotations

import time
from typing import Any

from engines.protocols import Engine
from engines.types import LabelMap, Prediction
from service import plan as plans
from service.media.reader import VideoFrame
from service.schemas import Claim, ReferenceRequest, SessionRecord
from service.worker.child_frames import ChildFrames
from service.worker.corrections import Taken
from service.worker.live_frames import LiveSource
from service.worker.references import load_references
from service.worker.session import RunningSession
from service.worker.surroundings import Surroundings
from service.worker.writer import SessionWriter


class LiveSession(RunningSession):
    """Asked for frames like any session; after next_frame(), take_frame_references() where brings_references."""

    def __init__(
        self, claim: Claim, record: SessionRecord, engine: Engine, writer: SessionWriter, around: Surroundings
    ) -> None:
        super().__init__(claim, record, engine, writer, around)
        self._live: LiveSource | None = None
        self._frame: VideoFrame | None = None
        self._request: ReferenceRequest | None = None
        self._waits_since = time.monotonic()
        self._snapshot_seq = record.snapshot.seq if record.snapshot is not None else -1
        self._bytes_at_snapshot = 0

    @property
    def brings_references(self) -> bool:
        """Whether references came with the frame just taken."""
        return self._request is not None

    def is_idle(self, idle_s: float) -> bool:
        """Whether the client has sent nothing for so long."""
        waits = self._live is not None and self._live.waits_for_client
        return waits and time.monotonic() - self._waits_since > idle_s

    def next_frame(self) -> VideoFrame | None:
        """The next frame; None after the client's `end`. Raises DecodeFailed."""
        self._frame = frame = super().next_frame()
        self._waits_since = time.monotonic()
        if self._live is not None and frame is not None:
            self._request = self._live.request_at(frame.frame_index)
            self._warn_of_repeats()
        return frame

    def advance(self, frame: VideoFrame, prediction: Prediction | None) -> None:
        """As for any session; then the frame and its references are let go."""
        super().advance(frame, prediction)
        self._known.draw({})
        self._frame = None
        self._waits_since = time.monotonic()

    def take_frame_references(self) -> None:
        """Put what came with the present frame into the record, and resolve it. Raises InvalidInput, EngineError."""
        frame, request = self._frame, self._request
        self._request = None
        if frame is None or request is None:
            return
        if not any(known.frame_index == frame.frame_index for known in self.record.references):
            self._add(request, frame.frame_index)
        self._resolve_references()
        here = [known for known in self.record.references if known.frame_index == frame.frame_index]
        self._known.draw(load_references(self._around.storage, self.id, here, frame.rgb.shape[:2]))

    def snapshot_is_due(self, interval_s: float, share: float) -> bool:
        """Also when frames that wait for a snapshot fill half of the input's room; never twice at one place."""
        if self._snapshot_seq == self.seq or self.writer.snapshots_under_way or not self.can_propagate:
            return False
        if self._live is not None and self._fed_since() > self._around.live_input_bytes / 2:
            return True
        return super().snapshot_is_due(interval_s, share)

    def take_snapshot(self) -> None:
        """As for any session; the frames before it need not be held any longer."""
        super().take_snapshot()
        self._snapshot_seq = self.seq
        self._bytes_at_snapshot = 0 if self._live is None else self._live.fed_bytes

    def _fed_since(self) -> int:
        return 0 if self._live is None else self._live.fed_bytes - self._bytes_at_snapshot

    def _add(self, request: ReferenceRequest, frame_index: int) -> None:
        known = {item.object_id for item in self.record.objects}
        changes: dict[str, Any] = {
            "references": (*self.record.references, *request.references),
            "objects": (*self.record.objects, *(item for item in request.objects if item.object_id not in known)),
            "warnings": tuple(dict.fromkeys((*self.record.warnings, *request.warnings))),
            "revision": self.record.revision + (1 if frame_index else 0),
        }
        record = self.record.model_copy(update=changes)
        if frame_index:
            self._put_taken(Taken(record, frame_index, tuple(changes)))
        else:
            self._put_record(record, changes)

    def _warn_of_repeats(self) -> None:
        if self._live is None or not self._live.repeated:
            return
        index = self._live.repeated[0]
        self._live.repeated.clear()
        warning = f"frame {index} could not be decoded; the one before it was used in its place (told once)"
        if not any("could not be decoded" in known for known in self.record.warnings):
            self._change({"warnings": (*self.record.warnings, warning)})

    def _open_source(self, start_frame: int, step: plans.Step) -> ChildFrames:
        self._live = LiveSource(self._around.io, self.record, self._around.limits, start_frame)
        self._bytes_at_snapshot = 0
        return self._live

    def _load_references(self) -> None:
        """They come with their frames; those of earlier frames are in the snapshot."""

    def _read_frames(self, first: int, count: int) -> list[LabelMap]:
        """The present frame: no other is at hand."""
        return [self._frame.rgb] if self._frame is not None else []
