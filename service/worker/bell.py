"""What wakes the step loop early: news in Redis, a video that has arrived, a place that is free again, a signal.

A missed ring costs time only: the loop looks of its own accord at every poll interval.
"""

from __future__ import annotations

import contextlib
import os

from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.worker.records import wait_for_any
from service.worker.retry import pause

_LISTEN_S = 5.0
"""One look at the connection; below the socket's time-out."""


class Bell:
    """Rung from any thread and from signal handlers, which may take no lock; heard by the step loop alone."""

    def __init__(self) -> None:
        self.pipe, self._rope = os.pipe()
        """`pipe` has bytes to read once it was rung."""
        os.set_blocking(self.pipe, False)
        os.set_blocking(self._rope, False)

    def __del__(self) -> None:
        # Not sooner: a thread that rings late must not write to whatever has the number by then.
        os.close(self.pipe)
        os.close(self._rope)

    def ring(self) -> None:
        """Wake the step loop, or keep it from the sleep that it is about to begin."""
        with contextlib.suppress(BlockingIOError):  # rung so often already
            os.write(self._rope, b"!")

    def was_rung(self) -> bool:
        """Whether it was rung since the last call."""
        try:
            return bool(os.read(self.pipe, 4096))
        except BlockingIOError:
            return False

    def wait(self, timeout_s: float) -> None:
        """Until it is rung, or the time is up."""
        wait_for_any([self.pipe], timeout_s)

    async def ring_at_news(self, redis: Redis, channel: str) -> None:
        """For ever: ring at each message, and whenever messages may have been missed."""
        attempt = 0
        while True:
            with contextlib.suppress(RedisError, OSError):
                async with redis.pubsub() as line:
                    await line.subscribe(channel)
                    while True:
                        if await line.get_message(timeout=_LISTEN_S) is not None:  # at first: that it is subscribed
                            attempt = 0
                            self.ring()
            attempt += 1
            self.ring()
            await pause(attempt)
