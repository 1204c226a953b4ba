"""Numbers and texts that Python reads gladly and that are none here: refused, with the field's name and no 5xx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from service.redis_keys import Keys
from service.settings import Settings
from tests.service.api_server import ApiServer, mask_png, running_api
from tests.service.videos import write_video


@pytest.fixture(scope="module")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    prefix, folder = "test-api-numbers:", tmp_path_factory.mktemp("data")
    settings = Settings(redis_url=redis_url, redis_prefix=prefix, data_dir=folder, port=0, min_free_bytes=0)
    with running_api(settings) as server:
        yield server


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", 3).read_bytes()


@pytest.mark.parametrize(
    "fields",
    [
        {"start_frame": "0" * 12 + "9" * 5000},
        {"end_frame": "000000000001" + "9" * 30},
        {"max_side": "000000000100" + "0" * 10},
        {"max_objects": "000001" + "9" * 5000},
        {"start_frame": "\u0663"},
        {"memory": '{"budget_mib": Infinity}'},
        {"memory": '{"budget_mib": 1e308}'},
        {"memory": '{"merge_threshold": NaN}'},
        {"memory": '{"budget_tokens": 1' + "0" * 400 + "}"},
        {"memory": '{"memorize_every": 1' + "0" * 40 + "}"},
    ],
    ids=lambda fields: next(f"{name} {value[:40]}" for name, value in fields.items()),
)
def test_numbers_out_of_this_world(api: ApiServer, clip: bytes, fields: dict[str, str]) -> None:
    masks = [] if "max_objects" in fields else [mask_png()]
    refused = api.upload(clip, masks, **fields)
    assert refused.status_code == 422, refused.text[:200]
    assert next(iter(fields)) in refused.json()["detail"]
    assert api.stored_files() == []


def test_leading_zeros_are_no_offence(api: ApiServer, clip: bytes) -> None:
    made = api.upload(clip, [mask_png()], max_side="000000000000000000000064")
    assert made.status_code == 202 and made.json()["max_side"] == 64
    api.http.delete(made.json()["links"]["self"])


def test_a_boundary_that_no_parser_takes(api: ApiServer) -> None:
    refused = api.http.post(
        "/sessions", content=b"x", headers={"Content-Type": "multipart/form-data; boundary=" + "a" * 300}
    )
    assert refused.status_code == 400 and "boundary" in refused.json()["detail"]


def test_half_a_surrogate_pair_over_a_socket(api: ApiServer, keys: Keys, tmp_path: Path) -> None:
    with connect(f"ws://127.0.0.1:{api.port}/live") as socket:
        socket.send('{"type": "open", "text": "\\ud800"}')
        assert json.loads(socket.recv())["problem"]["status"] == 422
