"""Videos, frames and thumbnails over real HTTP."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from service.settings import Settings
from tests.service.api_server import ApiServer, mask_png, running_api
from tests.service.videos import write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", 6).read_bytes()


@pytest.fixture(scope="module")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    settings = Settings(
        redis_url=redis_url,
        redis_prefix="test-api-pictures:",
        data_dir=tmp_path_factory.mktemp("data"),
        port=0,
        min_free_bytes=0,
    )
    with running_api(settings) as server:
        yield server


@pytest.fixture(scope="module")
def session(api: ApiServer, clip: bytes) -> str:
    return str(api.upload(clip, [mask_png()]).json()["links"]["self"])


def picture(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG"
        return np.asarray(image)


def test_the_upload_comes_back_whole_and_in_ranges(api: ApiServer, session: str, clip: bytes) -> None:
    whole = api.http.get(f"{session}/video")
    assert whole.content == clip
    assert whole.headers["content-type"] == "video/mp4"
    assert "sandbox" in whole.headers["content-security-policy"]
    part = api.http.get(f"{session}/video", headers={"Range": "bytes=100-199"})
    assert part.status_code == 206
    assert part.content == clip[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(clip)}"


@pytest.mark.parametrize(
    ("asked", "status", "span"),
    [
        ({"Range": "bytes=-10"}, 206, (-10, None)),
        ({"Range": "bytes=7-"}, 206, (7, None)),
        ({"Range": "bytes=7-999999999"}, 206, (7, None)),
        ({"Range": "bytes=9-3"}, 200, (0, None)),
        ({"Range": "bytes=0-1,5-6"}, 200, (0, None)),
        ({"Range": "bytes=0-9", "If-Range": "ETAG"}, 206, (0, 10)),
        ({"Range": "bytes=0-9", "If-Range": '"another"'}, 200, (0, None)),
        ({"Range": "bytes=0-9", "If-Range": "Sat, 21 Nov 2026 17:00:00 GMT"}, 200, (0, None)),
        ({"Range": "bytes=999999999-"}, 416, (0, 0)),
        ({"Range": "bytes=-0"}, 416, (0, 0)),
        ({"If-None-Match": "W/ETAG"}, 304, (0, 0)),
    ],
)
def test_ranges_as_the_standard_has_them(
    api: ApiServer, session: str, clip: bytes, asked: dict[str, str], status: int, span: tuple[int, int | None]
) -> None:
    etag = api.http.get(f"{session}/video").headers["etag"]
    answer = api.http.get(f"{session}/video", headers={k: v.replace("ETAG", etag) for k, v in asked.items()})
    assert (answer.status_code, answer.content) == (status, clip[span[0] : span[1]])
    assert answer.headers["etag"] == etag
    head = api.http.head(f"{session}/video", headers={k: v.replace("ETAG", etag) for k, v in asked.items()})
    assert (head.status_code, head.content) == (status, b"")
    if status in (200, 206):
        assert head.headers["content-length"] == answer.headers["content-length"] == str(len(answer.content))
    if status == 416:
        assert answer.headers["content-range"] == f"bytes */{len(clip)}"


def test_frames_are_those_of_the_video(api: ApiServer, session: str) -> None:
    first = picture(api.http.get(f"{session}/frames/0.jpg").content)
    last = picture(api.http.get(f"{session}/frames/5.jpg").content)
    assert first.shape == last.shape == (48, 80, 3)
    assert not np.array_equal(first, last)
    assert picture(api.http.get(f"{session}/frames/0.jpg?max_side=40").content).shape == (24, 40, 3)
    assert picture(api.http.get(f"{session}/thumbnail.jpg").content).shape == (48, 80, 3)


@pytest.mark.parametrize("index", [6, -1, 10**9])
def test_a_frame_that_is_not_there_is_404(api: ApiServer, session: str, index: int) -> None:
    answer = api.http.get(f"{session}/frames/{index}.jpg")
    assert answer.status_code == 404
    assert "6 frames" in answer.json()["detail"]


def test_an_overlay_before_the_end_is_409(api: ApiServer, session: str) -> None:
    answer = api.http.get(f"{session}/masks?format=overlay")
    assert answer.status_code == 409
