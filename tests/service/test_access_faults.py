"""Keys and pages: a flushed Redis, pages of other origins, clocks that go backwards."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr
from redis.asyncio import Redis
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from service.embedded import EmbeddedRedis
from service.redis_client import Scripts
from service.redis_keys import Keys
from service.settings import Settings
from tests.service.api_server import ApiServer, mask_png, running_api
from tests.service.videos import write_video

KEY = "k" * 43
PAGE = "https://page.example"


@contextmanager
def guarded(url: str, prefix: str, folder: Path, **changes: object) -> Iterator[ApiServer]:
    values = {"redis_url": url, "redis_prefix": prefix, "data_dir": folder, "port": 0, "min_free_bytes": 0}
    with running_api(Settings.model_validate({**values, "api_key": SecretStr(KEY), **changes})) as api:
        yield api


def test_the_settings_key_opens_after_a_flush_of_redis(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server, guarded(server.url, "a:", tmp_path / "data") as api:
        mine, other = {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"Bearer {'o' * 43}"}
        assert api.http.get("/sessions", headers=mine).status_code == 200
        redis.Redis.from_url(server.url).flushall()
        assert api.http.get("/sessions", headers=other).status_code == 401
        assert api.http.get("/sessions").status_code == 401, "what was closed stays closed"
        assert api.http.get("/sessions", headers=mine).status_code == 200


def test_a_flush_of_redis_opens_nothing(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server, guarded(server.url, "a:", tmp_path / "data", api_key=None) as api:
        client = redis.Redis.from_url(server.url)
        assert api.http.get("/sessions").status_code == 200
        client.hset("a:api_keys", "someone", "made by `maskstream keys create`")
        assert api.http.get("/sessions").status_code == 401
        client.flushall()
        assert api.http.get("/sessions").status_code == 401


def test_pages_of_a_named_origin_may_call(redis_url: str, keys: Keys, tmp_path: Path) -> None:
    with guarded(redis_url, keys.prefix, tmp_path, cors_origins=(PAGE,)) as api:
        asks = {
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        asked = api.http.options("/sessions", headers=asks)
        assert asked.status_code == 200 and asked.headers["access-control-allow-origin"] == PAGE
        assert "authorization" in asked.headers["access-control-allow-headers"].lower()
        refused = api.http.get("/sessions", headers={"Origin": PAGE})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == PAGE, "or the page could not read why"
        assert api.http.get("/sessions", headers={"Origin": PAGE, "Authorization": f"Bearer {KEY}"}).status_code == 200
        stranger = api.http.options("/sessions", headers={**asks, "Origin": "https://other.example"})
        assert "access-control-allow-origin" not in stranger.headers
    with guarded(redis_url, keys.prefix, tmp_path) as api:
        closed = api.http.options("/sessions", headers=asks)
        assert closed.status_code == 401 and "access-control-allow-origin" not in closed.headers


def test_a_revoked_key_closes_its_sockets(redis_url: str, keys: Keys, tmp_path: Path) -> None:
    client = redis.Redis.from_url(redis_url)
    with guarded(redis_url, keys.prefix, tmp_path, socket_stall_s=0.2) as api:
        headers = {"Authorization": f"Bearer {KEY}"}
        made = api.upload(write_video(tmp_path / "clip.mp4", 3), [mask_png()], headers=headers).json()["session_id"]
        addresses = (f"/sessions/{made}/stream", "/live")
        sockets = [connect(f"ws://127.0.0.1:{api.port}{each}", additional_headers=headers) for each in addresses]
        time.sleep(0.5)
        ((key_id, record),) = client.hgetall(keys.api_keys).items()
        client.hset(keys.api_keys, key_id, json.dumps({**json.loads(record), "revoked_at": time.time()}))
        for socket in sockets:
            with socket, pytest.raises(ConnectionClosed) as closed:
                while True:
                    socket.recv(timeout=10)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 4401
    client.close()


def test_metrics_are_there_when_redis_is_not(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        with guarded(server.url, "a:", tmp_path / "data", metrics_public=True) as api:
            server.stop()
            answer = api.http.get("/metrics")
            assert answer.status_code == 200
            assert "maskstream_workers NaN" in answer.text and "maskstream_http_request_seconds_count" in answer.text


@pytest.mark.anyio
async def test_a_clock_that_goes_back_locks_nobody_out(redis: Redis, keys: Keys) -> None:
    scripts, bucket = Scripts(redis, keys), keys.rate("someone")
    await redis.hset(bucket, mapping={"tokens": "5", "at": str(time.time() + 3600)})
    assert float(await scripts.call("rate", [10, 5], keys=[bucket])) == 0
    assert await redis.hget(bucket, "tokens") == b"4"
