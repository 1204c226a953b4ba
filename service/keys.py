"""Access keys: made once, shown once, kept as SHA-256 in Redis, compared in constant time.

Knows nothing of requests. A key's id (the start of its hash) is the owner of the sessions that it makes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from dataclasses import asdict, dataclass

from redis.asyncio import Redis

from service.errors import InvalidInput, NotFound
from service.redis_client import text, text_map
from service.redis_keys import Keys

_ID_LENGTH = 12
_SHORTEST_ADOPTED = 32


@dataclass(frozen=True)
class AccessKey:
    """What is known of a key; the key itself is not."""

    key_id: str
    sha256: str
    name: str
    created_at: float
    revoked_at: float | None = None


def _digest(key: str) -> str:
    # A key is 256 random bits: a plain hash is safe, and there is nothing to guess that a slow one would protect.
    return hashlib.sha256(key.encode()).hexdigest()


def require_strength(key: str) -> None:
    """Raises InvalidInput for a MASKSTREAM_API_KEY that could be guessed."""
    if len(key) < _SHORTEST_ADOPTED:
        raise InvalidInput(
            f"MASKSTREAM_API_KEY has {len(key)} characters; take at least {_SHORTEST_ADOPTED} random ones "
            "(openssl rand -base64 32)"
        )


class AccessKeys:
    """All keys of one Redis."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._hash = keys.api_keys
        self._adopted: AccessKey | None = None
        self._seen_any = False

    async def create(self, name: str) -> tuple[str, AccessKey]:
        """A new key (43 base64url characters) and its record; the key cannot be had again."""
        key = secrets.token_urlsafe(32)
        digest = _digest(key)
        record = AccessKey(digest[:_ID_LENGTH], digest, name, time.time())
        await self._redis.hset(self._hash, record.key_id, json.dumps(asdict(record)))
        return key, record

    async def adopt(self, key: str, name: str) -> AccessKey:
        """Take a key that somebody else made, unless it is known already; a revoked one stays revoked.

        Raises InvalidInput for one that could be guessed.
        """
        require_strength(key)
        digest = _digest(key)
        record = AccessKey(digest[:_ID_LENGTH], digest, name, time.time())
        self._adopted = record
        await self._redis.hsetnx(self._hash, record.key_id, json.dumps(asdict(record)))
        return record

    async def list(self) -> list[AccessKey]:
        """All keys, revoked ones included, oldest first."""
        records = [AccessKey(**json.loads(value)) for value in text_map(await self._redis.hgetall(self._hash)).values()]
        return sorted(records, key=lambda record: record.created_at)

    async def revoke(self, key_id: str) -> AccessKey:
        """Refuse a key from now on; its sessions stay until they expire. Raises NotFound."""
        stored = await self._redis.hget(self._hash, key_id)
        if stored is None:
            raise NotFound(f"there is no key {key_id!r}; `maskstream keys list` shows all")
        record = AccessKey(**{**json.loads(text(stored)), "revoked_at": time.time()})
        await self._redis.hset(self._hash, key_id, json.dumps(asdict(record)))
        return record

    async def exist(self) -> bool:
        """Whether any key was ever made; a revoked one counts, so that revoking the last opens nothing.

        Nor does a flush of Redis: this process remembers that there was one.
        """
        self._seen_any = self._seen_any or bool(await self._redis.hlen(self._hash))
        return self._seen_any

    async def owner_of(self, key: str) -> str | None:
        """The key's id, or None for one that is unknown or revoked."""
        digest = _digest(key)
        stored = await self._redis.hget(self._hash, digest[:_ID_LENGTH])
        if stored is None and self._adopted is not None and hmac.compare_digest(self._adopted.sha256, digest):
            return (await self.adopt(key, self._adopted.name)).key_id  # Redis has lost it
        record = AccessKey(**json.loads(text(stored))) if stored is not None else None
        known = record.sha256 if record is not None else "0" * 64
        same = hmac.compare_digest(known, digest)
        return record.key_id if same and record is not None and record.revoked_at is None else None
