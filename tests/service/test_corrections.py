"""New objects and corrections for sessions that run or are through, with a real worker."""

from __future__ import annotations

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray

from service.masks import decode_rle
from service.plan import latest_seqs
from service.schemas import Direction, MaskEvent, MaskObject, NoteEvent, Reference, ReferenceRequest, SessionState
from service.storage import INPUT
from tests.service.scene import Scene, reference_png

pytestmark = pytest.mark.anyio


async def correct(scene: Scene, session_id: str, frame: int, object_ids: tuple[int, ...], direction: Direction) -> None:
    """Store a mask of these objects and ask for it, as the API does."""
    name = f"{INPUT}/mask-{frame}.png"
    scene.storage.write(session_id, name, reference_png(object_ids))
    reference = Reference(kind="mask", frame_index=frame, object_ids=object_ids, file=name, direction=direction)
    answer = await scene.services.sessions.add_request(session_id, ReferenceRequest(references=(reference,)))
    assert answer == "ok"


def object_in(event: MaskEvent, object_id: int) -> MaskObject | None:
    return next((found for found in event.objects if found.object_id == object_id), None)


def pixels(event: MaskEvent, object_id: int) -> NDArray[np.bool_]:
    """[H, W] of one object; empty where the frame does not name it."""
    found = object_in(event, object_id)
    return np.zeros(event.size, bool) if found is None else decode_rle(found.rle.model_dump())


async def newest(scene: Scene, session_id: str) -> dict[int, MaskEvent]:
    """frame -> the mask that counts."""
    events = await scene.masks(session_id)
    assert [event.seq for event in events] == list(range(len(events)))
    record = await scene.record(session_id)
    return {frame: events[seq] for frame, seq in latest_seqs(record.plan, record.next_seq).items()}


async def run(scene: Scene) -> None:
    await anyio.to_thread.run_sync(scene.run_here)


async def test_correction_of_a_finished_session_leaves_the_others_as_they_were(scene: Scene) -> None:
    session_id = await scene.submit(20, object_ids=(1, 2))
    await run(scene)
    before = await newest(scene, session_id)
    await correct(scene, session_id, 12, (1,), "both")
    assert (await scene.record(session_id)).state is SessionState.QUEUED
    await run(scene)
    record = await scene.record(session_id)
    assert record.state is SessionState.COMPLETED and record.revision == 1
    assert record.next_seq == 20 + 11 + 8, "back to frame 1, on to the end"
    after = await newest(scene, session_id)
    assert sorted(after) == list(range(20))
    assert after[0] == before[0], "the neighbouring reference stands"
    for frame in range(20):
        covered = pixels(after[frame], 1)
        assert np.array_equal(pixels(after[frame], 2), pixels(before[frame], 2) & ~covered)
        new, old = object_in(after[frame], 2), object_in(before[frame], 2)
        assert new is not None and old is not None and new.uncertainty == old.uncertainty is not None
    corrected = object_in(after[12], 1)
    assert corrected is not None and corrected.uncertainty == 0.0
    changed = [frame for frame in range(20) if object_in(after[frame], 1) != object_in(before[frame], 1)]
    assert len(changed) >= 15


@pytest.mark.parametrize("object_ids", [(1,), (3,)])
async def test_a_correction_backwards_leaves_later_frames_as_they_were(
    scene: Scene, object_ids: tuple[int, ...]
) -> None:
    session_id = await scene.submit(20, object_ids=(1, 2))
    await run(scene)
    before = await newest(scene, session_id)
    await correct(scene, session_id, 12, object_ids, "backward")
    await run(scene)
    record = await scene.record(session_id)
    assert record.state is SessionState.COMPLETED
    first = 1 if object_ids == (1,) else 0
    assert record.next_seq == 20 + 13 - first
    after = await newest(scene, session_id)
    assert [after[frame] for frame in range(13, 20)] == [before[frame] for frame in range(13, 20)]
    shown = np.zeros((48, 64), np.uint8)
    shown[8:24, 4:18] = 1
    np.testing.assert_array_equal(pixels(after[12], object_ids[0]), shown > 0)
    assert all(object_in(after[frame], object_ids[0]) is not None for frame in range(first, 13))
    assert any(object_in(after[f], object_ids[0]) != object_in(before[f], object_ids[0]) for f in range(first, 12))


@pytest.mark.parametrize("frame", [1, 40])
async def test_backwards_alone_does_not_disturb_a_run(scene: Scene, frame: int) -> None:
    session_id = await scene.submit(60, object_ids=(1,))
    undisturbed = await scene.submit(60, object_ids=(1,))
    scene.start_worker(fake_step_s=0.01)
    await scene.until(session_id, lambda record: record.next_seq >= 3)
    await correct(scene, session_id, frame, (2,), "backward")
    record = await scene.finished(session_id)
    assert record.state is SessionState.COMPLETED and record.next_seq == 60 + frame + 1
    after = await newest(scene, session_id)
    assert [f for f in range(60) if object_in(after[f], 2) is not None] == list(range(frame + 1))
    await scene.finished(undisturbed)
    alone = await newest(scene, undisturbed)
    assert [after[f].objects for f in range(frame + 1, 60)] == [alone[f].objects for f in range(frame + 1, 60)]


async def test_object_that_joins_a_running_session(scene: Scene) -> None:
    session_id = await scene.submit(60, object_ids=(1,))
    scene.start_worker(fake_step_s=0.03)
    await scene.until(session_id, lambda record: record.next_seq >= 3)
    await correct(scene, session_id, 1, (1, 2), "forward")
    record = await scene.finished(session_id)
    assert record.state is SessionState.COMPLETED and record.revision == 1
    after = await newest(scene, session_id)
    assert sorted(after) == list(range(60))
    assert object_in(after[0], 2) is None
    assert all(object_in(after[frame], 2) is not None for frame in range(1, 60))
    notes = [e async for e in scene.services.masks.follow(session_id) if isinstance(e, NoteEvent)]
    assert [note.data for note in notes if note.type == "revision"] == [{"revision": 1, "from_frame": 1}]


async def test_reference_ahead_is_taken_as_the_run_comes_by(scene: Scene) -> None:
    session_id = await scene.submit(15, object_ids=(1,))
    await correct(scene, session_id, 9, (2,), "forward")
    await run(scene)
    after = await newest(scene, session_id)
    assert (await scene.record(session_id)).next_seq == 15
    assert [frame for frame in range(15) if object_in(after[frame], 2) is not None] == list(range(9, 15))


async def test_a_killed_worker_resumes_inside_a_correction(scene: Scene) -> None:
    sessions = [await scene.submit(30, object_ids=(1, 2)) for _ in range(2)]
    await run(scene)
    await correct(scene, sessions[0], 20, (2,), "both")
    await run(scene)
    await correct(scene, sessions[1], 20, (2,), "both")
    worker = scene.start_worker(fake_step_s=0.03)
    await scene.until(sessions[1], lambda record: record.next_seq >= 36)
    await scene.kill(worker)
    assert 36 <= (await scene.record(sessions[1])).next_seq < 59
    await run(scene)
    undisturbed, resumed = [await newest(scene, session_id) for session_id in sessions]
    assert {f: e.objects for f, e in resumed.items()} == {f: e.objects for f, e in undisturbed.items()}
