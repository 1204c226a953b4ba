"""What limits a correction: the session's room, the queue, the disk. And that a refused one leaves nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx2
import pytest

from service.redis_keys import Keys
from service.settings import Settings
from tests.service.api_server import ApiServer, mask_png, running_api
from tests.service.scripted_worker import ScriptedWorker
from tests.service.videos import write_video

Serving = Callable[..., AbstractContextManager[ApiServer]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", 4).read_bytes()


@pytest.fixture
def serving(redis_url: str, tmp_path: Path, keys: Keys) -> Serving:
    def serve(**limits: int) -> AbstractContextManager[ApiServer]:
        values = {"redis_url": redis_url, "redis_prefix": keys.prefix, "data_dir": tmp_path / "data", "port": 0}
        return running_api(Settings.model_validate({**values, "min_free_bytes": 0, **limits}))

    return serve


def correct(api: ApiServer, session_id: str, object_ids: tuple[int, ...]) -> httpx2.Response:
    return api.http.post(f"/sessions/{session_id}/references", files=[("mask", ("m.png", mask_png(object_ids)))])


def begin(api: ApiServer, clip: bytes, object_ids: tuple[int, ...] = (1,)) -> str:
    made = api.upload(clip, [mask_png(object_ids)])
    assert made.status_code == 202, made.text
    return str(made.json()["session_id"])


def complete(api: ApiServer) -> None:
    worker = ScriptedWorker(api.settings)
    worker.claim()
    worker.publish(0, 3)
    worker.finish()


def test_what_waits_to_be_taken_in_counts(serving: Serving, clip: bytes) -> None:
    with serving(max_objects=4, max_references=3) as api:
        session_id = begin(api, clip)
        assert correct(api, session_id, (2, 3)).status_code == 202
        refused = correct(api, session_id, (4, 5))
        assert refused.status_code == 422 and "objects" in refused.json()["detail"]
        assert correct(api, session_id, (4,)).status_code == 202
        refused = correct(api, session_id, (4,))
        assert refused.status_code == 422 and "references" in refused.json()["detail"]
        dropped = [api.http.delete(f"/sessions/{session_id}/objects/{each}").status_code for each in (1, 2, 3, 4, 4)]
        assert dropped == [202, 202, 202, 409, 409], "the last object stays"


def test_a_refused_correction_leaves_no_file(serving: Serving, clip: bytes) -> None:
    with serving(max_queue_length=1, max_objects=2) as api:
        session_id = begin(api, clip)
        complete(api)
        files = api.stored_files()
        begin(api, clip)
        before = len(api.stored_files())
        full = correct(api, session_id, (1,))
        assert full.status_code == 429 and full.headers["retry-after"]
        assert len(api.stored_files()) == before
        complete(api)
        assert correct(api, session_id, (1, 2, 3)).status_code == 422
        api.http.post(f"/sessions/{session_id}/cancel")
        assert [name for name in api.stored_files() if name.startswith(session_id)] == files


def test_an_ended_session_is_refused_before_its_files_are_written(serving: Serving, clip: bytes) -> None:
    with serving() as api:
        session_id = begin(api, clip)
        api.http.post(f"/sessions/{session_id}/cancel")
        files = api.stored_files()
        assert correct(api, session_id, (1,)).status_code == 409
        assert api.stored_files() == files


def test_a_correction_that_queues_a_session_again_counts_as_one(serving: Serving, clip: bytes) -> None:
    with serving(max_sessions_per_key=1) as api:
        done = begin(api, clip)
        complete(api)
        running = begin(api, clip)
        assert correct(api, done, (1,)).status_code == 429
        assert correct(api, running, (1,)).status_code == 202, "it is one of the unfinished already"


def test_a_full_queue_keeps_nobody_from_correcting_what_is_under_way(serving: Serving, clip: bytes) -> None:
    with serving(max_queue_length=1) as api:
        running = begin(api, clip)
        ScriptedWorker(api.settings).claim()
        begin(api, clip)
        assert correct(api, running, (1,)).status_code == 202


def test_a_full_disk_takes_no_corrections(serving: Serving, clip: bytes) -> None:
    with serving() as api:
        session_id = begin(api, clip)
    with serving(min_free_bytes=1 << 60) as api:
        refused = correct(api, session_id, (1,))
        assert refused.status_code == 507 and refused.headers["retry-after"]


def test_a_session_that_goes_away_meanwhile_is_404(serving: Serving, clip: bytes) -> None:
    with serving() as api:
        session_id = begin(api, clip)
        shutil.rmtree(api.settings.data_dir / "sessions" / session_id)  # as its deletion begins
        gone = correct(api, session_id, (1,))
        assert gone.status_code == 404 and "deleted" in gone.json()["detail"]


def test_references_are_as_long_sent_as_a_file_as_sent_as_a_field(serving: Serving, clip: bytes) -> None:
    with serving(max_field_bytes=2000, max_references=4) as api:
        entry = {"object_id": 1, "kind": "box", "box": [1, 1, 9, 9]}
        text = json.dumps([{**entry, "frame_index": index} for index in range(4)])
        for listed, status in ((text, 202), (text + " " * 2000, 413), (json.dumps([0] * 300), 422)):
            files = [("video", ("clip.mp4", clip)), ("references", ("references.json", listed.encode()))]
            answer = api.http.post("/sessions", files=files, data={"engine": "fake"})
            assert answer.status_code == status, answer.text
        assert "at most 4" in answer.json()["detail"]


def test_points_are_counted_over_the_whole_session(serving: Serving, clip: bytes) -> None:
    def pointed(count: int) -> str:
        sizes = [min(1000, count - at) for at in range(0, count, 1000)]
        listed = [{"object_id": 1, "kind": "point", "points": [[9, 9, 1]] * size} for size in sizes]
        return json.dumps([{**entry, "frame_index": index} for index, entry in enumerate(listed)])

    with serving() as api:
        assert api.upload(clip, None, references=pointed(4000)).status_code == 202
        session_id = api.http.get("/sessions").json()["sessions"][0]["session_id"]
        where = f"/sessions/{session_id}/references"
        for count, status in ((1001, 422), (1000, 202), (1, 422)):
            answer = api.http.post(where, files=[("references", (None, pointed(count).encode()))])
            assert answer.status_code == status, answer.text
        assert "at most 5000" in answer.json()["detail"]
