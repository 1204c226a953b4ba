"""Patience with Redis: what to do again when it is away for a moment."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from redis.exceptions import BusyLoadingError, NoScriptError, OutOfMemoryError, ReadOnlyError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.redis_client import WritesRefused

T = TypeVar("T")

RETRYABLE = (
    RedisConnectionError,
    RedisTimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    NoScriptError,
    OutOfMemoryError,
    WritesRefused,
)
"""Redis is away, starting or full, or has restarted between the loading of a script and its call; the same command may
succeed later. What is repeated must bear being sent twice."""

_BACKOFF_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_log = structlog.get_logger()


async def until_answered(action: Callable[[], Awaitable[T]]) -> T:
    """Repeat an action until Redis answers it."""
    attempt = 0
    while True:
        try:
            return await action()
        except RETRYABLE as error:
            attempt += 1
            if attempt == len(_BACKOFF_S):
                _log.warning("redis does not answer; trying on", error=str(error))
            await pause(attempt)


async def pause(attempt: int) -> None:
    """Wait before the next attempt, longer from one to the next; `attempt` of them have failed, one or more."""
    longest_s = _BACKOFF_S[min(attempt, len(_BACKOFF_S)) - 1]
    await asyncio.sleep(longest_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
