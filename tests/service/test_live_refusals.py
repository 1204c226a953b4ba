"""What a live connection refuses, and how it says so. No worker: nothing here gets as far as a mask."""

from __future__ import annotations

import io
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from service.redis_keys import Keys
from service.settings import Settings
from tests.service.api_server import ApiServer, running_api, running_worker
from tests.service.live_client import live, mask_text, picture

OPEN = {"engine": "fake", "mask": mask_text()}


@pytest.fixture(scope="module")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    settings = Settings(
        redis_url=redis_url,
        redis_prefix="test-live-refusals:",
        data_dir=tmp_path_factory.mktemp("data"),
        port=0,
        min_free_bytes=0,
        rate_limit_burst=10_000,
        live_input_bytes=100_000,
        max_live_frame_bytes=200_000,
    )
    with running_api(settings) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_left(api: ApiServer) -> Iterator[None]:
    """A refused opening leaves no file and no session."""
    yield
    for session in api.http.get("/sessions").json()["sessions"]:
        assert api.http.delete(f"/sessions/{session['session_id']}").status_code == 204
    assert api.stored_files() == []


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        ("{", 4400, "not valid JSON"),
        ("[]", 4400, "`type` is one of"),
        ('{"type":"frame"}', 4400, "first message"),
        ('{"type":"open","engine":"nothing"}', 4422, "no engine is called"),
        ('{"type":"open","engine":"fake","policy":"some"}', 4422, "open.policy"),
        ('{"type":"open","engine":"fake","window":0}', 4422, "open.window"),
        ('{"type":"open","engine":"fake","keep_s":1e9}', 4422, "keep_s is at most"),
        ('{"type":"open","engine":"fake","mask":"not base64!"}', 4422, "base64"),
        ('{"type":"open","engine":"fake","colour":"red"}', 4422, "unknown"),
        ('{"type":"open","engine":"fake","end_frame":3}', 4422, "no end_frame"),
        ('{"type":"open","engine":"fake","references":[{"object_id":1,"frame_index":4}]}', 4422, "leave frame_index"),
        ('{"type":"open","session_id":"00000000000000000000000000"}', 4404, "no session"),
        ('{"type":"open","session_id":"../etc"}', 4422, "not a session id"),
    ],
)
def test_openings_that_cannot_be_used(api: ApiServer, message: str, code: int, words: str) -> None:
    with live(api) as client:
        client.socket.send(message)
        detail, closed = client.refusal()
    assert closed == code and words in detail


def broken_png() -> bytes:
    return picture(0)[:20] + bytes(40)


def huge_png() -> bytes:
    """A header of 16k x 16k."""
    data = bytearray(picture(0))
    data[16:24] = (16_384).to_bytes(4) + (16_384).to_bytes(4)
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4)
    return bytes(data)


def gif() -> bytes:
    out = io.BytesIO()
    Image.new("L", (80, 48)).save(out, "GIF")
    return out.getvalue()


@pytest.mark.parametrize(
    ("pictures", "code", "words"),
    [
        ([b""], 4422, "JPEG or PNG"),
        ([gif()], 4422, "JPEG or PNG"),
        ([broken_png()], 4422, "header is broken"),
        ([huge_png()], 4422, "pixels"),
        ([picture(0, (8, 8))], 4422, "at least 16 pixels"),
        ([picture(0, (64, 64))], 4422, "mask"),
        ([picture(0), picture(1, (64, 64))], 4422, "first was 48x80"),
    ],
)
def test_pictures_that_cannot_be_used(api: ApiServer, pictures: list[bytes], code: int, words: str) -> None:
    with live(api) as client:
        client.open(**OPEN)
        for data in pictures:
            client.socket.send(data)
        detail, closed = client.refusal()
    assert closed == code and words in detail


def test_more_than_the_window(api: ApiServer) -> None:
    with live(api) as client:
        client.open(**OPEN, window=2)
        client.frames(0, 2)
        detail, closed = client.refusal()
    assert closed == 4422 and "frame 2 was sent while 2 frames were unacknowledged" in detail


def test_a_full_input_stops_the_reading_and_loses_nothing(api: ApiServer) -> None:
    with live(api) as client:
        session_id = client.open(**OPEN)["session_id"]
        client.frames(0, 19)
        client.hear("progress")
        time.sleep(0.5)
    with live(api) as client:
        held = client.open(session_id=session_id)["next_frame_index"]
    assert 1 <= held <= 100_000 // len(picture(0)), "no more than the limit holds"


def test_who_waits_for_us_is_not_called_dead(redis_url: str, tmp_path: Path, keys: Keys) -> None:
    """While nothing is read, the client's pongs stand behind its frames."""
    settings = Settings(
        redis_url=redis_url,
        redis_prefix=keys.prefix,
        data_dir=tmp_path,
        port=0,
        min_free_bytes=0,
        live_input_bytes=20_000,
        engines=("fake",),
    )
    with running_api(settings, ping_s=0.2) as api, live(api) as client:
        client.open(**OPEN)
        sender = threading.Thread(target=client.frames, args=(0, 19))
        sender.start()
        time.sleep(1.5)
        with running_worker(settings):
            assert [mask["seq"] for mask in client.masks(20)] == list(range(20))
        sender.join()


def test_who_is_silent_is_called_dead(redis_url: str, tmp_path: Path, keys: Keys) -> None:
    settings = Settings(redis_url=redis_url, redis_prefix=keys.prefix, data_dir=tmp_path, port=0, min_free_bytes=0)
    with running_api(settings, ping_s=0.2) as api, socket.create_connection(("127.0.0.1", api.port)) as client:
        client.settimeout(10)
        client.sendall(
            b"GET /live HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        received = b""
        while data := client.recv(4096):
            received += data
        assert b"keepalive ping timeout" in received


def test_the_newest_connection_has_the_session(api: ApiServer) -> None:
    with live(api) as first, live(api) as second:
        session_id = first.open(**OPEN)["session_id"]
        first.frames(0, 0)
        first.hear("progress")
        assert second.open(session_id=session_id)["next_frame_index"] == 1
        first.frames(1, 1)
        detail, closed = first.refusal()
        assert closed == 4409 and "taken" in detail
        second.frames(1, 1)
        second.say(type="end")
        second.frames(2, 2)
        detail, closed = second.refusal()
        assert closed == 4422 and "after `end`" in detail


def test_an_end_without_a_frame(api: ApiServer) -> None:
    with live(api) as client:
        client.open(**OPEN)
        client.say(type="end")
        assert client.hear() == {"type": "end", "state": "completed", "frames": 0, "error": None}
