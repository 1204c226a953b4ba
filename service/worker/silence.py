"""How long a child that is looked at but never waited for has said nothing, and how often that was too long."""

from __future__ import annotations

import time
from collections import Counter


class Silence:
    """Of one decoder. A child in an endless wait uses no processor time, so that no limit of the kernel ends it."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._too_long: Counter[int] = Counter()

    def end(self) -> None:
        """The child has said something."""
        self._since = None

    def times_too_long(self, limit_s: float, frame_index: int) -> int:
        """0 while the silence lasts less than `limit_s`; then how often it did not at this frame, and counts anew."""
        now = time.monotonic()
        self._since = self._since or now
        if now - self._since <= limit_s:
            return 0
        self._since = None
        self._too_long[frame_index] += 1
        return self._too_long[frame_index]
