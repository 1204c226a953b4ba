"""References that are no masks, through a real worker: what they become, where they start, and what fails."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping
from typing import Any

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service import redis_keys
from service.masks import decode_rle
from service.plan import first_plan
from service.schemas import MaskEvent, Reference, ReferenceRequest, SessionRecord, SessionSpec, SessionState, VideoInfo
from service.session_file import write_session_file
from service.storage import INPUT
from service.worker.references import read_label_map
from service.worker.session import RunningSession
from tests.service.api_server import mask_png
from tests.service.discs import BLUE, FRAMES, HEIGHT, WIDTH, Mask, overlap, red_at, write_discs
from tests.service.scene import LIMITS, Scene, decoders_of

pytestmark = pytest.mark.anyio


async def submit(
    scene: Scene,
    *references: Reference,
    back_from: int | None = None,
    files: Mapping[str, bytes] | None = None,
    run: bool = True,
) -> str:
    session_id = redis_keys.new_session_id()
    scene.storage.create(session_id)
    for name, content in (files or {}).items():
        scene.storage.write(session_id, name, content)
    path = scene.storage.root / f"{session_id}.mp4"
    scene.storage.write(session_id, f"{INPUT}/video.mp4", write_discs(path))
    path.unlink()
    info = VideoInfo(name=f"{INPUT}/video.mp4", height=HEIGHT, width=WIDTH, frames=FRAMES, fps=25.0)
    record = SessionRecord(
        id=session_id,
        spec=SessionSpec(engine="fake", video=info),
        references=references,
        plan=first_plan(0, None, back_from=back_from),
        created_at=time.time(),
    )
    write_session_file(scene.storage, record)
    assert (await scene.services.sessions.create(record, LIMITS)).status == "ok"
    if run:
        await anyio.to_thread.run_sync(scene.run_here)
    return session_id


def label_map(scene: Scene, record: SessionRecord, index: int) -> NDArray[np.uint8]:
    name = record.references[index].label_map_file
    assert name is not None
    return read_label_map(scene.storage, record.id, name)


def of_object(event: MaskEvent, object_id: int) -> Mask:
    (found,) = (item for item in event.objects if item.object_id == object_id)
    return decode_rle(found.rle.model_dump())


async def test_box_point_and_text_become_label_maps_that_the_engine_follows(scene: Scene) -> None:
    session_id = await submit(
        scene,
        Reference(kind="box", object_ids=(3,), box=(20, 20, 40, 40)),
        Reference(kind="point", object_ids=(5,), points=((130, 70, 1),)),
        Reference(kind="text", object_ids=(9,), text="the red one", frame_index=4),
    )
    record = await scene.record(session_id)
    assert record.state is SessionState.COMPLETED, record.error
    assert overlap(label_map(scene, record, 0) == 3, red_at(0)) > 0.85
    assert overlap(label_map(scene, record, 1) == 5, BLUE) > 0.85
    assert overlap(label_map(scene, record, 2) == 9, red_at(4)) > 0.7
    assert [item.object_id for item in record.objects] == [3, 5, 9]
    events = await scene.masks(session_id)
    assert [event.frame_index for event in events] == list(range(FRAMES))
    assert overlap(of_object(events[0], 3), red_at(0)) > 0.85


async def test_a_reference_in_the_middle_runs_backwards_then_forwards(scene: Scene) -> None:
    session_id = await submit(
        scene,
        Reference(kind="box", object_ids=(2,), box=(40, 20, 40, 40), frame_index=4, direction="both"),
        back_from=4,
    )
    record = await scene.record(session_id)
    assert record.state is SessionState.COMPLETED, record.error
    events = await scene.masks(session_id)
    assert [event.frame_index for event in events] == [3, 2, 1, 0, *range(4, FRAMES)]
    assert overlap(of_object(events[4], 2), red_at(4)) > 0.85
    assert all(of_object(event, 2).any() for event in events)


async def test_without_a_reference_what_moves_is_found(scene: Scene) -> None:
    session_id = await submit(scene, Reference(kind="auto", max_objects=1))
    record = await scene.record(session_id)
    assert record.state is SessionState.COMPLETED, record.error
    assert record.references[0].object_ids == (1,)
    assert overlap(label_map(scene, record, 0) == 1, red_at(0)) > 0.6


async def test_what_is_not_there_is_left_out_or_fails(scene: Scene) -> None:
    missing = Reference(kind="text", object_ids=(4,), text="the purple one")
    session_id = await submit(scene, missing, Reference(kind="box", object_ids=(3,), box=(20, 20, 40, 40)))
    record = await scene.record(session_id)
    assert record.state is SessionState.COMPLETED, record.error
    assert any("reference 0 (text) was left out: nothing in the frame is purple" in text for text in record.warnings)
    failed = await scene.record(await submit(scene, missing))
    assert failed.state is SessionState.FAILED and failed.error is not None
    assert failed.error.code == "unusable-reference" and "nothing in the frame is purple" in failed.error.detail


async def test_what_the_engine_says_of_a_reference_reaches_the_session(scene: Scene) -> None:
    only_one = np.zeros((HEIGHT, WIDTH), np.uint8)
    only_one[red_at(0)] = 1
    name = f"{INPUT}/mask.png"
    out = io.BytesIO()
    Image.fromarray(only_one).save(out, format="PNG")
    session_id = await submit(scene, Reference(kind="mask", object_ids=(1, 2), file=name), files={name: out.getvalue()})
    record = await scene.record(session_id)
    assert record.state is SessionState.COMPLETED, record.error
    assert record.warnings == ("object 2 has no pixels in its reference",)


async def test_a_later_reference_is_followed_backwards_once_the_pass_is_over(scene: Scene) -> None:
    session_id = await submit(
        scene,
        Reference(kind="box", object_ids=(2,), box=(20, 20, 40, 40)),
        Reference(kind="point", object_ids=(5,), points=((130, 70, 1),), frame_index=6, direction="both"),
    )
    record = await scene.record(session_id)
    assert record.state is SessionState.COMPLETED, record.error
    events = await scene.masks(session_id)
    assert [event.frame_index for event in events] == [*range(FRAMES), 5, 4, 3, 2, 1, 0]
    assert [[item.object_id for item in event.objects] for event in events[:7]] == [[2]] * 6 + [[2, 5]]
    for event in events[FRAMES:]:
        first_pass = events[event.frame_index]
        assert of_object(event, 5).any(), "the later object, backwards"
        np.testing.assert_array_equal(of_object(event, 2), of_object(first_pass, 2) & ~of_object(event, 5))


async def test_each_reference_is_followed_the_ways_it_asks_for(scene: Scene) -> None:
    session_id = await submit(
        scene,
        Reference(kind="box", object_ids=(2,), box=(40, 20, 40, 40), frame_index=4, direction="forward"),
        Reference(kind="point", object_ids=(5,), points=((130, 70, 1),), frame_index=4, direction="backward"),
        Reference(kind="box", object_ids=(6,), box=(10, 70, 20, 20), frame_index=8, direction="backward"),
        back_from=4,
    )
    record = await scene.record(session_id)
    assert record.state is SessionState.COMPLETED, record.error
    events = await scene.masks(session_id)
    assert [event.frame_index for event in events] == [3, 2, 1, 0, *range(4, FRAMES), *range(8, -1, -1)]
    frames = {
        object_id: sorted({e.frame_index for e in events if object_id in {item.object_id for item in e.objects}})
        for object_id in (2, 5, 6)
    }
    assert frames == {2: list(range(4, FRAMES)), 5: list(range(5)), 6: list(range(9))}


async def test_a_request_that_cannot_be_taken_in_leaves_no_decoder(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[RunningSession] = []

    class KeptSession(RunningSession):
        """Held by the test, so that the collector of garbage does not end its decoder."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            kept.append(self)

    monkeypatch.setattr("service.worker.claims.RunningSession", KeptSession)
    mask = Reference(kind="mask", object_ids=(1,), file="input/mask.png")
    session_id = await submit(scene, mask, files={"input/mask.png": mask_png((1,), (HEIGHT, WIDTH))}, run=False)
    lost = Reference(kind="mask", frame_index=3, object_ids=(2,), file="input/gone.png")
    await scene.services.sessions.add_request(session_id, ReferenceRequest(references=(lost,)))
    await anyio.to_thread.run_sync(scene.run_here)
    assert (await scene.record(session_id)).state is SessionState.FAILED
    assert len(kept) == 1 and not decoders_of(os.getpid())


async def test_boxes_that_overlap_are_parted_by_colour(scene: Scene) -> None:
    session_id = await submit(
        scene,
        Reference(kind="box", object_ids=(1,), box=(20, 20, 125, 62), frame_index=11),
        Reference(kind="box", object_ids=(2,), box=(114, 54, 32, 32), frame_index=11),
        back_from=11,
    )
    record = await scene.record(session_id)
    assert record.state is SessionState.COMPLETED, record.error
    maps = [label_map(scene, record, index) > 0 for index in (0, 1)]
    assert not (maps[0] & maps[1]).any()
    assert overlap(maps[1], BLUE) > 0.8


@pytest.mark.parametrize("finished", [True, False])
async def test_corrections_of_every_kind_are_resolved(scene: Scene, finished: bool) -> None:
    session_id = await submit(scene, Reference(kind="box", object_ids=(2,), box=(20, 20, 40, 40)), run=finished)
    late = (
        Reference(kind="box", object_ids=(4,), box=(114, 54, 32, 32), frame_index=3),
        Reference(kind="point", object_ids=(5,), points=((70, 40, 1),), frame_index=6),
        Reference(kind="text", object_ids=(6,), text="the blue one", frame_index=8),
    )
    for reference in late:
        assert await scene.services.sessions.add_request(session_id, ReferenceRequest(references=(reference,))) == "ok"
    await anyio.to_thread.run_sync(scene.run_here)
    record = await scene.record(session_id)
    assert record.state is SessionState.COMPLETED, record.error
    assert record.requests_taken == 3
    assert overlap(label_map(scene, record, 1) == 4, BLUE) > 0.8
    assert overlap(label_map(scene, record, 2) == 5, red_at(6)) > 0.7
    assert overlap(label_map(scene, record, 3) == 6, BLUE) > 0.7
    events = await scene.masks(session_id)
    newest = {event.frame_index: {item.object_id for item in event.objects} for event in events}
    assert sorted(newest) == list(range(FRAMES))
    assert 4 in newest[3] and 5 in newest[6] and 6 in newest[8]
