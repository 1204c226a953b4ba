"""session.json says enough for a session to be put back after Redis has lost it, at whatever moment that was."""

from __future__ import annotations

import time

import anyio.to_thread
import pytest

from service.api.janitor import Janitor
from service.errors import EpochLost
from service.plan import latest_seqs
from service.schemas import Reference, ReferenceRequest, SessionState
from service.session_file import read_session_file
from service.storage import INPUT
from tests.service.scene import Scene, reference_png
from tests.service.scripted_worker import mask_event

pytestmark = pytest.mark.anyio


async def forget_all(scene: Scene) -> None:
    """Redis loses everything; the janitor looks at it a little later."""
    redis, prefix = scene.services.redis, scene.services.keys.prefix
    names = [name async for name in redis.scan_iter(f"{prefix}*")]
    await redis.delete(*names)
    await clean(scene, 120)


async def clean(scene: Scene, later_s: float = 0.0) -> None:
    services = scene.services
    janitor = Janitor(services.sessions, services.masks, services.live, scene.storage, scene.settings)
    await janitor.clean(time.time() + later_s)


async def correct(scene: Scene, session_id: str, frame_index: int) -> None:
    name = f"{INPUT}/mask-{frame_index}.png"
    scene.storage.write(session_id, name, reference_png())
    reference = Reference(kind="mask", frame_index=frame_index, object_ids=(1,), file=name)
    assert await scene.services.sessions.add_request(session_id, ReferenceRequest(references=(reference,))) == "ok"


async def test_masks_made_after_a_correction_belong_to_their_frames(scene: Scene) -> None:
    session_id = await scene.submit(120)
    worker = scene.start_worker(fake_step_s=0.02)
    await scene.until(session_id, lambda record: record.next_seq >= 5)
    await correct(scene, session_id, 2)
    await scene.until(
        session_id, lambda record: len(record.plan) > 1 and record.archived_seq > record.plan[1].first_seq + 8
    )
    await scene.kill(worker)
    await forget_all(scene)
    record = await scene.record(session_id)
    assert record.state is SessionState.FAILED and record.error is not None and record.error.code == "queue-lost"
    shown = {event.seq: event.frame_index for event in await scene.masks(session_id)}
    assert {seq: frame for frame, seq in latest_seqs(record.plan, record.next_seq).items()}.items() <= shown.items()


async def test_an_end_without_a_worker_is_written_down(scene: Scene) -> None:
    session_id = await scene.submit(3)
    await scene.services.sessions.cancel(session_id, expires_at=time.time() + 5000)
    await clean(scene)
    file = read_session_file(scene.storage, session_id)
    assert file is not None and file.session.state is SessionState.CANCELLED
    await forget_all(scene)
    assert (await scene.record(session_id)).state is SessionState.CANCELLED


async def test_an_end_that_its_worker_did_not_live_to_write_down(scene: Scene) -> None:
    session_id = await scene.submit(3)
    await anyio.to_thread.run_sync(scene.run_here)
    done = await scene.record(session_id)
    early = read_session_file(scene.storage, session_id)
    assert early is not None
    queued = early.session.model_copy(update={"state": SessionState.QUEUED, "plan": early.session.plan[:1]})
    scene.storage.write(
        session_id,
        "session.json",
        early.model_copy(update={"session": queued, "archives": ()}).model_dump_json().encode(),
    )
    await scene.services.redis.hset(scene.services.keys.session(session_id), "finished_at", str(time.time() + 1))
    await clean(scene)
    expected = await scene.masks(session_id)
    await forget_all(scene)
    assert (await scene.record(session_id)).state is SessionState.COMPLETED
    assert await scene.masks(session_id) == expected and len(expected) == 3
    assert done.state is SessionState.COMPLETED


async def test_who_held_a_session_before_redis_lost_it_holds_nothing_after(scene: Scene) -> None:
    session_id = await scene.submit(3)
    await anyio.to_thread.run_sync(scene.run_here)
    queue = scene.services.queue
    await correct(scene, session_id, 1)
    zombie = await queue.claim("zombie", 1 << 40, ["fake"])
    assert zombie is not None
    await forget_all(scene)
    await correct(scene, session_id, 1)
    assert await queue.claim("another", 1 << 40, ["fake"]) is not None
    with pytest.raises(EpochLost):
        await scene.services.masks.publish(zombie, [mask_event(3)])
