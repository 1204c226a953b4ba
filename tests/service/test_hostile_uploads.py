"""A handful of hostile uploads; benchmarks/broken_uploads.py sends all of them. And what the janitor sweeps up."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from service.api.janitor import Janitor
from service.live_input import LiveInput
from service.local_storage import LocalStorage
from service.mask_stream import MaskStream
from service.redis_keys import Keys, new_session_id
from service.schemas import SessionState
from service.sessions import SessionStore
from service.settings import Settings
from tests.service.api_server import ApiServer, mask_png, running_api
from tests.service.broken import Upload, all_uploads
from tests.service.scripted_worker import ScriptedWorker
from tests.service.videos import write_video

HANDFUL = (
    "mp4 cut at 0",
    "HLS of a local file",
    "PNG bomb as video",
    "header says 65535x65535",
    "deep boxes",
    "8k frames",
    "zip: climbs out",
    "zip: bytes bomb",
    "zip: in a zip",
    "mask: bomb",
    "mask: text bomb",
    "field references",
    "field memory",
    "body: 1000 parts",
    "body: header without end",
)


HARMLESS = ("header says 65535x65535",)
"""What the content says counts, not the header: taken as it is."""


@pytest.fixture
def settings(redis_url: str, tmp_path: Path, keys: Keys) -> Settings:
    return Settings(redis_url=redis_url, redis_prefix=keys.prefix, data_dir=tmp_path / "data", port=0, min_free_bytes=0)


@pytest.fixture
def api(settings: Settings) -> Iterator[ApiServer]:
    with running_api(settings) as server:
        yield server


def send(api: ApiServer, upload: Upload) -> httpx2.Response:
    """POST one hostile upload."""
    if upload.body is not None:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        return api.http.post("/sessions", content=upload.body, headers=headers)
    files = [("video", (upload.filename, upload.video)), ("mask", ("m.png", upload.mask))]
    return api.http.post("/sessions", files=files, data={"engine": "fake", **dict(upload.fields)})


def test_hostile_uploads_are_refused_and_leave_nothing(api: ApiServer, tmp_path: Path) -> None:
    cases = {upload.name: upload for upload in all_uploads(tmp_path, damage_per_file=1)}
    for name in HANDFUL:
        answer = send(api, cases[name])
        if name in HARMLESS:
            assert answer.status_code == 202
            api.http.delete(answer.json()["links"]["self"])
            continue
        assert 400 <= answer.status_code < 500, (name, answer.status_code, answer.text)
        assert answer.headers["content-type"] == "application/problem+json", name
    assert api.stored_files() == []
    assert not Path("/tmp/evil.png").exists()  # noqa: S108


def test_a_client_that_goes_away_leaves_nothing(api: ApiServer) -> None:
    def broken_off() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="video"; filename="v"\r\n\r\n' + bytes(2_000_000)
        raise ConnectionError("the client's network is gone")

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    with pytest.raises(ConnectionError):
        api.http.post("/sessions", content=broken_off(), headers=headers)
    deadline = time.monotonic() + 10
    while api.stored_files() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert api.stored_files() == []
    assert api.http.get("/healthz").status_code == 200


@pytest.mark.anyio
async def test_janitor_removes_what_is_due_and_nothing_else(
    settings: Settings, store: SessionStore, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "clip.mp4", 3)
    with running_api(settings) as api:
        made = [api.upload(clip, [mask_png()]).json()["session_id"] for _ in range(3)]
    storage = LocalStorage(settings.data_dir)
    janitor = Janitor(
        store, MaskStream(store._redis, store._keys, storage), LiveInput(store._redis, store._keys), storage, settings
    )
    forgotten_by_redis, expired, waiting = made
    now = time.time()
    await store.cancel(expired, expires_at=now - 1)
    await store._redis.delete(store._keys.session(forgotten_by_redis))
    broken_off = new_session_id()
    storage.create(broken_off)
    storage.write(broken_off, "input/.video.01.part", b"half")
    storage.write(waiting, "archive/9-0-3.jsonl", b"never committed")
    for path in (settings.data_dir / "sessions").rglob("*"):
        os.utime(path, (now - 7200, now - 7200))

    await janitor.clean(now)
    assert set(storage.sessions()) == {forgotten_by_redis, waiting}
    assert {file.name for file in storage.list(waiting)} == {"session.json", "input/video", "input/mask-0.png"}
    assert await store.tombstone(expired) == "expired"
    await janitor.clean(now + settings.session_ttl_s + 7200)
    assert set(storage.sessions()) == {waiting}, "what waits is not expired"


def test_a_deleted_session_answers_404_and_an_expired_one_410(
    settings: Settings, api: ApiServer, tmp_path: Path
) -> None:
    session_id = api.upload(write_video(tmp_path / "clip.mp4", 3), [mask_png()]).json()["session_id"]
    worker = ScriptedWorker(settings)
    worker.claim()
    worker.finish(SessionState.COMPLETED, expires_at=time.time() - 1)
    deadline = time.monotonic() + 10
    with running_api(settings):  # its janitor makes a pass as it starts
        while api.http.get(f"/sessions/{session_id}").status_code == 200 and time.monotonic() < deadline:
            time.sleep(0.05)
    gone = api.http.get(f"/sessions/{session_id}")
    assert gone.status_code == 410 and gone.json()["type"].endswith("expired")
