"""The mask stream over real sockets: order, resume, formats, slow readers, drain, refusals."""

from __future__ import annotations

import io
import json
import re
import socket as sockets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from service.masks import decode_rle
from service.metrics import PNG_ENCODED
from service.redis_keys import Keys
from service.schemas import SessionState
from service.settings import Settings
from tests.service.api_server import ApiServer, mask_png, receive_all, running_api
from tests.service.scripted_worker import ScriptedWorker
from tests.service.videos import write_video


@pytest.fixture(scope="module")
def stream_settings(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        redis_url=redis_url,
        redis_prefix="test-api-stream:",
        data_dir=tmp_path_factory.mktemp("data"),
        port=0,
        min_free_bytes=0,
        rate_limit_burst=10_000,
        socket_stall_s=0.7,
        socket_send_buffer_bytes=8192,
        drain_timeout_s=2.0,
    )


@pytest.fixture(scope="module")
def api(stream_settings: Settings) -> Iterator[ApiServer]:
    with running_api(stream_settings) as server:
        yield server


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", 6).read_bytes()


@pytest.fixture
def worker(api: ApiServer, clip: bytes, stream_settings: Settings) -> ScriptedWorker:
    """A worker that has claimed a session made for this test."""
    made = api.upload(clip, [mask_png()])
    assert made.status_code == 202, made.text
    scripted = ScriptedWorker(stream_settings)
    assert scripted.claim() == made.json()["session_id"]
    return scripted


def seqs(messages: list[dict[str, Any]]) -> list[int]:
    return [message["seq"] for message in messages if message["type"] == "mask"]


def next_mask(socket: ClientConnection) -> dict[str, Any]:
    while (message := json.loads(socket.recv(timeout=10)))["type"] != "mask":
        pass
    return dict(message)


def close_of(socket: ClientConnection) -> tuple[int, list[dict[str, Any]]]:
    """(close code, messages until then)."""
    messages = []
    try:
        while True:
            messages.append(json.loads(socket.recv(timeout=15)))
    except ConnectionClosed as closed:
        return (closed.rcvd.code if closed.rcvd else 1006), messages


def test_masks_arrive_while_they_are_made_then_the_end(api: ApiServer, worker: ScriptedWorker) -> None:
    session_id = worker.claim_.session_id
    with api.socket(session_id) as socket:
        first = json.loads(socket.recv(timeout=10))
        assert (first["type"], first["frames_total"]) == ("progress", 6)
        worker.publish(0, 2)
        assert [next_mask(socket)["seq"] for _ in range(3)] == [0, 1, 2]
        worker.publish(3, 5)
        worker.finish()
        code, messages = close_of(socket)
    assert seqs(messages) == [3, 4, 5]
    told = [json.dumps(message) for message in messages if message["type"] == "progress"]
    assert len(told) == len(set(told)), "no progress is told twice"
    assert messages[-1] == {"type": "end", "state": "completed", "frames": 6, "error": None}
    assert code == 1000


@pytest.mark.parametrize("after", [-1, 0, 3, 5, 700])
def test_reconnecting_goes_on_after_what_was_had(api: ApiServer, worker: ScriptedWorker, after: int) -> None:
    worker.publish(0, 5)
    worker.finish()
    with api.socket(worker.claim_.session_id, f"?after={after}") as socket:
        code, messages = close_of(socket)
    assert (code, seqs(messages)) == (1000, list(range(after + 1, 6)))
    assert messages[-1]["type"] == "end"


def test_trimmed_masks_come_from_the_archive_without_a_seam(api: ApiServer, worker: ScriptedWorker) -> None:
    last = 699
    worker.publish(0, last)
    worker.archive(0, 299)
    worker.archive(300, 599)
    session_id = worker.claim_.session_id
    with api.socket(session_id, "?after=9") as socket:
        received = [next_mask(socket)["seq"] for _ in range(last - 9)]
        worker.publish(last + 1, last + 3)
        received += [next_mask(socket)["seq"] for _ in range(3)]
    assert received == list(range(10, last + 4))


def test_png_is_the_mask_and_is_encoded_once_for_all(api: ApiServer, worker: ScriptedWorker) -> None:
    worker.publish(0, 5)
    worker.finish()
    session_id = worker.claim_.session_id
    before = PNG_ENCODED._value.get()
    for _ in range(3):
        with api.socket(session_id, "?format=png") as socket:
            messages = list(socket)
        documents = [json.loads(message) for message in messages if isinstance(message, str)]
        pngs = [message for message in messages if isinstance(message, bytes)]
        assert seqs(documents) == list(range(6)) and len(pngs) == 6
    assert PNG_ENCODED._value.get() - before == 6
    shown = [document for document in documents if document["type"] == "mask"]
    assert "rle" not in shown[0]["objects"][0]
    with api.socket(session_id) as socket:
        masks = [message for message in receive_all(socket) if message["type"] == "mask"]
    for png, mask in zip(pngs, masks, strict=True):
        with Image.open(io.BytesIO(png)) as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.array(image) == 1, decode_rle(mask["objects"][0]["rle"]))


def test_results_as_files(api: ApiServer, worker: ScriptedWorker) -> None:
    session_id = worker.claim_.session_id
    worker.publish(0, 3)
    worker.archive(0, 1)
    unfinished = api.http.get(f"/sessions/{session_id}/masks")
    assert unfinished.status_code == 409 and unfinished.json()["progress"]["done"] == 4
    assert len(api.http.get(f"/sessions/{session_id}/masks?format=rle&partial=true").text.splitlines()) == 4
    assert api.http.get(f"/sessions/{session_id}/masks/4.png").status_code == 404
    worker.publish(4, 5)
    worker.finish()
    lines = api.http.get(f"/sessions/{session_id}/masks?format=rle").text.splitlines()
    assert [json.loads(line)["frame_index"] for line in lines] == list(range(6))
    png = api.http.get(f"/sessions/{session_id}/masks/3.png")
    with Image.open(io.BytesIO(png.content)) as image:
        np.testing.assert_array_equal(np.array(image) == 1, decode_rle(json.loads(lines[3])["objects"][0]["rle"]))
    for format in ("png", "png-binary", "coco", "youtube-vis"):
        answer = api.http.get(f"/sessions/{session_id}/masks?format={format}")
        assert answer.status_code == 200 and len(answer.content) > 100, format
    assert api.http.get(f"/sessions/{session_id}/masks?format=gif").status_code == 422


def test_end_of_a_cancelled_session(api: ApiServer, worker: ScriptedWorker) -> None:
    worker.publish(0, 1)
    worker.finish(SessionState.CANCELLED)
    with api.socket(worker.claim_.session_id) as socket:
        code, messages = close_of(socket)
    assert (code, seqs(messages), messages[-1]["state"]) == (1000, [0, 1], "cancelled")


def test_deleting_ends_the_stream(api: ApiServer, worker: ScriptedWorker) -> None:
    session_id = worker.claim_.session_id
    with api.socket(session_id) as socket:
        worker.publish(0, 0)
        next_mask(socket)
        assert api.http.delete(f"/sessions/{session_id}").status_code == 204
        code, messages = close_of(socket)
    assert code == 4404
    assert messages[-1]["problem"]["detail"] == f"session {session_id} was deleted"


@pytest.mark.parametrize(
    ("session_id", "query", "code"),
    [("0" * 26, "", 4404), ("nonsense", "", 4404), ("0" * 26, "?after=x", 4422), ("0" * 26, "?format=gif", 4422)],
)
def test_refusals_are_said_before_the_close(api: ApiServer, session_id: str, query: str, code: int) -> None:
    with api.socket(session_id, query) as socket:
        closed, messages = close_of(socket)
    assert closed == code
    assert messages[0]["type"] == "error" and messages[0]["problem"]["status"] == code - 4000


def test_an_address_without_a_socket_says_so(api: ApiServer) -> None:
    with connect(f"ws://127.0.0.1:{api.port}/streams") as socket:
        closed, messages = close_of(socket)
    assert closed == 4404 and "/sessions/{session_id}/stream and /live" in messages[0]["problem"]["detail"]


def test_slow_reader_is_closed_and_costs_the_others_nothing(api: ApiServer, worker: ScriptedWorker) -> None:
    session_id = worker.claim_.session_id
    stalled_before = stalled_sockets(api)
    stalled = upgrade(api, f"/sessions/{session_id}/stream")
    last = -1
    with stalled, api.socket(session_id) as fast:
        started = time.monotonic()
        while last < 100 or (open_sockets(api) == 2 and time.monotonic() - started < 20):
            worker.publish(last + 1, last + 100)
            received = [next_mask(fast)["seq"] for _ in range(100)]
            assert received == list(range(last + 1, last + 101))
            last += 100
        assert open_sockets(api) == 1, "the stalled reader was not closed"
    assert stalled_sockets(api) == stalled_before + 1


def test_a_storm_of_dropped_readers_gets_every_mask_once(api: ApiServer, worker: ScriptedWorker) -> None:
    session_id, masks = worker.claim_.session_id, 120
    worker.publish(0, 59)

    def read(reader: int) -> list[int]:
        """All masks, by connections that end without a word after a dozen or so."""
        received: list[int] = []
        while len(received) < masks:
            with api.socket(session_id, f"?after={received[-1] if received else -1}") as socket:
                wanted = min(11 + reader % 7, masks - len(received))
                received += [next_mask(socket)["seq"] for _ in range(wanted)]
                socket.socket.shutdown(sockets.SHUT_RDWR)
        return received

    with ThreadPoolExecutor(16) as pool:
        readers = [pool.submit(read, number) for number in range(16)]
        worker.publish(60, masks - 1)
        assert all(reader.result(timeout=60) == list(range(masks)) for reader in readers)
    deadline = time.monotonic() + 10
    while open_sockets(api) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert open_sockets(api) == 0


def upgrade(api: ApiServer, path: str) -> sockets.socket:
    """A WebSocket whose owner never reads."""
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", api.port))
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{api.port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n\r\n"
    raw.sendall(head.encode())
    return raw


def test_a_reader_ahead_of_the_session_costs_the_others_nothing(
    api: ApiServer, worker: ScriptedWorker, redis_url: str
) -> None:
    session_id = worker.claim_.session_id
    worker.publish(0, 2)
    client = redis.Redis.from_url(redis_url)
    with api.socket(session_id, f"?after={10**9}"), api.socket(session_id) as reader:
        assert [next_mask(reader)["seq"] for _ in range(3)] == [0, 1, 2]
        before = client.info("commandstats")["cmdstat_xread"]["calls"]
        time.sleep(1.0)
        assert client.info("commandstats")["cmdstat_xread"]["calls"] - before < 10
        worker.publish(3, 3)
        assert next_mask(reader)["seq"] == 3
    client.close()


def test_a_mask_that_is_no_longer_kept_is_404(api: ApiServer, worker: ScriptedWorker, redis_url: str) -> None:
    session_id = worker.claim_.session_id
    worker.publish(0, 5)
    worker.archive(0, 5)
    client = redis.Redis.from_url(redis_url)
    client.hset(Keys(api.settings.redis_prefix).session(session_id), "kept_from_seq", 4)
    client.lpop(Keys(api.settings.redis_prefix).archive(session_id))
    client.close()
    gone = api.http.get(f"/sessions/{session_id}/masks/3.png")
    assert gone.status_code == 404 and "no longer kept" in gone.json()["detail"]


def stalled_sockets(api: ApiServer) -> float:
    (line,) = re.findall(r"^maskstream_sockets_stalled_total (.*)$", api.http.get("/metrics").text, re.MULTILINE)
    return float(line)


def open_sockets(api: ApiServer) -> int:
    lines = api.http.get("/metrics").text.splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("maskstream_sockets "))))


def test_drain_tells_readers_to_come_back(redis_url: str, tmp_path: Path, keys: Keys, clip: bytes) -> None:
    settings = Settings(redis_url=redis_url, redis_prefix=keys.prefix, data_dir=tmp_path, port=0, min_free_bytes=0)
    with running_api(settings) as api:
        session_id = api.upload(clip, [mask_png()]).json()["session_id"]
        socket = api.socket(session_id).__enter__()
        socket.recv(timeout=10)
    code, _ = close_of(socket)
    assert code == 1012
