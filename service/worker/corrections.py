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
        "warnings": tuple(dict.fromkeys((*record.warnings, *request.warnings))),
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

    A reference ahead of a forward run is taken as the run comes by; what it asks for backwards follows the run, see
    owed_backward(), as does one that is followed backwards alone, which must not change what lies ahead. Any other
    opens segments: backwards to the touched objects' previous reference, then forwards: to their next reference if the
    video is through, else to its end.
    """
    references = (*record.references, *request.references)
    running = plans.locate(record.plan, seq) is not None
    plan, from_frame = record.plan, None
    for reference in request.references:
        if running and (reference.direction == "backward" or _comes_by(record.plan, seq, reference)):
            continue
        plan = _with_correction(record, plan, seq, reference)
        from_frame = reference.frame_index if from_frame is None else min(from_frame, reference.frame_index)
    if running and plans.total(plan) is not None:
        revision = max(segment.revision for segment in plan) + 1
        late = (reference for reference in request.references if reference.direction == "backward")
        plan = plans.append(plan, [segment for each in late for segment in _backward(record, each, revision)])
    if from_frame is None:
        from_frame = min((reference.frame_index for reference in request.references), default=0)
    return Revision(plan, references, from_frame)


def owed_backward(record: SessionRecord) -> list[Segment]:
    """Segments back from references that ask for it, in the order of their frames, and that the plan lacks.

    They follow the pass over the whole video, whose end is often unknown before, and end at the same object's
    previous reference. None for a camera, whose frames are gone.
    """
    if record.spec.live:
        return []
    revision = max((segment.revision for segment in record.plan), default=0) + 1
    owed: list[Segment] = []
    for reference in sorted(record.references, key=lambda each: each.frame_index):
        if reference.direction != "forward" and reference.object_ids and not _has_backward(record.plan, reference):
            owed += _backward(record, reference, revision)
    return owed


def _has_backward(plan: Plan, reference: Reference) -> bool:
    """Whether a segment goes back from the reference, for its objects at least: some may have been dropped since."""
    wanted, start = set(reference.object_ids), _backward_start(reference)
    for segment in plan:
        if segment.object_ids is None:  # the first pass, from the earliest reference
            found = segment.first_frame == reference.frame_index - 1
        else:
            found = segment.first_frame == start and wanted <= set(segment.object_ids)
        if found and segment.step < 0:
            return True
    return False


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
    if last.step < 0 or last.object_ids is not None:
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
        start = min(reference.frame_index, position.frame_index)
        count = None if end_frame is None else end_frame - start
        added.append(Segment(first_seq=0, first_frame=start, count=count, revision=revision))
    elif reference.direction in ("forward", "both"):
        added += _forward(record, reference, revision, end_frame)
    return plans.append(plan, added)


def _backward(record: SessionRecord, reference: Reference, revision: int) -> list[Segment]:
    """Down to the frame after the objects' previous reference."""
    start = _backward_start(reference)
    stop = max(
        (f + 1 for f in _neighbours(record.references, reference) if f < reference.frame_index),
        default=record.spec.start_frame,
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


def _backward_start(reference: Reference) -> int:
    """The reference's own frame, unless a segment that goes forwards from there shows it."""
    return reference.frame_index - (0 if reference.direction == "backward" else 1)


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
