"""Hosts that share nothing but Redis and a bucket: each process here has a data folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import anyio
import pytest

from service import redis_keys
from service.api.janitor import Janitor
from service.errors import Unavailable
from service.redis_keys import Keys
from service.settings import Settings
from service.startup import open_storage
from service.storage import SessionGone, Storage
from tests.service.api_server import ApiServer, running_api
from tests.service.live_client import live, mask_text
from tests.service.s3_server import ACCESS, S3Server, running_s3
from tests.service.scene import Scene, make_scene, reference_png

BUCKET = "masks"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, running_s3() as server:
        for name, value in ACCESS.items():
            patch.setenv(name, value)
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture
def settings(s3: S3Server, redis_url: str, keys: Keys, tmp_path: Path) -> Settings:
    """The API host's; every key prefix is a bucket prefix too, so that tests do not meet."""
    return Settings(
        redis_url=redis_url,
        redis_prefix=keys.prefix,
        data_dir=tmp_path / "api",
        storage_url=f"s3://{BUCKET}/some/{keys.prefix.strip(':')}",
        s3_endpoint=s3.url,
        port=0,
        min_free_bytes=0,
    )


@pytest.fixture
def storage(settings: Settings) -> Storage:
    return open_storage(settings)


def test_whole_files_and_nothing_after_the_end(storage: Storage, tmp_path: Path) -> None:
    session_id = redis_keys.new_session_id()
    storage.create(session_id)
    with pytest.raises(FileExistsError):
        storage.create(session_id)
    storage.write(session_id, "archive/1-0-1.jsonl", b"a\nb\n")
    late, big = storage.writer(session_id, "exports/late"), os.urandom(9 * 1024**2)
    late.write(b"123")
    video = storage.writer(session_id, "input/video")
    video.write(big[:100])
    assert [file.name for file in storage.list(session_id)] == [".session", "archive/1-0-1.jsonl"]
    video.write(big[100:])
    video.commit()
    assert storage.stat(session_id, "input/video").size_bytes == len(big)
    assert b"".join(storage.chunks(session_id, "input/video", 5, len(big) - 7)) == big[5:-7]
    assert storage.read(session_id, "archive/1-0-1.jsonl") == b"a\nb\n"
    assert list(storage.sessions()) == [session_id]
    storage.delete(session_id)
    storage.delete(session_id)
    with pytest.raises(SessionGone):
        late.commit()
    with pytest.raises(SessionGone):
        storage.writer(session_id, "archive/1-2-3.jsonl")
    assert storage.list(session_id) == [] and list(storage.sessions()) == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "copies on this disk are gone too"


def test_another_host_fetches_a_copy_and_keeps_it_while_it_is_used(settings: Settings, tmp_path: Path) -> None:
    here = open_storage(settings)
    there = open_storage(settings.model_copy(update={"data_dir": tmp_path / "there", "copies_bytes": 10}))
    assert here.storage_id == there.storage_id
    session_id, data = redis_keys.new_session_id(), os.urandom(20 * 1024**2 + 1)
    here.create(session_id)
    here.write(session_id, "input/video", data)
    with there.local(session_id, "input/video") as path, there.local(session_id, "input/video") as again:
        assert path == again and path.is_relative_to(tmp_path / "there")
        assert path.read_bytes() == data
    assert not path.exists(), "more than copies_bytes, and nobody uses it"
    with pytest.raises(FileNotFoundError), there.local(session_id, "input/other"):
        pass


def test_copies_of_a_dead_process_are_removed(settings: Settings) -> None:
    left = settings.data_dir / "copies" / "0123456789abcdef"
    left.mkdir(parents=True)
    (left / "video").write_bytes(b"x")
    storage = open_storage(settings)
    assert not left.exists()
    open_storage(settings)
    storage.create(session_id := redis_keys.new_session_id())
    writer = storage.writer(session_id, "input/video")
    writer.write(b"the folder of a living process stays")
    writer.commit()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"storage_url": "s3://nowhere/x"}, "no bucket 'nowhere'"),
        ({"storage_url": "ftp://masks"}, "give it as s3://bucket"),
    ],
)
def test_a_wrong_address_is_refused_at_the_start(settings: Settings, changes: dict[str, str], said: str) -> None:
    with pytest.raises(Unavailable, match=said):
        open_storage(settings.model_copy(update=changes))


def test_wrong_credentials_are_refused_at_the_start(settings: Settings, s3: S3Server) -> None:
    with s3.demand_known_keys(), pytest.raises(Unavailable, match=r"refuses these credentials.*AWS_ACCESS_KEY_ID"):
        open_storage(settings)


@pytest.mark.parametrize("command", [["api"], ["worker", "--engine", "fake"]])
def test_a_process_that_cannot_start_says_why_in_one_line(settings: Settings, command: list[str]) -> None:
    wrong = settings.model_copy(update={"storage_url": "s3://nowhere/x"})
    environment = {**os.environ, **wrong.environment(), "MASKSTREAM_LOG_FORMAT": "json"}
    ended = subprocess.run(
        [sys.executable, "-m", "service.cli", *command], env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("error: there is no bucket 'nowhere'")
    assert "Traceback" not in ended.stderr + ended.stdout


@pytest.fixture
def api(settings: Settings) -> Iterator[ApiServer]:
    with running_api(settings) as server:
        yield server


def worker_host(settings: Settings, folder: Path) -> Scene:
    """A worker's host: the same Redis and bucket, another disk."""
    scene = make_scene(settings.redis_url or "", settings.redis_prefix, folder)
    shared = {"storage_url": settings.storage_url, "s3_endpoint": settings.s3_endpoint}
    return Scene(scene.settings.model_copy(update=shared), scene.storage, scene.services, environment=dict(ACCESS))


def masks_of(api: ApiServer, session: str) -> list[dict[str, object]]:
    lines = api.http.get(f"{session}/masks?format=rle").raise_for_status().text.splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.anyio
async def test_a_session_from_upload_to_export_with_a_worker_killed_in_between(
    api: ApiServer, settings: Settings, s3: S3Server, tmp_path: Path
) -> None:
    first, second = worker_host(settings, tmp_path / "first"), worker_host(settings, tmp_path / "second")
    try:
        clip = first.clip(40, 0)
        whole = api.upload(clip, [reference_png((1, 2))]).json()["links"]["self"]
        first.run_here()
        sent = api.upload(clip, [reference_png((1, 2))]).json()
        broken = sent["links"]["self"]
        victim = first.start_worker(fake_step_s=0.05)
        await second.until(sent["session_id"], lambda record: record.next_seq > 10 and record.snapshot is not None)
        await first.kill(victim)
        second.run_here()
        assert (await second.record(sent["session_id"])).epoch > 1
        assert api.http.get(broken).json()["state"] == "completed"
        assert masks_of(api, broken) == masks_of(api, whole)
        with zipfile.ZipFile(BytesIO(api.http.get(f"{broken}/masks?format=png").content)) as archive:
            assert len(archive.namelist()) == 40
        part = api.http.get(f"{broken}/video", headers={"Range": "bytes=5-14"})
        assert (part.status_code, part.content) == (206, clip[5:15])
        assert api.http.get(f"{broken}/frames/39.jpg").status_code == 200
        assert api.http.get("/readyz").json()["storage"] is True
        for session in (whole, broken):
            assert api.http.delete(session).status_code == 204
    finally:
        for scene in (first, second):
            scene.close()
            await scene.services.redis.aclose()
    prefix = settings.storage_url.removeprefix(f"s3://{BUCKET}/") if settings.storage_url else ""
    assert [key for key in s3.keys(BUCKET) if key.startswith(f"{prefix}/")] == [f"{prefix}/storage_id"]
    for host in ("api", "first", "second"):
        assert not (tmp_path / host / "sessions").exists() or not list((tmp_path / host / "sessions").iterdir())


@pytest.mark.anyio
async def test_the_janitor_removes_what_has_expired(settings: Settings, storage: Storage, tmp_path: Path) -> None:
    scene = worker_host(settings, tmp_path / "worker")
    try:
        with running_api(settings) as api:
            sent = api.upload(scene.clip(3, 0), [reference_png()]).json()
        scene.run_here()
        record = await scene.record(sent["session_id"])
        janitor = Janitor(scene.services.sessions, scene.services.masks, scene.services.live, storage, settings)
        await janitor.clean(time.time())
        assert "session.json" in {file.name for file in storage.list(record.id)}
        await janitor.clean((record.expires_at or 0.0) + 1)
        assert storage.list(record.id) == []
    finally:
        scene.close()
        await scene.services.redis.aclose()


@pytest.mark.anyio
async def test_a_live_session_between_two_hosts(api: ApiServer, settings: Settings, tmp_path: Path) -> None:
    host = worker_host(settings, tmp_path / "worker")
    host.start_worker()

    def talk() -> str:
        with live(api) as client:
            ready = client.open(engine="fake", mask=mask_text((3, 7)), keep_s=60)
            for index in range(12):
                client.frames(index, index)
                assert client.hear("mask")["frame_index"] == index
            client.say(type="end")
            assert client.hear("end")["state"] == "completed"
        return f"/sessions/{ready['session_id']}"

    try:
        session = await anyio.to_thread.run_sync(talk)
        assert [mask["frame_index"] for mask in masks_of(api, session)] == list(range(12))
        assert api.http.get(f"{session}/video").status_code == 404
        assert api.http.get(f"{session}/masks?format=coco").status_code == 200
        assert api.http.delete(session).status_code == 204
    finally:
        host.close()
        await host.services.redis.aclose()
