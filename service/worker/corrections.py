"""How references that come in late change a plan. Pure functions; seq and segments as in service/plan.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service import plan as plans
from service.plan import Plan, Segment
from service.schemas import DroppedObject, Reference, ReferenceRequest, SessionRecord


@dataclass(frozen=True)
class Taken:
    """A session with a request taken in. changed: names of the record's fields that differ."""

    record: SessionRecord
    from_frame: int
    changed: tuple[str, ...]


def take_in(record: SessionRecord, request: ReferenceRequest, seq: int) -> Taken:
    """The session with a client's request, when the next mask to be made is `seq`."""
    revision = revise(record, request, seq)
    drop = set(request.drop_object_ids)
    changes: dict[str, Any] = {
        "plan": revision.plan,
        "references": tuple(_without(reference, drop) for reference in revision.references),
        "objects": tuple(item for item in (*record.objects, *request.objects) if item.object_id not in drop),
        "revision": record.revision + 1,
        "requests_taken": record.requests_taken + 1,
    }
    from_frame = revision.from_frame
    if drop:
        kept = (item for item in record.dropped if item.object_id not in drop)
        changes["dropped"] = (*kept, *(DroppedObject(object_id=i, before_seq=seq) for i in sorted(drop)))
        from_frame = min((segment.first_frame for segment in record.plan if segment.step > 0), default=0)
    return Taken(record.model_copy(update=changes), from_frame, tuple(changes))


def _without(reference: Reference, drop: set[int]) -> Reference:
    if not drop & set(reference.object_ids):
        return reference
    return reference.model_copy(update={"object_ids": tuple(i for i in reference.object_ids if i not in drop)})


@dataclass(frozen=True)
class Revision:
    """The session after a request: its plan and references, and the first frame that changes."""

    plan: Plan
    references: tuple[Reference, ...]
    from_frame: int


def revise(record: SessionRecord, request: ReferenceRequest, seq: int) -> Revision:
    """Take a request in, when the next mask to be made is `seq`.

    A reference ahead of a forward run is taken as the run comes by. Any other opens segments: backwards to the touched
    objects' previous reference, then forwards: to their next reference if the video is through, else to its end.
    """
    references = (*record.references, *request.references)
    here = plans.locate(record.plan, seq)
    plan, from_frame = record.plan, None
    for reference in request.references:
        if here is not None and _comes_by(record.plan, seq, reference):
            continue
        plan = _with_correction(record, plan, seq, reference)
        from_frame = reference.frame_index if from_frame is None else min(from_frame, reference.frame_index)
    if from_frame is None:
        from_frame = min((reference.frame_index for reference in request.references), default=0)
    return Revision(plan, references, from_frame)


def owed_backward(record: SessionRecord) -> list[Segment]:
    """Segments back from references that came with the session, lie behind its first one and ask for both ways.

    They follow the pass over the whole video, whose end is often unknown before, and end at the same object's
    previous reference. None for those that the plan has already, nor for a camera, whose frames are gone.
    """
    if record.spec.live:
        return []
    start = min((each.frame_index for each in record.references if each.object_ids), default=0)
    have = {(each.first_frame, each.object_ids) for each in record.plan if each.step < 0}
    revision = max((segment.revision for segment in record.plan), default=0) + 1
    owed: list[Segment] = []
    for reference in sorted(record.references, key=lambda each: each.frame_index):
        if reference.direction == "forward" or reference.frame_index <= start or not reference.object_ids:
            continue
        if (reference.frame_index - 1, reference.object_ids) not in have:
            owed += _backward(record, reference, revision)
    return owed


def look_back(record: SessionRecord) -> Taken | None:
    """The session with the segments of owed_backward() at its plan's end; None where it owes none."""
    owed = owed_backward(record)
    if not owed:
        return None
    plan = plans.append(record.plan, owed)
    changes: dict[str, Any] = {"plan": plan, "revision": record.revision + 1}
    first = min(segment.frame_index((segment.end_seq or 1) - 1) for segment in plan[-len(owed) :])
    return Taken(record.model_copy(update=changes), first, tuple(changes))


def _comes_by(plan: Plan, seq: int, reference: Reference) -> bool:
    """Whether the last segment, running forwards over all objects, has yet to reach the reference."""
    last = plan[-1]
    if last.step < 0 or last.object_ids is not None or reference.direction != "forward":
        return False
    end = last.end_seq
    reached = last.frame_index(max(seq, last.first_seq))
    ahead = reference.frame_index >= reached
    return ahead and (end is None or reference.frame_index < last.frame_index(end))


def _with_correction(record: SessionRecord, plan: Plan, seq: int, reference: Reference) -> Plan:
    position = plans.locate(record.plan, seq)
    unfinished = position is not None
    revision = max(segment.revision for segment in plan) + 1
    end_frame = _end_frame(record.plan)
    if plans.total(plan) is None or (unfinished and plan == record.plan):
        plan = plans.close(plan, max(seq, plan[-1].first_seq))
    added = []
    if reference.direction in ("backward", "both"):
        added += _backward(record, reference, revision)
    if unfinished and position is not None:
        start = reference.frame_index if reference.direction != "backward" else position.frame_index
        start = min(start, position.frame_index)
        count = None if end_frame is None else end_frame - start
        added.append(Segment(first_seq=0, first_frame=start, count=count, revision=revision))
    elif reference.direction in ("forward", "both"):
        added += _forward(record, reference, revision, end_frame)
    return plans.append(plan, added)


def _backward(record: SessionRecord, reference: Reference, revision: int) -> list[Segment]:
    start = reference.frame_index - 1
    stop = max(
        (f + 1 for f in _neighbours(record.references, reference) if f <= start), default=record.spec.start_frame
    )
    if start < stop:
        return []
    count = start - stop + 1
    return [
        Segment(
            first_seq=0,
            first_frame=start,
            step=-1,
            count=count,
            object_ids=reference.object_ids or None,
            revision=revision,
        )
    ]


def _forward(record: SessionRecord, reference: Reference, revision: int, end_frame: int | None) -> list[Segment]:
    start = reference.frame_index
    last = end_frame if end_frame is not None else start + 1
    stop = min((f for f in _neighbours(record.references, reference) if f > start), default=last)
    ids = reference.object_ids or None
    return [Segment(first_seq=0, first_frame=start, count=max(0, stop - start), object_ids=ids, revision=revision)]


def _neighbours(references: Sequence[Reference], touched: Reference) -> list[int]:
    """Frames with a reference of any object that the new one touches."""
    ids = set(touched.object_ids)
    return [r.frame_index for r in references if not ids or ids & set(r.object_ids)]


def _end_frame(plan: Plan) -> int | None:
    """The frame after the last one of the video as far as the plan knows, or None while it is open."""
    ends = []
    for segment in plan:
        if segment.step < 0:
            continue
        if segment.count is None:
            return None
        ends.append(segment.first_frame + segment.count)
    return max(ends)
