"""How many uploads one process takes at once, and how many may be one key's. Knows nothing of what they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import TooManyRequests
from service.schemas import LOCAL_OWNER


class UploadSlots:
    """A slow upload holds its slot for as long as it likes; no key can hold more than half of them.

    Used on the event loop alone.
    """

    def __init__(self, most: int, retry_after_s: int) -> None:
        self._most = most
        self._retry_after_s = retry_after_s
        self._held: Counter[str] = Counter()

    @contextmanager
    def hold(self, owner: str) -> Iterator[None]:
        """A slot for as long as the block lasts. Raises TooManyRequests."""
        share = self._most if owner == LOCAL_OWNER else max(1, self._most // 2)
        if self._held.total() >= self._most or self._held[owner] >= share:
            raise TooManyRequests("too many uploads at once; try again", retry_after_s=self._retry_after_s)
        self._held[owner] += 1
        try:
            yield
        finally:
            self._held[owner] -= 1
            if not self._held[owner]:
                del self._held[owner]
