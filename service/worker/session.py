"""One running session: where it stands in its plan, its track, its frames, and what it makes of a prediction.

Owned by the step loop. It asks the engine only for what concerns this track alone; the loop propagates tracks together.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import structlog

from engines.errors import StateMismatch
from engines.protocols import Engine, HasWarnings
from engines.types import LabelMap, MemoryPolicy, Prediction, Size
from service import metrics
from service import plan as plans
from service.errors import DecodeFailed, SessionFailure
from service.media.reader import VideoFrame
from service.plan import Plan, Segment
from service.schemas import Claim, NoteEvent, ReferenceRequest, SessionRecord, SnapshotRecord
from service.sessions import to_fields
from service.worker.child_frames import ChildFrames
from service.worker.corrections import Taken, look_back, take_in
from service.worker.earlier import EarlierMasks
from service.worker.items import MaskItem, PlanItem, SnapshotItem
from service.worker.known_masks import KnownMasks
from service.worker.references import ReferenceMap, followed_in, load_references
from service.worker.resolve import Scene, needs_resolution, resolve_references
from service.worker.session_video import SessionVideo
from service.worker.snapshots import decode_state, fits, snapshot_record
from service.worker.surroundings import Surroundings
from service.worker.writer import SessionWriter

_log = structlog.get_logger()


class RunningSession:
    """A claimed session. prepare() first; then is_ready(), next_frame(), advance() until is_done."""

    def __init__(
        self, claim: Claim, record: SessionRecord, engine: Engine, writer: SessionWriter, around: Surroundings
    ) -> None:
        self.claim = claim
        self.record = record
        self.engine = engine
        self.writer = writer
        self.track: Any = None
        self.seq = record.next_seq
        self.got_further_at: float | None = None
        """When it made its first new mask here: the start of its quantum, which no start-up can use up."""
        self.snapshot_at = time.monotonic()
        self.suspect = record.attempts > 0
        """It was in hand when a worker died: it is stepped alone until it gets further."""
        self._around = around
        self._segment = 0
        self._source: ChildFrames | None = None
        self._known = KnownMasks()
        self._video = SessionVideo(around.storage, around.limits, record)

    @property
    def id(self) -> str:
        """The session's id."""
        return self.claim.session_id

    @property
    def plan(self) -> Plan:
        """The plan as the worker knows it; Redis follows in order."""
        return self.record.plan

    @property
    def segment(self) -> Segment:
        """The segment that it is in."""
        return self.plan[self._segment]

    @property
    def is_done(self) -> bool:
        """Whether the plan is through."""
        return plans.locate(self.plan, self.seq) is None

    @property
    def can_propagate(self) -> bool:
        """Whether the track has memorised anything; before that, frames have no masks."""
        return self.track is not None

    def prepare(self) -> None:
        """Restore the newest snapshot, or start the segment that comes next. Raises DecodeFailed, EngineError."""
        self.seq = self.record.next_seq
        if plans.locate(self.plan, self.seq) is None:
            self._look_back()
        position = plans.locate(self.plan, self.seq)
        if position is None:
            return
        self._resolve_references()
        snapshot = self.record.snapshot
        if snapshot is not None and fits(snapshot, self.engine.spec, position.segment) and self._restore(snapshot):
            metrics.RESUMED.labels("snapshot").inc()
            return
        if self.record.next_seq > 0:
            metrics.RESUMED.labels("segment").inc()
        self._start_segment(position.segment)

    def is_ready(self) -> bool:
        """Whether next_frame() would answer at once. Raises DecodeFailed."""
        return self._source is not None and self._source.is_ready()

    @property
    def pipe(self) -> int | None:
        """What has bytes to read when there is news of its decoder."""
        return None if self._source is None else self._source.pipe

    def next_frame(self) -> VideoFrame | None:
        """The next frame of the plan; None when the video has ended, and with it the plan. Raises DecodeFailed."""
        if self._source is None:
            raise SessionFailure(f"session {self.id} has no frames before prepare()")
        frame = self._source.next_frame()
        if frame is None:
            self._end_of_video()
        return frame

    def advance(self, frame: VideoFrame, prediction: Prediction | None) -> None:
        """Take one frame's prediction: put references over it, memorize them, hand the mask on, move on."""
        shown = self._with_reference(frame, prediction)
        if self.seq >= self.record.next_seq:
            self.writer.put(self._mask(frame, shown, prediction))
            self.suspect = False
            self.got_further_at = self.got_further_at or time.monotonic()
        metrics.MASKS.labels(self.record.spec.engine).inc()
        self.seq += 1
        if self.seq == self.segment.end_seq:
            self._next_segment()

    def take_snapshot(self) -> None:
        """Copy the track to the host and hand it to the writer."""
        if self.track is None or self.is_done:
            return
        began = time.monotonic()
        state = self.engine.snapshot(self.track)
        record = snapshot_record(self.engine.spec, self.seq, self._segment)
        copy_s = time.monotonic() - began
        self.writer.put(SnapshotItem(record, state, copy_s, self.track.bank_bytes))
        self.snapshot_at = time.monotonic()

    def snapshot_is_due(self, interval_s: float, share: float) -> bool:
        """Whether another snapshot keeps them all under `share` of the time."""
        if self.writer.snapshots_under_way or not self.can_propagate:
            return False
        return time.monotonic() - self.snapshot_at >= max(interval_s, self.writer.snapshot_cost_s / share)

    def take_requests(self, requests: list[ReferenceRequest]) -> None:
        """Put references that came in late into the plan. Raises InvalidInput."""
        for request in requests:
            self._put_taken(take_in(self.record, request, self.seq))
            self._forget(request.drop_object_ids)
        position = plans.locate(self.plan, self.seq)
        self._resolve_references()
        self._load_references()
        if position is not None and (position.segment != self._segment or self._source is None):
            self._start_segment(position.segment)

    def _forget(self, object_ids: Iterable[int]) -> None:
        """The track follows them no longer."""
        for object_id in object_ids:
            if self.track is not None and object_id in self.track.object_ids:
                self.engine.forget(self.track, object_id)
        if self._known.earlier is not None:
            self._known.earlier.dropped = self.record.dropped

    def close(self) -> None:
        """End the decoder and let the track go."""
        if self._source is not None:
            self._source.close()
        self._source = self.track = None
        self._video.close()

    def _resolve_references(self) -> None:
        """Make label maps of texts, boxes, points and exemplars, and find objects where none are named."""
        if not needs_resolution(self.record.references):
            return
        around = self._around
        scene = Scene(around.storage, around.resolver, self.engine, self._read_frames, self.claim.epoch)
        self._put_record(resolve_references(self.record, scene), ("references", "objects", "warnings"))

    def _read_frames(self, first: int, count: int) -> list[LabelMap]:
        """[H, W, 3] frames from anywhere in the video; fewer at its end."""
        return self._video.read(first, count)

    def _restore(self, snapshot: SnapshotRecord) -> bool:
        try:
            data = self._around.storage.read(self.id, snapshot.name)
            self.track = self.engine.restore(decode_state(data))
        except (FileNotFoundError, StateMismatch) as error:
            _log.warning("snapshot unusable; starting the segment again", session=self.id, error=str(error))
            return False
        self._enter(snapshot.segment, snapshot.seq)
        return True

    def _enter(self, segment: int, seq: int) -> None:
        """Stand at `seq` of a segment, with the decoder on its way there."""
        if self._source is not None:
            self._source.close()
        self._segment, self.seq = segment, seq
        self._source = self._open_source(self.segment.frame_index(seq), self.segment.step)
        self._load_references()
        self._known.earlier = None
        if self.segment.revision > 0:
            self.writer.flush()
            archives = self._around.archives(self.id)
            storage, before_seq, size = self._around.storage, self.segment.first_seq, self._source.frame_size
            self._known.earlier = EarlierMasks(storage, self.record, before_seq, archives, size)

    def _start_segment(self, segment: int) -> None:
        """A fresh track: memorize every reference that lies behind, in order, then where all objects were last."""
        self.track = None
        self._enter(segment, self.plan[segment].first_seq)
        for known in self._known.before(self.segment):
            self._memorize(self._video.frame_at(known.frame_index).rgb, known)

    def _next_segment(self) -> None:
        """The segment after this one; when the plan is through, what later references still ask for."""
        if self.is_done:
            self._look_back()
        if not self.is_done:
            self._start_segment(self._segment + 1)

    def _look_back(self) -> None:
        """Append the segments back from references that came with the session and lie behind its first one."""
        taken = look_back(self.record)
        if taken is not None:
            self._put_taken(taken)

    def _with_reference(self, frame: VideoFrame, prediction: Prediction | None) -> Prediction:
        """The prediction of a frame with the client's pixels over it, and those memorised."""
        known = self._known.over(frame.frame_index, prediction)
        if known is None:
            return prediction or Prediction(np.zeros(frame.rgb.shape[:2], np.uint8), {}, {})
        followed = self._known.to_memorize(frame.frame_index, prediction)
        if followed is not None:
            self._memorize(frame.rgb, followed)
        return self._known.shown(known, prediction)

    def _memorize(self, rgb: LabelMap, known: ReferenceMap) -> None:
        if self.track is None:
            memory = MemoryPolicy(**self.record.spec.memory.model_dump())
            self.track = self.engine.open(Size.of(rgb), memory)
        self.engine.memorize(self.track, rgb, known.label_map, object_ids=known.object_ids)
        self._pass_on_warnings()

    def _pass_on_warnings(self) -> None:
        """What the engine has to say of the references goes to the client."""
        told = self.track.warnings if isinstance(self.track, HasWarnings) else ()
        new = tuple(warning for warning in told if warning not in self.record.warnings)
        if new:
            self._change({"warnings": (*self.record.warnings, *new)})

    def _mask(self, frame: VideoFrame, shown: Prediction, made: Prediction | None) -> MaskItem:
        """What is published of a frame; made: what the engine itself made of it."""
        touched, index = self.segment.object_ids, frame.frame_index
        soft = self._known.undrawn(index, made, touched) if self.record.spec.probability else {}
        if touched is not None and self._known.earlier is not None:
            shown = self._known.earlier.under(index, shown, touched)
        return MaskItem(self.seq, index, frame.pts_s, shown, self.record.created_at, soft)

    def _load_references(self) -> None:
        if self._source is not None:
            size, given = self._source.frame_size, self.record.references
            load = partial(load_references, self._around.storage, self.id, frame_size=size)
            followed = followed_in(given, self.segment)
            self._known.draw(load(given), None if len(followed) == len(given) else load(followed))

    def _open_source(self, start_frame: int, step: plans.Step) -> ChildFrames:
        """Where the frames of a run come from."""
        return self._video.frames(start_frame, step)

    def _end_of_video(self) -> None:
        """The decoder knows the end: close the plan there."""
        if self.seq == 0:
            first = self.segment.first_frame
            raise DecodeFailed(f"the video has no frame {first}", frame_index=first)
        if self.segment is not self.plan[-1]:
            raise SessionFailure(f"the video ended inside segment {self._segment}, before its planned end")
        changes: dict[str, Any] = {"plan": plans.close(self.plan, self.seq)}
        if self.segment.count is not None:
            short = f"the video ends after frame {self.segment.frame_index(self.seq) - 1}, before the end asked for"
            changes["warnings"] = (*self.record.warnings, short)
        self._change(changes)
        self._next_segment()

    def _change(self, changes: Mapping[str, Any]) -> None:
        """Change fields of the record: here at once, in Redis behind all that the writer was handed before."""
        self._put_record(self.record.model_copy(update=changes), changes)

    def _put_record(self, record: SessionRecord, changed: Iterable[str], note: NoteEvent | None = None) -> None:
        self.record = record
        fields = to_fields(record)
        self.writer.put(PlanItem({name: fields[name] for name in changed}, note))

    def _put_taken(self, taken: Taken) -> None:
        """A revision, which clients are told of."""
        data = {"revision": taken.record.revision, "from_frame": taken.from_frame}
        self._put_record(taken.record, taken.changed, NoteEvent(type="revision", seq=self.seq, data=data))
