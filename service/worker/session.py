"""One running session: where it stands in its plan, its track, its frames, and what it makes of a prediction.

Owned by the step loop. It asks the engine only for what concerns this track alone; the loop propagates tracks together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from engines.errors import StateMismatch
from engines.prompts.resolver import ReferenceResolver
from engines.protocols import Engine, HasWarnings
from engines.types import LabelMap, MemoryPolicy, Prediction, Size
from service import metrics
from service import plan as plans
from service.errors import DecodeFailed, SessionFailure
from service.media.reader import VideoFrame
from service.plan import Plan, Segment
from service.schemas import (
    ArchiveRecord,
    Claim,
    NoteEvent,
    ReferenceRequest,
    SessionRecord,
    SnapshotRecord,
)
from service.sessions import to_fields
from service.storage import Storage
from service.worker.corrections import owed_backward, take_in
from service.worker.earlier import EarlierMasks, label_map_of
from service.worker.frames import ChildFrames, DecodeLimits, FrameSource
from service.worker.io import IoThread
from service.worker.probabilities import Probabilities, small_probabilities
from service.worker.references import ReferenceMap, load_references
from service.worker.resize import resize_labels
from service.worker.resolve import Scene, needs_resolution, resolve_references
from service.worker.snapshots import decode_state
from service.worker.writer import MaskItem, PlanItem, SessionWriter, SnapshotItem

_log = structlog.get_logger()


@dataclass(frozen=True)
class Surroundings:
    """What a session needs of its worker. archives: the session's committed archive files, asked of Redis."""

    storage: Storage
    limits: DecodeLimits
    archives: Callable[[str], list[ArchiveRecord]]
    resolver: ReferenceResolver
    io: IoThread
    live_input_bytes: int


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
        self._references: dict[int, ReferenceMap] = {}
        self._earlier: EarlierMasks | None = None
        self._held = ExitStack()
        self._video: Path | None = None

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
        if snapshot is not None and self._fits(snapshot, position.segment) and self._restore(snapshot):
            metrics.RESUMED.labels("snapshot").inc()
            return
        if self.record.next_seq > 0:
            metrics.RESUMED.labels("segment").inc()
        self._start_segment(position.segment)

    def is_ready(self) -> bool:
        """Whether next_frame() would answer at once. Raises DecodeFailed."""
        return self._source is not None and self._source.is_ready()

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
            self.writer.put(self._mask(frame, shown, self._probabilities(frame, prediction)))
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
        spec = self.engine.spec
        record = SnapshotRecord(
            name="",
            seq=self.seq,
            segment=self._segment,
            engine=spec.info.name,
            weights_sha256=spec.weights_sha256,
            dtype=str(spec.dtype),
        )
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
            taken = take_in(self.record, request, self.seq)
            self.record = taken.record
            fields = to_fields(self.record)
            data = {"revision": self.record.revision, "from_frame": taken.from_frame}
            note = NoteEvent(type="revision", seq=self.seq, data=data)
            self.writer.put(PlanItem({name: fields[name] for name in taken.changed}, note))
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
        if self._earlier is not None:
            self._earlier.dropped = self.record.dropped

    def close(self) -> None:
        """End the decoder and let the track go."""
        if self._source is not None:
            self._source.close()
        self._source = self.track = None
        self._held.close()

    def _resolve_references(self) -> None:
        """Make label maps of texts, boxes, points and exemplars, and find objects where none are named."""
        if not needs_resolution(self.record.references):
            return
        around = self._around
        scene = Scene(around.storage, around.resolver, self.engine, self._read_frames, self.claim.epoch)
        self.record = resolve_references(self.record, scene)
        fields = to_fields(self.record)
        changed = ("references", "objects", "warnings")
        self.writer.put(PlanItem({name: fields[name] for name in changed}))

    def _read_frames(self, first: int, count: int) -> list[LabelMap]:
        """[H, W, 3] frames from anywhere in the video; fewer at its end."""
        with self._frames(first, 1) as source:
            read = (source.next_frame() for _ in range(count))
            return [frame.rgb for frame in read if frame is not None]

    def _fits(self, snapshot: SnapshotRecord, segment: int) -> bool:
        """Whether this engine can go on from the snapshot, and it lies in the present segment."""
        spec = self.engine.spec
        mine = (spec.info.name, spec.weights_sha256, str(spec.dtype))
        return snapshot.segment == segment and mine == (snapshot.engine, snapshot.weights_sha256, snapshot.dtype)

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
        self._earlier = None
        if self.segment.revision > 0:
            self.writer.flush()
            archives = self._around.archives(self.id)
            self._earlier = EarlierMasks(self._around.storage, self.record, self.segment.first_seq, archives)

    def _start_segment(self, segment: int) -> None:
        """A fresh track: memorize every reference that lies behind, in order, then where all objects were last."""
        self.track = None
        self._enter(segment, self.plan[segment].first_seq)
        first, step = self.segment.first_frame, self.segment.step
        anchor = first if first in self._references and step > 0 else first - step
        behind = sorted((f for f in self._references if (f - first) * step < 0), reverse=step < 0)
        for frame_index in behind:
            if frame_index != anchor:
                reference = self._references[frame_index]
                self._memorize(self._frame_at(frame_index).rgb, reference.label_map, reference.object_ids)
        if anchor != first:
            self._memorize_anchor(anchor)

    def _next_segment(self) -> None:
        """The segment after this one; when the plan is through, what later references still ask for."""
        if self.is_done:
            self._look_back()
        if not self.is_done:
            self._start_segment(self._segment + 1)

    def _look_back(self) -> None:
        """Append the segments back from references that came with the session and lie behind its first one."""
        owed = owed_backward(self.record)
        if not owed:
            return
        plan = plans.append(self.plan, owed)
        changes: dict[str, Any] = {"plan": plan, "revision": self.record.revision + 1}
        self.record = self.record.model_copy(update=changes)
        fields = to_fields(self.record)
        first = min(segment.frame_index((segment.end_seq or 1) - 1) for segment in plan[-len(owed) :])
        data = {"revision": self.record.revision, "from_frame": first}
        self.writer.put(
            PlanItem({name: fields[name] for name in changes}, NoteEvent(type="revision", seq=self.seq, data=data))
        )

    def _memorize_anchor(self, frame_index: int) -> None:
        """Memorize the frame next to a segment's first one, as the client and earlier masks have it."""
        reference = self._references.get(frame_index)
        earlier = self._earlier_map(frame_index)
        label_map = earlier if reference is None else reference.over(earlier)
        if label_map is not None and label_map.any():
            ids = {int(i) for i in np.unique(label_map) if i} | set(reference.object_ids if reference else ())
            self._memorize(self._frame_at(frame_index).rgb, label_map, tuple(sorted(ids)))

    def _with_reference(self, frame: VideoFrame, prediction: Prediction | None) -> Prediction:
        """The prediction of a frame with the client's pixels over it, and those memorised."""
        reference = self._references.get(frame.frame_index)
        if reference is None:
            return prediction or Prediction(np.zeros(frame.rgb.shape[:2], np.uint8), {}, {})
        predicted = None if prediction is None else prediction.label_map
        ids = set(reference.object_ids)
        if predicted is None:
            predicted = self._earlier_map(frame.frame_index)
            ids |= set() if predicted is None else {int(i) for i in np.unique(predicted) if i}
        label_map = reference.over(predicted)
        self._memorize(frame.rgb, label_map, tuple(sorted(ids)))
        present = {int(i) for i in np.unique(label_map)}
        scores = {} if prediction is None else prediction.scores
        uncertainty = {} if prediction is None else prediction.uncertainty
        return Prediction(
            label_map,
            scores | {i: float(i in present) for i in ids},
            uncertainty | dict.fromkeys(reference.object_ids, 0.0),
        )

    def _memorize(self, rgb: LabelMap, label_map: LabelMap, object_ids: tuple[int, ...]) -> None:
        if self.track is None:
            memory = MemoryPolicy(**self.record.spec.memory.model_dump())
            self.track = self.engine.open(Size.of(rgb), memory)
        self.engine.memorize(self.track, rgb, label_map, object_ids=object_ids)
        self._pass_on_warnings()

    def _pass_on_warnings(self) -> None:
        """What the engine has to say of the references goes to the client."""
        told = self.track.warnings if isinstance(self.track, HasWarnings) else ()
        new = tuple(warning for warning in told if warning not in self.record.warnings)
        if new:
            self.record = self.record.model_copy(update={"warnings": (*self.record.warnings, *new)})
            self.writer.put(PlanItem({"warnings": to_fields(self.record)["warnings"]}))

    def _probabilities(self, frame: VideoFrame, made: Prediction | None) -> Probabilities:
        """What the engine itself made of the objects that this segment computes and the client did not draw here."""
        if not self.record.spec.probability:
            return {}
        reference = self._references.get(frame.frame_index)
        drawn = () if reference is None else reference.object_ids
        touched = self.segment.object_ids
        found = small_probabilities(made)
        return {i: p for i, p in found.items() if i not in drawn and (touched is None or i in touched)}

    def _mask(self, frame: VideoFrame, prediction: Prediction, probabilities: Probabilities) -> MaskItem:
        touched = self.segment.object_ids
        if touched is not None and self._earlier is not None:
            prediction = self._over_earlier(frame.frame_index, prediction, touched)
        return MaskItem(self.seq, frame.frame_index, frame.pts_s, prediction, self.record.created_at, probabilities)

    def _over_earlier(self, frame_index: int, prediction: Prediction, touched: tuple[int, ...]) -> Prediction:
        """The touched objects as they are now, over all others as they were published."""
        scores = {i: score for i, score in prediction.scores.items() if i in touched}
        doubts = {i: doubt for i, doubt in prediction.uncertainty.items() if i in touched}
        event = self._earlier.event(frame_index) if self._earlier is not None else None
        video = self.record.spec.video
        new = resize_labels(prediction.label_map, (video.height, video.width))
        new = np.where(np.isin(new, touched), new, 0).astype(np.uint8)
        if event is None:
            return Prediction(new, scores, doubts)
        old = label_map_of(event)
        kept = np.where(np.isin(old, touched), 0, old)
        others = [item for item in event.objects if item.object_id not in touched]
        scores |= {item.object_id: item.score for item in others}
        doubts |= {item.object_id: item.uncertainty for item in others if item.uncertainty is not None}
        return Prediction(np.where(new > 0, new, kept).astype(np.uint8), scores, doubts)

    def _earlier_map(self, frame_index: int) -> LabelMap | None:
        """The newest published mask of a frame at frame size; None in the first pass."""
        label_map = None if self._earlier is None else self._earlier.label_map(frame_index)
        if label_map is None or self._source is None:
            return None
        return resize_labels(label_map, self._source.frame_size)

    def _load_references(self) -> None:
        if self._source is not None:
            size = self._source.frame_size
            self._references = load_references(self._around.storage, self.id, self.record.references, size)

    def _open_source(self, start_frame: int, step: plans.Step) -> ChildFrames:
        """Where the frames of a run come from."""
        return self._frames(start_frame, step)

    def _frames(self, start_frame: int, step: plans.Step) -> FrameSource:
        if self._video is None:
            self._video = self._held.enter_context(self._around.storage.local(self.id, self.record.spec.video.name))
        max_side = self.record.spec.max_side
        return FrameSource(self._video, self._around.limits, start_frame=start_frame, step=step, max_side=max_side)

    def _frame_at(self, frame_index: int) -> VideoFrame:
        """One frame from anywhere in the video. Raises DecodeFailed where there is none."""
        with self._frames(frame_index, 1) as source:
            frame = source.next_frame()
        if frame is None:
            raise DecodeFailed(f"the video has no frame {frame_index}", frame_index=frame_index)
        return frame

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
        self.record = self.record.model_copy(update=changes)
        fields = to_fields(self.record)
        self.writer.put(PlanItem({name: fields[name] for name in changes}))
        self._next_segment()
