"""A session that Redis has taken keeps its files, whatever goes wrong behind that."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from service.api.app import create_app
from service.redis_keys import Keys
from service.sessions import CreateResult, SessionStore
from service.settings import Settings
from tests.service.api_server import mask_png
from tests.service.videos import write_video

pytestmark = pytest.mark.anyio


class _Deaf(SessionStore):
    """Takes a session and then answers nothing more."""

    async def create(self, *given: Any, **named: Any) -> CreateResult:
        self.get = self.workers = self._gone  # type: ignore[method-assign, assignment]
        return await super().create(*given, **named)

    async def _gone(self, *given: Any) -> Any:
        raise RedisConnectionError("gone")


class _Stopped(SessionStore):
    """The server is told to stop while it makes a session."""

    async def create(self, *given: Any, **named: Any) -> CreateResult:
        made = await super().create(*given, **named)
        _requests[0].cancel()
        await asyncio.sleep(0)
        return made


_requests: list[asyncio.Task[httpx2.Response]] = []


@pytest.mark.parametrize("kind", [_Deaf, _Stopped])
async def test_files_stay_with_their_session(
    redis_url: str, keys: Keys, tmp_path: Path, kind: type[SessionStore]
) -> None:
    settings = Settings(redis_url=redis_url, redis_prefix=keys.prefix, data_dir=tmp_path / "data", min_free_bytes=0)
    app, clip = create_app(settings), write_video(tmp_path / "clip.mp4", 3).read_bytes()
    async with app.router.lifespan_context(app):
        services = app.state.services
        app.state.services = replace(services, store=kind(services.redis, services.keys))
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            files = [("video", ("clip.mp4", clip)), ("mask", ("m.png", mask_png()))]
            sent = asyncio.create_task(client.post("/sessions", files=files, data={"engine": "fake"}))
            _requests[:] = [sent]
            if kind is _Deaf:
                assert (await sent).status_code == 202
            else:
                with pytest.raises(asyncio.CancelledError):
                    await sent
        page = await services.store.page("local")
        (session,) = page.sessions
        stored = {file.name for file in services.storage.list(session.id)}
        assert stored == {"session.json", "input/video", "input/mask-0.png"}
