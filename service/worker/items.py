"""What the step loop hands to a session's writer, in order: masks, snapshots, changes of the plan, the end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from engines.types import Prediction, TrackState
from service.schemas import NoteEvent, Problem, SessionState, SnapshotRecord
from service.worker.probabilities import Probabilities


@dataclass(frozen=True)
class MaskItem:
    """A frame's masks as the engine made them; encoding them is the I/O thread's work."""

    seq: int
    frame_index: int
    pts_s: float | None
    prediction: Prediction
    created_at: float
    probabilities: Probabilities = field(default_factory=dict)


@dataclass(frozen=True)
class SnapshotItem:
    """A track's state before it makes `record.seq`; the file's name is the writer's business."""

    record: SnapshotRecord
    state: TrackState
    copy_s: float
    bank_bytes: int


@dataclass(frozen=True)
class PlanItem:
    """Changed fields of the session: plan, references, objects, warnings."""

    fields: Mapping[str, str]
    note: NoteEvent | None = None


@dataclass(frozen=True)
class EndItem:
    """state None hands the session back to the queue, or, with `park`, to its client; otherwise it is final."""

    state: SessionState | None
    problem: Problem | None = None
    park: bool = False


@dataclass(frozen=True)
class FlushItem:
    """Archive all that is published, then set the event."""

    done: asyncio.Event


Item = MaskItem | SnapshotItem | PlanItem | EndItem | FlushItem
