"""Which frame a sequence number stands for: the append-only list of segments, and pure functions over it.

Knows no Redis, no engine and no video. With one reference at frame 0 there is one segment, and seq == frame_index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Step = Literal[1, -1]


class Segment(BaseModel):
    """A run of frames in one direction, segmented by one fresh track.

    count: frames in it, or None while the end is unknown; only the last segment may be open.
    object_ids: the objects that it recomputes; None means all, the others are taken from the archive.
    revision: counts corrections; 0 is the first pass.
    """

    model_config = ConfigDict(frozen=True)

    first_seq: int = Field(ge=0)
    first_frame: int = Field(ge=0)
    step: Step = 1
    count: int | None = Field(default=None, ge=0)
    object_ids: tuple[int, ...] | None = None
    revision: int = 0

    @property
    def end_seq(self) -> int | None:
        """The seq after its last one, or None while it is open."""
        return None if self.count is None else self.first_seq + self.count

    def frame_index(self, seq: int) -> int:
        """The frame that `seq` shows; `seq` must lie in the segment."""
        return self.first_frame + self.step * (seq - self.first_seq)


@dataclass(frozen=True)
class Position:
    """Where a seq falls: which segment of the plan, and which frame."""

    segment: int
    frame_index: int


Plan = tuple[Segment, ...]


class PlanError(ValueError):
    """A plan that breaks its own rules: a bug, not bad input."""


def locate(plan: Plan, seq: int) -> Position | None:
    """The segment and frame of `seq`, or None beyond the end of the plan."""
    for index, segment in enumerate(plan):
        end = segment.end_seq
        if seq >= segment.first_seq and (end is None or seq < end):
            return Position(index, segment.frame_index(seq))
    return None


def frame_index(plan: Plan, seq: int) -> int:
    """The frame that `seq` shows. Raises PlanError beyond the end of the plan."""
    position = locate(plan, seq)
    if position is None:
        raise PlanError(f"seq {seq} lies beyond the plan, which ends at {total(plan)}")
    return position.frame_index


def total(plan: Plan) -> int | None:
    """How many masks the plan makes in all, or None while its last segment is open."""
    return plan[-1].end_seq if plan else 0


def close(plan: Plan, end_seq: int) -> Plan:
    """The plan with its last segment ending at `end_seq`, because the video or the caller said so."""
    if not plan:
        raise PlanError("an empty plan cannot be closed")
    last = plan[-1]
    if end_seq < last.first_seq:
        raise PlanError(f"the last segment starts at seq {last.first_seq}, it cannot end at {end_seq}")
    return (*plan[:-1], last.model_copy(update={"count": end_seq - last.first_seq}))


def append(plan: Plan, segments: Sequence[Segment]) -> Plan:
    """The plan with further segments, renumbered to follow its end. Raises PlanError when the plan is open."""
    for segment in segments:
        end = total(plan)
        if end is None:
            raise PlanError("only the last segment may be open; close it first")
        plan = (*plan, segment.model_copy(update={"first_seq": end}))
    return plan


def latest_seqs(plan: Plan, next_seq: int, kept_from_seq: int = 0) -> dict[int, int]:
    """frame_index -> the highest published seq that shows it and is still kept: the mask that counts."""
    latest: dict[int, int] = {}
    for segment in plan:
        end = segment.end_seq
        stop = next_seq if end is None else min(end, next_seq)
        for seq in range(max(segment.first_seq, kept_from_seq), stop):
            latest[segment.frame_index(seq)] = seq
    return latest


def latest_seq(plan: Plan, next_seq: int, frame: int) -> int | None:
    """latest_seqs() of one frame, at the cost of the segments and not of the masks; None where it has no mask yet."""
    for segment in reversed(plan):
        end = segment.end_seq
        stop = next_seq if end is None else min(end, next_seq)
        seq = segment.first_seq + segment.step * (frame - segment.first_frame)
        if segment.first_seq <= seq < stop:
            return seq
    return None


def frames_shown(plan: Plan, next_seq: int) -> int:
    """How many frames have a mask: len(latest_seqs()), likewise."""
    spans = []
    for segment in plan:
        end = segment.end_seq
        count = (next_seq if end is None else min(end, next_seq)) - segment.first_seq
        if count > 0:
            ends = (segment.first_frame, segment.first_frame + segment.step * (count - 1))
            spans.append((min(ends), max(ends) + 1))
    shown = reached = 0
    for first, stop in sorted(spans):
        shown += max(0, stop - max(first, reached))
        reached = max(reached, stop)
    return shown


def first_plan(start_frame: int, end_frame: int | None, *, back_from: int | None = None) -> Plan:
    """Forward over [start_frame, end_frame), or to wherever the video ends. The first seq is 0.

    back_from: the first reference's frame, when it lies later and the frames before it are wanted: they come first,
    backwards, so that the segment whose end may be unknown stays the last one.
    """
    first = start_frame if back_from is None else max(start_frame, back_from)
    count = None if end_frame is None else max(0, end_frame - first)
    plan: Plan = ()
    if first > start_frame:
        plan = (Segment(first_seq=0, first_frame=first - 1, step=-1, count=first - start_frame),)
    return append(plan, [Segment(first_seq=0, first_frame=first, step=1, count=count)])
