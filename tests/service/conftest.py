"""A real Redis on a Unix socket for the whole run, and an own key prefix and data folder for each test."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.local_storage import LocalStorage
from service.redis_client import connect
from service.redis_keys import Keys
from service.sessions import SessionStore
from tests.service.scene import Scene, make_scene


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def keys() -> Keys:
    return Keys(f"test-{secrets.token_hex(4)}:")


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "data")


@pytest.fixture
def store(redis: Redis, keys: Keys) -> SessionStore:
    return SessionStore(redis, keys)


@pytest.fixture
async def scene(redis_url: str, keys: Keys, tmp_path: Path) -> AsyncIterator[Scene]:
    scene = make_scene(redis_url, keys.prefix, tmp_path / "data")
    yield scene
    scene.close()
    await scene.services.redis.aclose()
