"""How long a lost connection is tried again, and how often."""

from __future__ import annotations

import time

from service.client.errors import ConnectionLost

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0


class Patience:
    """Counts the time without a connection; pauses grow from try to try until something arrives."""

    def __init__(self, url: str, limit_s: float) -> None:
        self._url = url
        self._limit_s = limit_s
        self._lost_at_s: float | None = None
        self._pause_s = FIRST_PAUSE_S

    def arrived(self) -> None:
        """Something came: start over."""
        self._lost_at_s = None
        self._pause_s = FIRST_PAUSE_S

    def pause_after(self, error: Exception) -> float:
        """Seconds to wait before the next try. Raises ConnectionLost when the limit is over."""
        now_s = time.monotonic()
        self._lost_at_s = now_s if self._lost_at_s is None else self._lost_at_s
        if now_s - self._lost_at_s > self._limit_s:
            raise ConnectionLost(f"no connection to {self._url} for {self._limit_s:.0f} s: {error}") from error
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return pause_s
