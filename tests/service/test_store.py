"""Sessions, plan, storage: each against a real Redis or a real disk."""

from __future__ import annotations

import random
from pathlib import Path

import anyio
import pytest
from redis.asyncio import Redis

from service import plan, redis_keys
from service.local_storage import LocalStorage
from service.mask_stream import MaskStream
from service.plan import Segment, first_plan
from service.queue import JobQueue
from service.redis_keys import Keys
from service.schemas import MaskEvent, Reference, SessionRecord, SessionSpec, SessionState, VideoInfo
from service.sessions import Idempotency, Limits, SessionStore, from_fields, progress, to_fields
from service.storage import SessionGone

LIMITS = Limits(queue_length=10, sessions_per_owner=10)


def make_record(frames: int | None = 4, **changes: object) -> SessionRecord:
    spec = SessionSpec(engine="fake", video=VideoInfo(name="input/video.mp4", height=8, width=9, frames=frames))
    values: dict[str, object] = {
        "id": redis_keys.new_session_id(),
        "spec": spec,
        "references": (Reference(kind="mask", object_ids=(1,), file="input/mask.png"),),
        "plan": first_plan(0, None),
        "created_at": 1.5,
    }
    return SessionRecord.model_validate(values | changes)


def test_record_survives_the_hash() -> None:
    record = make_record(warnings=("tun\u00e9",), cancel=True)
    assert from_fields(to_fields(record)) == record


def test_ids_sort_by_time_and_are_names() -> None:
    ids = [redis_keys.new_session_id() for _ in range(50)]
    assert len(set(ids)) == 50
    assert all(redis_keys.is_session_id(i) for i in ids)
    assert not redis_keys.is_session_id("../" + ids[0][3:])


@pytest.mark.anyio
async def test_create_writes_record_and_job(store: SessionStore) -> None:
    record = make_record()
    assert (await store.create(record, LIMITS)).status == "ok"
    stored = await store.get(record.id)
    assert stored is not None
    assert stored.state is SessionState.QUEUED and stored.queued_at is not None
    assert stored.model_copy(update={"queued_at": None}) == record
    assert await store.queue_length("fake") == 1


@pytest.mark.anyio
async def test_limits_refuse_without_a_trace(store: SessionStore) -> None:
    for status, limits in (("queue_full", Limits(1, 10)), ("too_many", Limits(10, 1))):
        owner = status
        first, second = make_record(owner=owner), make_record(owner=owner)
        assert (await store.create(first, Limits(10, 10))).status == "ok"
        refused = await store.create(second, limits)
        assert refused.status == status
        assert await store.get(second.id) is None
        await store.delete(first.id)


@pytest.mark.anyio
async def test_idempotency_key(store: SessionStore) -> None:
    first, again, other = make_record(), make_record(), make_record()
    assert (await store.create(first, LIMITS, Idempotency("k", "a"))).status == "ok"
    known = await store.create(again, LIMITS, Idempotency("k", "a"))
    assert (known.status, known.session_id) == ("known", first.id)
    assert (await store.create(other, LIMITS, Idempotency("k", "b"))).status == "conflict"
    assert await store.find_idempotent("local", "k") == ("a", first.id)
    assert await store.queue_length("fake") == 1


@pytest.mark.anyio
async def test_pages_newest_first_by_owner(store: SessionStore) -> None:
    made = [f"{i:026d}" for i in range(5)]
    for session_id in made:
        await store.create(make_record(id=session_id, owner="ann"), LIMITS)
    await store.create(make_record(owner="bob"), LIMITS)
    first = await store.page("ann", limit=2)
    rest = await store.page("ann", cursor=first.cursor, limit=10)
    assert [r.id for r in (*first.sessions, *rest.sessions)] == made[::-1]
    assert rest.cursor is None
    assert len((await store.page(None)).sessions) == 6


@pytest.mark.anyio
async def test_cancel_and_delete_while_queued(store: SessionStore) -> None:
    record = make_record()
    await store.create(record, LIMITS)
    assert await store.cancel(record.id, expires_at=9.0) == "ok"
    stored = await store.get(record.id)
    assert stored is not None and stored.state is SessionState.CANCELLED and stored.expires_at == 9.0
    assert await store.queue_length("fake") == 0
    assert await store.cancel(record.id, expires_at=9.0) == "final"
    assert await store.delete(record.id)
    assert not await store.delete(record.id)
    assert await store.get(record.id) is None
    assert await store.tombstone(record.id) == "deleted"
    assert await store.deleting() == [record.id]


def test_every_key_has_the_prefix_and_scripts_share_it() -> None:
    keys = Keys("x:")
    assert keys.masks("s") == "x:session:s:masks"
    assert "local P = 'x:'" in keys.script("publish")


def test_plan_is_a_pure_function() -> None:
    steps = first_plan(2, 6)
    steps = plan.append(steps, [Segment(first_seq=0, first_frame=3, step=-1, count=2, revision=1)])
    steps = plan.append(steps, [Segment(first_seq=0, first_frame=4, count=None, revision=1)])
    assert [plan.frame_index(steps, seq) for seq in range(8)] == [2, 3, 4, 5, 3, 2, 4, 5]
    assert plan.total(steps) is None
    closed = plan.close(steps, 8)
    assert plan.total(closed) == 8 and plan.locate(closed, 8) is None
    assert plan.latest_seqs(closed, 8) == {2: 5, 3: 4, 4: 6, 5: 7}
    assert plan.latest_seqs(closed, 5) == {2: 0, 3: 4, 4: 2, 5: 3}
    with pytest.raises(plan.PlanError):
        plan.append(steps, [Segment(first_seq=0, first_frame=0)])
    with pytest.raises(plan.PlanError):
        plan.frame_index(closed, 8)


def test_facts_of_a_plan_cost_what_its_segments_do() -> None:
    plan_: plan.Plan = ()
    rng = random.Random(1)
    for _ in range(6):
        step: plan.Step = rng.choice((1, -1))
        count, first = rng.randrange(6), rng.randrange(6, 12)
        plan_ = plan.append(plan_, [Segment(first_seq=0, first_frame=first, step=step, count=count)])
    for next_seq in range(plan.total(plan_) or 0):
        latest = plan.latest_seqs(plan_, next_seq)
        assert plan.frames_shown(plan_, next_seq) == len(latest)
        for frame in range(20):
            assert plan.latest_seq(plan_, next_seq, frame) == latest.get(frame)
    endless = first_plan(0, None)
    assert plan.frames_shown(endless, 10**15) == 10**15
    assert plan.latest_seq(endless, 10**15, 7) == 7


def test_storage_writes_whole_files_and_forgets_all(storage: LocalStorage, tmp_path: Path) -> None:
    session_id = redis_keys.new_session_id()
    storage.create(session_id)
    storage.write(session_id, "archive/1-0-1.jsonl", b"a\nb\n")
    half = storage.writer(session_id, "input/video.mp4")
    half.write(b"123")
    assert not [f for f in storage.list(session_id) if f.name == "input/video.mp4"]
    half.abort()
    assert [f.name for f in storage.list(session_id)] == ["archive/1-0-1.jsonl"]
    assert list(storage.sessions()) == [session_id]
    storage.delete(session_id)
    storage.delete(session_id)
    with pytest.raises(SessionGone):
        storage.write(session_id, "archive/1-2-3.jsonl", b"late")
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file() and path.name != "storage_id"]


@pytest.mark.parametrize("name", ["../session.json", "/etc/passwd", "", "a/../../b"])
def test_storage_refuses_names_outside(storage: LocalStorage, name: str) -> None:
    session_id = redis_keys.new_session_id()
    storage.create(session_id)
    with pytest.raises(ValueError, match="not a name"):
        storage.local(session_id, name)


def test_storage_id_is_kept(tmp_path: Path) -> None:
    assert LocalStorage(tmp_path).storage_id == LocalStorage(tmp_path).storage_id


@pytest.mark.anyio
async def test_speed_is_measured_while_the_session_runs(redis: Redis, keys: Keys, storage: LocalStorage) -> None:
    store, queue, masks = SessionStore(redis, keys), JobQueue(redis, keys), MaskStream(redis, keys, storage)
    record = make_record(plan=plan.close(first_plan(0, None), 8))
    await store.create(record, LIMITS)

    async def publish(*seqs: int) -> SessionRecord:
        """Under a claim of its own, a mask every 20 ms; what the record says before the session is handed back."""
        claim = await queue.claim("worker", 2**40, ["fake"])
        assert claim is not None
        for seq in seqs:
            await masks.publish(claim, [MaskEvent(seq=seq, frame_index=seq, size=(8, 9))])
            await anyio.sleep(0.02)
        seen = await store.get(record.id)
        await queue.release(claim)
        assert seen is not None
        return seen

    await publish(0, 1, 2)
    await anyio.sleep(0.3)
    seen = await publish(3, 4, 5)
    assert (seen.pace_from_seq, seen.next_seq) == (3, 6)
    assert seen.first_mask_at and seen.pace_from_at and seen.last_mask_at
    assert seen.pace_from_at >= seen.first_mask_at + 0.3, "what it waited is left out"
    facts = progress(seen)
    assert facts["masks_per_s"] == pytest.approx(2 / (seen.last_mask_at - seen.pace_from_at))
    assert facts["masks_per_s"] is not None and facts["eta_s"] == pytest.approx(2 / facts["masks_per_s"])
    assert progress(await publish())["masks_per_s"] is None, "nothing was made since it was taken"
