"""Access keys against a real Redis."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from service.errors import InvalidInput
from service.keys import AccessKeys
from service.redis_client import text
from service.redis_keys import Keys

pytestmark = pytest.mark.anyio
GIVEN = "given-by-the-operator-0123456789abcdef"


async def test_a_made_key_is_known_until_it_is_revoked(redis: Redis, keys: Keys) -> None:
    access = AccessKeys(redis, keys)
    assert not await access.exist()
    key, record = await access.create("laptop")
    assert len(key) == 43
    assert await access.owner_of(key) == record.key_id
    assert await access.owner_of(key[:-1] + ("A" if key[-1] != "A" else "B")) is None
    await access.revoke(record.key_id)
    assert await access.owner_of(key) is None
    assert await access.exist(), "revoking the last key must not open the service"


async def test_the_key_itself_is_not_stored(redis: Redis, keys: Keys) -> None:
    key, _ = await AccessKeys(redis, keys).create("laptop")
    stored = await redis.hgetall(keys.api_keys)
    assert stored
    assert not any(key in text(value) for value in stored.values())


async def test_an_adopted_key_survives_restarts_and_stays_revoked(redis: Redis, keys: Keys) -> None:
    access = AccessKeys(redis, keys)
    record = await access.adopt(GIVEN, "env")
    await access.adopt(GIVEN, "env")
    assert await access.owner_of(GIVEN) == record.key_id
    assert len(await access.list()) == 1
    await access.revoke(record.key_id)
    await access.adopt(GIVEN, "env")
    assert await access.owner_of(GIVEN) is None


async def test_a_key_that_could_be_guessed_is_refused(redis: Redis, keys: Keys) -> None:
    with pytest.raises(InvalidInput, match="at least 32"):
        await AccessKeys(redis, keys).adopt("secret", "env")
