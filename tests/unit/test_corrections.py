"""How late references change a plan: pure functions, frame by frame."""

from __future__ import annotations

import pytest

from service import plan as plans
from service.plan import Plan, first_plan
from service.schemas import Direction, Reference, ReferenceRequest, SessionRecord, SessionSpec, VideoInfo
from service.worker.corrections import owed_backward, revise


def record_of(plan: Plan, *frames: tuple[int, int]) -> SessionRecord:
    """A session whose references are (frame, object id)."""
    spec = SessionSpec(engine="fake", video=VideoInfo(name="v", height=8, width=8))
    references = tuple(Reference(kind="mask", frame_index=f, object_ids=(i,), file="m") for f, i in frames)
    return SessionRecord(id="s", spec=spec, references=references, plan=plan)


def ask(frame: int, object_id: int, direction: Direction = "forward") -> ReferenceRequest:
    reference = Reference(kind="mask", frame_index=frame, object_ids=(object_id,), file="n", direction=direction)
    return ReferenceRequest(references=(reference,))


def frames(plan: Plan, first: int, last: int) -> list[int]:
    return [plans.frame_index(plan, seq) for seq in range(first, last)]


def test_a_reference_ahead_of_the_run_changes_no_segment() -> None:
    record = record_of(first_plan(0, None), (0, 1))
    revision = revise(record, ask(30, 2), seq=10)
    assert revision.plan == record.plan
    assert [r.frame_index for r in revision.references] == [0, 30]


def test_a_correction_behind_a_run_goes_back_and_on_to_the_end() -> None:
    record = record_of(first_plan(0, 20), (0, 1))
    plan = revise(record, ask(5, 1), seq=10).plan
    assert frames(plan, 0, plans.total(plan) or 0) == [*range(10), *range(5, 20)]
    assert plan[-1].object_ids is None, "what lies ahead needs every object"
    assert plan[-1].revision == 1


def test_a_correction_behind_an_open_run_stays_open() -> None:
    plan = revise(record_of(first_plan(0, None), (0, 1)), ask(5, 1), seq=10).plan
    assert plans.total(plan) is None
    assert frames(plan, 8, 14) == [8, 9, 5, 6, 7, 8]


def test_a_correction_of_a_finished_video_ends_at_the_neighbouring_reference() -> None:
    record = record_of(first_plan(0, 20), (0, 1), (12, 1), (8, 2))
    plan = revise(record, ask(5, 1), seq=20).plan
    assert frames(plan, 20, plans.total(plan) or 0) == list(range(5, 12))
    assert plan[-1].object_ids == (1,)


def test_both_directions_of_a_finished_video() -> None:
    record = record_of(first_plan(0, 20), (2, 1))
    plan = revise(record, ask(9, 1, "both"), seq=20).plan
    assert frames(plan, 20, plans.total(plan) or 0) == [8, 7, 6, 5, 4, 3, *range(9, 20)]


def test_backwards_alone_changes_nothing_that_lies_behind_the_reference() -> None:
    record = record_of(first_plan(0, 20), (3, 1))
    plan = revise(record, ask(9, 1, "backward"), seq=20).plan
    assert frames(plan, 20, plans.total(plan) or 0) == [9, 8, 7, 6, 5, 4], "its own frame too, which nothing else shows"
    assert plan[-1].object_ids == (1,)


@pytest.mark.parametrize("seq", [4, 10])
def test_backwards_alone_waits_for_the_run(seq: int) -> None:
    record = record_of(first_plan(0, 20), (0, 1))
    closed = revise(record, ask(6, 2, "backward"), seq).plan
    assert frames(closed, 0, plans.total(closed) or 0) == [*range(20), *range(6, -1, -1)]
    record = record_of(first_plan(0, None), (0, 1))
    asked = revise(record, ask(6, 2, "backward"), seq)
    assert asked.plan == record.plan
    through = record.model_copy(update={"plan": plans.close(asked.plan, 20), "references": asked.references})
    (owed,) = owed_backward(through)
    assert (owed.first_frame, owed.step, owed.count, owed.object_ids) == (6, -1, 7, (2,))


def test_both_ways_ahead_of_a_run_goes_back_when_it_is_through() -> None:
    record = record_of(first_plan(0, None), (0, 1))
    asked = revise(record, ask(12, 2, "both"), seq=10)
    assert asked.plan == record.plan
    through = record.model_copy(update={"plan": plans.close(asked.plan, 20), "references": asked.references})
    (owed,) = owed_backward(through)
    assert (owed.first_frame, owed.step, owed.count, owed.object_ids) == (11, -1, 12, (2,))
    done = through.model_copy(update={"plan": plans.append(through.plan, [owed])})
    assert owed_backward(done) == []


def test_nothing_is_owed_twice() -> None:
    asked = ask(6, 1, "both").references[0].model_copy(update={"object_ids": (1, 2)})
    plan = first_plan(0, 20, back_from=6)
    assert owed_backward(record_of(plan).model_copy(update={"references": (asked,)})) == [], "the first pass went back"
    later = record_of(first_plan(0, 20), (0, 3))
    later = later.model_copy(update={"references": (*later.references, asked)})
    later = later.model_copy(update={"plan": plans.append(later.plan, owed_backward(later))})
    fewer = asked.model_copy(update={"object_ids": (2,)})
    dropped = later.model_copy(update={"references": (later.references[0], fewer)})
    assert len(later.plan) == 2 and owed_backward(dropped) == []


@pytest.mark.parametrize("seq", [3, 10, 20])
def test_two_corrections_at_once_follow_each_other(seq: int) -> None:
    record = record_of(first_plan(0, 20), (0, 1))
    request = ReferenceRequest(references=(*ask(2, 1).references, *ask(1, 1).references))
    plan = revise(record, request, seq).plan
    latest = plans.latest_seqs(plan, plans.total(plan) or 0)
    assert sorted(latest) == list(range(20))
    assert latest[1] > seq - 1
