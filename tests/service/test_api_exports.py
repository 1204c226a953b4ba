"""Results as files over real HTTP: made once, kept for a while, resumable."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from service import redis_keys
from service.api.export_files import ExportFiles, ExportKey, etag_of
from service.api.janitor import Janitor
from service.local_storage import LocalStorage
from tests.service.api_server import ApiServer, running_api
from tests.service.scene import Scene, make_frames, reference_png

FORMATS = {
    "png": b"PK",
    "png-binary": b"PK",
    "rle": b'{"type":"mask"',
    "coco": b'{"info"',
    "youtube-vis": b'{"info"',
    "label-studio": b'[{"data"',
    "cvat": b"<?xml",
    "overlay": b"\0\0\0",
    "matte": b"\0\0\0",
}


@pytest.fixture
def api(scene: Scene) -> Iterator[ApiServer]:
    with running_api(scene.settings.model_copy(update={"port": 0, "min_free_bytes": 0})) as server:
        yield server


@pytest.fixture
def session(api: ApiServer, scene: Scene) -> str:
    """A completed session of two objects."""
    link = api.upload(scene.clip(6, 0), [reference_png((1, 2))]).json()["links"]["self"]
    scene.run_here()
    return str(link)


def exports(scene: Scene, session: str) -> list[str]:
    return [file.name for file in scene.storage.list(session.rsplit("/", 1)[1]) if file.name.startswith("exports/")]


@pytest.mark.anyio
async def test_every_format_is_made_once_and_comes_in_parts(api: ApiServer, scene: Scene, session: str) -> None:
    for format, beginning in FORMATS.items():
        url = f"{session}/masks?format={format}"
        whole = api.http.get(url)
        assert whole.status_code == 200 and whole.content.startswith(beginning), format
        etag, size = whole.headers["etag"], len(whole.content)
        again = api.http.get(url)
        assert (again.content, again.headers["etag"]) == (whole.content, etag)
        assert again.headers["content-length"] == str(size)
        rest = api.http.get(url, headers={"Range": f"bytes={size // 2}-", "If-Range": etag})
        assert (rest.status_code, rest.content) == (206, whole.content[size // 2 :])
        assert rest.headers["content-range"] == f"bytes {size // 2}-{size - 1}/{size}"
        assert api.http.get(url, headers={"Range": f"bytes={size}-"}).status_code == 416
        assert api.http.get(url, headers={"If-None-Match": etag}).status_code == 304
        head = api.http.head(url)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))
    assert len(exports(scene, session)) == len(FORMATS)


@pytest.mark.anyio
async def test_pycocotools_reads_the_same_masks_pixel_for_pixel(api: ApiServer, session: str, tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    path.write_bytes(api.http.get(f"{session}/masks?format=coco").content)
    with contextlib.redirect_stdout(io.StringIO()):  # it talks while it loads
        loaded = COCO(str(path))
    seen = set()
    for index in range(6):
        with Image.open(io.BytesIO(api.http.get(f"{session}/masks/{index}.png").content)) as image:
            expected = np.asarray(image)
        found = np.zeros_like(expected)
        for annotation in loaded.loadAnns(loaded.getAnnIds(imgIds=[index + 1])):
            found[loaded.annToMask(annotation).astype(bool)] = annotation["category_id"]
        assert np.array_equal(found, expected)
        seen |= set(np.unique(found))
    assert seen == {0, 1, 2}


@pytest.mark.anyio
async def test_a_range_may_be_the_first_thing_asked_for(api: ApiServer, scene: Scene, session: str) -> None:
    unmade = api.http.head(f"{session}/masks?format=cvat")
    assert unmade.status_code == 200 and "content-length" not in unmade.headers and exports(scene, session) == []
    part = api.http.get(f"{session}/masks?format=cvat", headers={"Range": "bytes=0-4"})
    assert (part.status_code, part.content) == (206, b"<?xml")
    changed = api.http.get(f"{session}/masks?format=cvat", headers={"Range": "bytes=0-4", "If-Range": '"other"'})
    assert changed.status_code == 200 and changed.headers["etag"] == part.headers["etag"]


@pytest.mark.anyio
async def test_label_studio_tasks_point_to_frames_that_are_there(api: ApiServer, session: str) -> None:
    tasks = api.http.get(f"{session}/masks?format=label-studio").json()
    picture = api.http.get(tasks[5]["data"]["image"])
    assert picture.status_code == 200 and picture.headers["content-type"] == "image/jpeg"


@pytest.mark.anyio
async def test_partial_results_are_not_kept(api: ApiServer, scene: Scene) -> None:
    link = api.upload(scene.clip(6, 0), [reference_png()]).json()["links"]["self"]
    answer = api.http.get(f"{link}/masks?format=coco&partial=true")
    assert json.loads(answer.content)["annotations"] == []
    assert "etag" not in answer.headers and exports(scene, link) == []


@pytest.mark.anyio
async def test_image_sequences_keep_their_names(api: ApiServer, scene: Scene) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, frame in enumerate(make_frames(3)):
            data = io.BytesIO()
            Image.fromarray(frame).save(data, "PNG")
            archive.writestr(f"shot/img_{number + 9}.png", data.getvalue())
    link = api.upload(packed.getvalue(), [reference_png()]).json()["links"]["self"]
    scene.run_here()
    with zipfile.ZipFile(io.BytesIO(api.http.get(f"{link}/masks?format=png").content)) as made:
        assert [name.rsplit("/", 1)[1] for name in made.namelist()] == ["img_9.png", "img_10.png", "img_11.png"]


@pytest.mark.anyio
async def test_the_janitor_removes_old_exports(api: ApiServer, scene: Scene, session: str) -> None:
    api.http.get(f"{session}/masks?format=rle")
    janitor = Janitor(scene.services.sessions, scene.services.masks, scene.services.live, scene.storage, scene.settings)
    await janitor.clean(time.time())
    assert len(exports(scene, session)) == 1
    await janitor.clean(time.time() + scene.settings.orphan_age_s + 1)
    assert exports(scene, session) == []


class Source:
    """Chunks that come when they are let."""

    def __init__(self, *chunks: bytes, failure: Exception | None = None) -> None:
        self.made = 0
        self.go = threading.Event()
        self._chunks = chunks
        self._failure = failure

    def __call__(self) -> Iterator[bytes]:
        self.made += 1
        yield self._chunks[0]
        self.go.wait(20)
        yield from self._chunks[1:]
        if self._failure is not None:
            raise self._failure


BIG = bytes(300_000)


@pytest.fixture
def key(storage: LocalStorage) -> ExportKey:
    session_id = redis_keys.new_session_id()
    storage.create(session_id)
    return ExportKey(session_id, "rle", 6, "jsonl")


@pytest.mark.anyio
async def test_readers_share_a_build_which_outlives_them(storage: LocalStorage, key: ExportKey) -> None:
    files, source = ExportFiles(storage), Source(BIG, b"end")
    build = files.build(key, source)
    early = build.follow()
    received = b""
    while len(received) < len(BIG):
        received += await anext(early)
    assert received == BIG, "what is there is sent before the rest is made"
    assert await files.find(key) is None
    late = files.build(key, Source(b"never asked"))
    assert late is build
    source.go.set()
    await early.aclose()  # type: ignore[attr-defined]
    assert b"".join([chunk async for chunk in late.follow()]) == BIG + b"end"
    file = await build.finished()
    assert file == await files.find(key) and etag_of(file.name) == etag_of(build.name)
    assert storage.read(key.session_id, file.name) == BIG + b"end"
    assert source.made == 1


@pytest.mark.anyio
async def test_a_build_that_fails_leaves_nothing_and_may_be_tried_again(storage: LocalStorage, key: ExportKey) -> None:
    files, source = ExportFiles(storage), Source(BIG, failure=OSError("a mask cannot be read"))
    source.go.set()
    build = files.build(key, source)
    with pytest.raises(OSError, match="cannot be read"):
        _ = [chunk async for chunk in build.follow()]
    assert storage.list(key.session_id) == []
    again = Source(b"whole")
    again.go.set()
    file = await files.build(key, again).finished()
    assert storage.read(key.session_id, file.name) == b"whole"


@pytest.mark.anyio
async def test_a_new_version_replaces_the_old_file(storage: LocalStorage, key: ExportKey) -> None:
    files = ExportFiles(storage)
    for version in (6, 9):
        source = Source(b"masks")
        source.go.set()
        await files.build(ExportKey(key.session_id, "rle", version, "jsonl"), source).finished()
    (left,) = storage.list(key.session_id)
    assert left.name.startswith("exports/rle-9-")


@pytest.mark.anyio
async def test_the_end_of_the_server_ends_builds(storage: LocalStorage, key: ExportKey) -> None:
    files, source = ExportFiles(storage), Source(BIG, BIG)
    build = files.build(key, source)
    await anext(build.follow())
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(files.close)
            await anyio.sleep(0.05)
            source.go.set()
    assert await files.find(key) is None


@pytest.mark.anyio
async def test_probabilities_are_kept_where_they_were_asked_for(api: ApiServer, scene: Scene, session: str) -> None:
    refused = api.http.get(f"{session}/masks?format=probability")
    assert refused.status_code == 409 and "probability=true" in refused.json()["detail"]
    link = api.upload(scene.clip(5, 0), [reference_png((1, 2))], probability="true").json()["links"]["self"]
    scene.run_here()
    with zipfile.ZipFile(io.BytesIO(api.http.get(f"{link}/masks?format=probability").content)) as archive:
        assert archive.namelist() == ["001.mp4", "002.mp4"]
    lines = [json.loads(line) for line in api.http.get(f"{link}/masks?format=rle").text.splitlines()]
    carried = [["probability" in item for item in line["objects"]] for line in lines]
    assert carried == [[False, False], *[[True, True]] * 4], "the first frame is the client's own"
    wrong = api.upload(scene.clip(5, 0), [reference_png()], probability="maybe")
    assert wrong.status_code == 422 and "true or false" in wrong.json()["detail"]
