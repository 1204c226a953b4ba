"""The plan of a session whose first reference is not at its first frame."""

from __future__ import annotations

from service.plan import first_plan, frame_index, latest_seqs, total


def test_frames_before_the_reference_come_first_and_backwards() -> None:
    plan = first_plan(2, 9, back_from=5)
    assert total(plan) == 7
    assert [frame_index(plan, seq) for seq in range(7)] == [4, 3, 2, 5, 6, 7, 8]
    assert sorted(latest_seqs(plan, 7)) == list(range(2, 9))


def test_an_unknown_end_stays_open() -> None:
    plan = first_plan(0, None, back_from=3)
    assert total(plan) is None
    assert [frame_index(plan, seq) for seq in range(5)] == [2, 1, 0, 3, 4]


def test_a_reference_at_the_start_changes_nothing() -> None:
    assert first_plan(4, 9, back_from=4) == first_plan(4, 9)
