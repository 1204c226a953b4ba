"""Connections that cost nothing to hold open: readers that take nothing, requests that never end their headers."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from service.redis_keys import Keys
from service.settings import Settings
from tests.service.api_server import ApiServer, mask_png, running_api
from tests.service.scripted_worker import ScriptedWorker
from tests.service.videos import write_video

_UPGRADE = (
    "GET /sessions/{}/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture
def api(redis_url: str, keys: Keys, tmp_path: Path) -> Iterator[ApiServer]:
    settings = Settings(
        redis_url=redis_url,
        redis_prefix=keys.prefix,
        data_dir=tmp_path / "data",
        port=0,
        min_free_bytes=0,
        socket_stall_s=0.1,
        socket_send_buffer_bytes=8192,
        upload_idle_timeout_s=0.5,
    )
    with running_api(settings) as server:
        yield server


def connections(port: int) -> int:
    """Established ones of a server on this machine, as the kernel counts them."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for line in lines if int(line[1].split(":")[1], 16) == port and line[3] == "01")


def until_none(port: int) -> None:
    deadline = time.monotonic() + 10
    while connections(port):
        assert time.monotonic() < deadline, "a connection is held"
        time.sleep(0.05)


def test_a_reader_that_takes_nothing_is_rid_of(api: ApiServer, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", 3)
    session_id = api.upload(clip, [mask_png()]).json()["session_id"]
    api.http.close()
    until_none(api.port)
    worker = ScriptedWorker(api.settings)
    worker.claim()
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", api.port))
        reader.sendall(_UPGRADE.format(session_id).encode())
        assert reader.recv(12) == b"HTTP/1.1 101"
        for first in range(0, 1000, 100):
            worker.publish(first, first + 99)
        assert connections(api.port) == 1
        until_none(api.port)


_HALF, _WHOLE = b"GET /healthz HTTP/1.1\r\nHost: lo", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(("before", "sent"), [(b"", b""), (b"", _HALF), (_WHOLE, _HALF)])
def test_a_request_that_does_not_come_is_not_waited_for(api: ApiServer, before: bytes, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", api.port)) as client:
        client.settimeout(10)
        if before:
            client.sendall(before)
            assert b" 200 " in client.recv(4096)
        started = time.monotonic()
        client.sendall(sent)
        while client.recv(4096):
            pass
    assert time.monotonic() - started >= 0.3


def test_dribbling_does_not_help(api: ApiServer) -> None:
    with socket.create_connection(("127.0.0.1", api.port)) as client, pytest.raises(OSError):
        for letter in b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 100:
            client.sendall(bytes([letter]))
            time.sleep(0.1)


def test_headers_without_an_end_are_refused(api: ApiServer) -> None:
    with socket.create_connection(("127.0.0.1", api.port)) as client:
        client.settimeout(10)
        client.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        with pytest.raises(OSError):  # closed while we are still sending
            for _ in range(400):
                client.sendall(b"x" * 100_000)


def test_made_up_methods_make_no_metrics(api: ApiServer) -> None:
    for method in ("BREW", "WHEN"):
        with socket.create_connection(("127.0.0.1", api.port)) as client:
            client.sendall(f"{method} /sessions HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert b" 405 " in client.recv(4096)
    text = api.http.get("/metrics").text
    assert 'method="other"' in text and "BREW" not in text and "WHEN" not in text


def test_a_live_client_that_never_opens_holds_no_place(api: ApiServer) -> None:
    with connect(f"ws://127.0.0.1:{api.port}/live") as client, pytest.raises(ConnectionClosed):
        while True:
            message = json.loads(client.recv(timeout=10))
            assert message["problem"]["status"] == 408
