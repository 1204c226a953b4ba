"""Places for uploads, shared out among keys."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import ExitStack
from pathlib import Path

from service.keys import AccessKeys
from service.redis_client import connect
from service.redis_keys import Keys
from service.settings import Settings
from tests.service.api_server import mask_png, running_api
from tests.service.videos import write_video


def test_no_key_holds_all_places_for_uploads(redis_url: str, tmp_path: Path, keys: Keys) -> None:
    clip = write_video(tmp_path / "clip.mp4", 3)
    values = {"redis_url": redis_url, "redis_prefix": keys.prefix, "data_dir": tmp_path, "port": 0, "min_free_bytes": 0}
    settings = Settings.model_validate({**values, "max_concurrent_uploads": 4})
    mine, other = (asyncio.run(make_key(settings, name)) for name in ("mine", "other"))
    with running_api(settings) as api, ExitStack() as slow:
        for _ in range(4):
            connection = slow.enter_context(socket.create_connection(("127.0.0.1", api.port)))
            connection.sendall(_BEGUN.format(mine).encode())
        deadline = time.monotonic() + 10
        while api.upload(clip, [mask_png()], headers=bearer(mine)).status_code != 429:
            assert time.monotonic() < deadline
        assert api.upload(clip, [mask_png()], headers=bearer(other)).status_code == 202


_BEGUN = (
    "POST /sessions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: 99999\r\n"
    "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def make_key(settings: Settings, name: str) -> str:
    client = connect(settings.redis_url or "")
    key, _ = await AccessKeys(client, Keys(settings.redis_prefix)).create(name)
    await client.aclose()
    return key
