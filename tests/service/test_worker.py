"""Sessions through real workers: exactly once, whatever dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest

from engines.fake import FakeEngine
from engines.protocols import Track
from engines.types import TrackState
from service.schemas import MaskEvent, SessionState
from service.storage import SESSION_FILE
from tests.service.scene import Scene, make_scene

pytestmark = pytest.mark.anyio


def content(events: list[MaskEvent]) -> list[tuple[int, int, str]]:
    """What must be equal between two runs."""
    return [(e.seq, e.frame_index, "".join(o.model_dump_json() for o in e.objects)) for e in events]


async def in_thread(scene: Scene) -> None:
    await anyio.to_thread.run_sync(scene.run_here)


async def assert_no_orphans(scene: Scene, session_id: str) -> None:
    """The inputs, the committed archive files, session.json; nothing else, as soon as the worker has tidied up."""
    named = {archive.name for archive in await scene.services.sessions.archives(session_id)}
    expected = named | {"input/video.mp4", "input/mask.png", SESSION_FILE}
    for _ in range(200):
        if scene.files(session_id) == expected:
            return
        await anyio.sleep(0.05)
    assert scene.files(session_id) == expected


async def test_a_session_from_first_to_last_frame(scene: Scene) -> None:
    session_id = await scene.submit(20, object_ids=(3, 7))
    await in_thread(scene)
    record = await scene.record(session_id)
    assert record.state is SessionState.COMPLETED and record.error is None
    times = [record.queued_at, record.started_at, record.first_mask_at, record.last_mask_at, record.finished_at]
    assert times == sorted(time for time in times if time is not None)
    events = await scene.masks(session_id)
    assert [e.seq for e in events] == [e.frame_index for e in events] == list(range(20))
    assert {o.object_id for e in events for o in e.objects} == {3, 7}
    assert len({e.objects for e in events}) > 10, "the fake engine's masks move"
    doubts = [[item.uncertainty for item in event.objects] for event in events]
    assert doubts[0] == [0.0, 0.0], "nobody doubts the client's own mask"
    assert len({tuple(each) for each in doubts}) > 10 and all(0 <= (d or 0) <= 1 for each in doubts for d in each)
    await assert_no_orphans(scene, session_id)


async def test_kills_between_first_and_last_frame(scene: Scene, redis_url: str, tmp_path: Path) -> None:
    undisturbed = await scene.submit(60)
    await in_thread(scene)
    session_id = await scene.submit(60)
    seen = 0
    for _ in range(3):
        worker = scene.start_worker(fake_step_s=0.02)
        record = await scene.until(session_id, lambda r, seen=seen: r.next_seq > seen)  # type: ignore[misc]
        await scene.kill(worker)
        seen = (await scene.record(session_id)).next_seq
        assert 0 < seen < 60
    scene.start_worker()
    record = await scene.finished(session_id)
    assert record.state is SessionState.COMPLETED
    assert record.epoch == 7, "three claims, three sweeps, one more claim"
    assert content(await scene.masks(session_id)) == content(await scene.masks(undisturbed))
    await assert_no_orphans(scene, session_id)


async def test_zombie_commits_nothing(scene: Scene) -> None:
    undisturbed = await scene.submit(40)
    await in_thread(scene)
    session_id = await scene.submit(40)
    zombie = scene.start_worker(fake_step_s=0.05, lease_step_s=1.0, lease_warmup_s=1.0)
    await scene.until(session_id, lambda r: r.next_seq >= 3)
    assert zombie.pid is not None
    os.kill(zombie.pid, signal.SIGSTOP)
    await scene.until(session_id, lambda r: r.state is SessionState.RUNNING, timeout_s=1.0)
    scene.start_worker(fake_step_s=0.05)
    taken = await scene.until(session_id, lambda r: r.epoch >= 3 and r.next_seq < 40)
    os.kill(zombie.pid, signal.SIGCONT)
    record = await scene.finished(session_id)
    assert record.epoch == taken.epoch
    assert content(await scene.masks(session_id)) == content(await scene.masks(undisturbed))
    os.kill(zombie.pid, signal.SIGTERM)
    await anyio.to_thread.run_sync(zombie.join)
    archived = await scene.services.sessions.archives(session_id)
    epochs = {a.name.split("/")[1].split("-")[0] for a in archived}
    assert epochs <= {"1", str(taken.epoch)}


async def test_cancel_keeps_the_masks(scene: Scene) -> None:
    session_id = await scene.submit(200)
    scene.start_worker(fake_step_s=0.02)
    await scene.until(session_id, lambda r: r.next_seq >= 3)
    assert await scene.services.sessions.cancel(session_id, expires_at=1.0) == "ok"
    record = await scene.finished(session_id)
    assert record.state is SessionState.CANCELLED and 3 <= record.next_seq < 200
    assert record.archived_seq == record.next_seq
    assert [e.seq for e in await scene.masks(session_id)] == list(range(record.next_seq))
    await assert_no_orphans(scene, session_id)


async def test_delete_while_running_leaves_no_file(scene: Scene) -> None:
    session_id = await scene.submit(200)
    worker = scene.start_worker(fake_step_s=0.02)
    await scene.until(session_id, lambda r: r.next_seq >= 3)
    assert await scene.services.sessions.delete(session_id)
    scene.storage.delete(session_id)
    after = await scene.submit(5)
    assert (await scene.finished(after)).state is SessionState.COMPLETED, "the worker lives on"
    assert worker.is_alive()
    assert list(scene.storage.sessions()) == [after]
    assert await scene.services.sessions.get(session_id) is None


async def test_poison_fails_after_three_deaths_at_one_place(scene: Scene) -> None:
    session_id = await scene.submit(10)
    for _ in range(3):
        worker = scene.start_worker(fake_step_s=30.0)
        await scene.until(session_id, lambda r: r.state is SessionState.RUNNING and r.next_seq == 1)
        await scene.until_stage(worker, "warmup")
        await scene.kill(worker)
    record = await scene.finished(session_id)
    assert record.state is SessionState.FAILED
    assert record.error is not None and record.error.code == "poison"
    assert [e.seq for e in await scene.masks(session_id)] == [0], "what was made stays readable"
    letters = await scene.services.redis.xlen(scene.services.keys.dead_letters)
    assert letters == 1


async def test_drain_hands_back_and_another_goes_on(scene: Scene) -> None:
    undisturbed = await scene.submit(50)
    await in_thread(scene)
    session_id = await scene.submit(50)
    first = scene.start_worker(fake_step_s=0.02)
    await scene.until(session_id, lambda r: r.next_seq >= 5)
    first.terminate()
    await anyio.to_thread.run_sync(first.join)
    assert first.exitcode == 0
    record = await scene.record(session_id)
    assert record.state is SessionState.QUEUED and record.snapshot is not None
    assert record.snapshot.seq == record.next_seq == record.archived_seq
    scene.start_worker()
    assert (await scene.finished(session_id)).attempts == 0
    assert content(await scene.masks(session_id)) == content(await scene.masks(undisturbed))


async def test_broken_video_keeps_its_masks_and_names_the_frame(scene: Scene, tmp_path: Path) -> None:
    whole = tmp_path / "whole.mp4"
    scene.write_video(whole, 40)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    session_id = await scene.submit(broken)
    await in_thread(scene)
    record = await scene.record(session_id)
    assert record.state is SessionState.FAILED
    assert record.error is not None and record.error.code == "decode-failed"
    assert record.error.frame_index == record.next_seq > 0
    assert len(await scene.masks(session_id)) == record.next_seq
    await assert_no_orphans(scene, session_id)


async def test_readers_continue_after_n_from_stream_or_archive(scene: Scene) -> None:
    session_id = await scene.submit(30)
    await in_thread(scene)
    everything = content(await scene.masks(session_id))
    follow = scene.services.masks.follow
    rest = [e async for e in follow(session_id, 11) if isinstance(e, MaskEvent)]
    assert content(rest) == everything[12:]
    await scene.services.redis.delete(scene.services.keys.masks(session_id))
    archived = [e async for e in follow(session_id, 11) if isinstance(e, MaskEvent)]
    assert content(archived) == everything[12:]
    assert [e async for e in follow(session_id, 29)] == []


async def test_sessions_share_a_worker_and_a_device_budget(scene: Scene, redis_url: str) -> None:
    ids = [await scene.submit(15, seed=seed, device_bytes=400 * 2**20) for seed in range(4)]
    alone = make_scene(redis_url, scene.settings.redis_prefix + "alone:", scene.settings.data_dir / "alone")
    expected = []
    for seed in range(4):
        session_id = await alone.submit(15, seed=seed)
        await in_thread(alone)
        expected.append(content(await alone.masks(session_id)))
    await alone.services.redis.aclose()
    await anyio.to_thread.run_sync(lambda: scene.run_here(device_memory_mib=900))
    assert [content(await scene.masks(session_id)) for session_id in ids] == expected


async def test_short_session_does_not_wait_for_a_long_one(scene: Scene) -> None:
    undisturbed = await scene.submit(100, seed=1)
    await in_thread(scene)
    long = await scene.submit(100, seed=1)
    scene.start_worker(fake_step_s=0.02, quantum_s=0.4, max_tracks=1)
    await scene.until(long, lambda r: r.next_seq >= 3)
    short = await scene.submit(5)
    assert (await scene.finished(short)).state is SessionState.COMPLETED
    assert (await scene.record(long)).next_seq < 100
    assert (await scene.finished(long)).state is SessionState.COMPLETED
    assert content(await scene.masks(long)) == content(await scene.masks(undisturbed))


async def test_a_session_that_cannot_be_snapshotted_as_it_yields_ends_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot(engine: FakeEngine, track: Track) -> TrackState:
        raise RuntimeError("the device has no memory for a copy")

    monkeypatch.setattr(FakeEngine, "snapshot", snapshot)
    long = await scene.submit(300)
    short = await scene.submit(5)
    settings = {"fake_step_s": 0.01, "quantum_s": 0.2, "max_tracks": 1, "snapshot_interval_s": 600.0}
    await anyio.to_thread.run_sync(lambda: scene.run_here(**settings))
    assert (await scene.record(long)).state is SessionState.FAILED
    assert (await scene.record(short)).state is SessionState.COMPLETED
