"""A file that libraries write to and a generator empties: what they make is streamed, not collected."""

from __future__ import annotations

import io


class Drain(io.RawIOBase):
    """Can only be written to, and emptied by take()."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: object, /) -> int:
        """Keep a copy of the bytes until take()."""
        chunk = bytes(data)  # type: ignore[call-overload]
        self._chunks.append(chunk)
        self._written += len(chunk)
        return len(chunk)

    def tell(self) -> int:
        """Bytes written so far, those taken included."""
        return self._written

    def take(self) -> bytes:
        """What was written since the last call."""
        taken = b"".join(self._chunks)
        self._chunks.clear()
        return taken
