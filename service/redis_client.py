"""One way to connect to Redis, and to run the project's Lua scripts on it. Knows no session and no queue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from service.errors import Unavailable
from service.redis_keys import Keys

_SCHEMES = ("redis://", "rediss://", "unix://")
BLOCK_MS = 1_000
"""Longest blocking read; well under the socket time-out, which redis-py would otherwise raise at."""
SOCKET_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 64
"""Of one process. A storm of clients waits its turn here; a thousand connections at once the server would refuse."""

_TURN_S = 60.0
"""Longest wait for one of them. It is our own crowd that waits, so a busy machine must not look like a lost Redis."""

_SCRIPTS = (
    "create",
    "claim",
    "publish",
    "commit_archive",
    "commit_snapshot",
    "commit_plan",
    "release",
    "finish",
    "cancel",
    "delete",
    "add_request",
    "adopt",
    "archive_rest",
    "sweep",
    "rate",
    "live_connect",
    "live_push",
    "live_ack",
    "live_end",
    "park",
    "trim_archive",
)


def connect(url: str) -> Redis:
    """A client with time-outs below which every blocking read stays, and few quick retries of a lost connection.

    Raises Unavailable for an address that is none.
    """
    if not url.startswith(_SCHEMES):
        raise Unavailable("MASKSTREAM_REDIS_URL begins with redis://, rediss:// or unix://, as in redis://HOST:6379/0")
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=_TURN_S,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        retry=_retry(),
        # READONLY: it was the primary; a new connection finds the one that is now.
        retry_on_error=[RedisConnectionError, RedisTimeoutError, ReadOnlyError],
        health_check_interval=30,
    )
    return Redis.from_pool(pool)


def _retry() -> Any:
    from redis.asyncio.retry import Retry as AsyncRetry

    return AsyncRetry(ExponentialBackoff(cap=0.5, base=0.05), 3)


class WritesRefused(RedisError):
    """Redis answers but takes no writes at present: its disk is full, its replicas are away."""


_REFUSALS = ("MISCONF", "NOREPLICAS", "MASTERDOWN", "BUSY")


@contextmanager
def refusals_named() -> Iterator[None]:
    """Raise WritesRefused for refusals that redis-py knows no class for."""
    try:
        yield
    except ResponseError as error:
        if any(name in str(error) for name in _REFUSALS):
            raise WritesRefused(str(error)) from error
        raise


class Scripts:
    """The Lua scripts, loaded once per client and called by name."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._scripts: Mapping[str, Any] = {name: redis.register_script(keys.script(name)) for name in _SCRIPTS}

    async def call(self, name: str, args: list[Any], *, keys: list[str] | None = None) -> Any:
        """Run a script; one trip, and two more where the server does not know it yet."""
        with refusals_named():
            return await self._scripts[name](keys=keys or [], args=args)


def text(value: Any) -> str:
    """A reply as str, whether the client decodes or not."""
    return value.decode() if isinstance(value, bytes) else str(value)


def text_map(reply: Mapping[Any, Any]) -> dict[str, str]:
    """A hash reply with str keys and values."""
    return {text(name): text(value) for name, value in reply.items()}


__all__ = ["BLOCK_MS", "Redis", "Retry", "Scripts", "connect", "text", "text_map"]
