"""One session that cannot be cleaned keeps the janitor from no other, and never ends it."""

from __future__ import annotations

import time

import pytest

from service.api.janitor import Janitor
from service.live_input import LiveInput
from service.local_storage import LocalStorage
from service.schemas import SessionRecord, SessionState
from service.sessions import SessionStore
from tests.service.scene import Scene

pytestmark = pytest.mark.anyio


class _Late(SessionStore):
    """Whatever is read has changed by the time that it is used: another process was quicker."""

    async def get(self, session_id: str) -> SessionRecord | None:
        record = await super().get(session_id)
        if record is not None and record.state is SessionState.IDLE:
            await self.delete(session_id)
        return record


def _janitor(scene: Scene, store: SessionStore | None = None) -> Janitor:
    services = scene.services
    return Janitor(store or services.sessions, services.masks, services.live, scene.storage, scene.settings)


async def _expired(scene: Scene) -> str:
    session_id = await scene.submit(3)
    await scene.services.sessions.cancel(session_id, expires_at=time.time() - 1)
    return session_id


async def test_a_record_that_cannot_be_read(scene: Scene) -> None:
    unreadable, expired = await scene.submit(3), await _expired(scene)
    services = scene.services
    await services.redis.hset(services.keys.session(unreadable), "state", "a state of a later version")
    await _janitor(scene).clean(time.time())
    assert set(scene.storage.sessions()) == {unreadable}
    assert await services.sessions.tombstone(expired) == "expired"


async def test_a_live_session_that_is_deleted_as_it_is_looked_at(scene: Scene) -> None:
    services = scene.services
    idle, expired = await scene.submit(3), await _expired(scene)
    await services.redis.hset(services.keys.session(idle), "state", "idle")
    late = _Late(services.redis, services.keys)
    await _janitor(scene, late).clean(time.time())
    assert await services.sessions.tombstone(expired) == "expired"


async def test_a_folder_that_cannot_be_deleted(scene: Scene) -> None:
    stuck, expired = await _expired(scene), await _expired(scene)
    folder = scene.storage.root / "sessions" / stuck

    class _Stuck(LocalStorage):
        def delete(self, session_id: str) -> None:
            if session_id == stuck:
                raise PermissionError(13, "Permission denied", str(folder))
            super().delete(session_id)

    services = scene.services
    storage = _Stuck(scene.storage.root)
    janitor = Janitor(
        services.sessions, services.masks, LiveInput(services.redis, services.keys), storage, scene.settings
    )
    for _ in range(2):
        await janitor.clean(time.time())
    assert set(scene.storage.sessions()) == {stuck}
    assert await services.sessions.deleting() == [stuck], "it is tried again"
    assert await services.sessions.tombstone(expired) == "expired"
