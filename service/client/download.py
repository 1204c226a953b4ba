"""A file on its way from the server: written beside its target, continued where a lost connection broke it off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from service.client.errors import ClientError
from service.client.retry import Patience

_PARTIAL_CONTENT = 206


class PartialFile:
    """Appears under its name only when it is whole. Knows headers and bytes, no connection."""

    def __init__(self, target: str | Path, patience: Patience) -> None:
        self._target = Path(target)
        _refuse_folder(self._target)
        self._part = self._target.with_name(f".{self._target.name}.part")
        self._out = self._part.open("wb")
        self._patience = patience
        self._etag: str | None = None
        self._have = self._furthest = 0

    def headers(self) -> dict[str, str]:
        """What to ask with: the rest of the same file, or all of it when it has changed or is not known."""
        if self._etag is None or not self._have:
            return {}
        return {"Range": f"bytes={self._have}-", "If-Range": self._etag}

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Take the head of an answer: it goes on, or starts again."""
        if status != _PARTIAL_CONTENT:
            self._have = 0
            self._out.seek(0)
            self._out.truncate()
        self._etag = headers.get("etag")

    def write(self, chunk: bytes) -> None:
        """Append bytes. Only getting further than before counts as progress."""
        self._out.write(chunk)
        self._have += len(chunk)
        if self._have > self._furthest:
            self._furthest = self._have
            self._patience.arrived()

    def finish(self) -> Path:
        """All has arrived: give the file its name."""
        self._out.close()
        return self._part.replace(self._target)

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.close()
        self._part.unlink(missing_ok=True)


def _refuse_folder(target: Path) -> None:
    """Raise ClientError for a target that cannot become a file."""
    if target.is_dir():
        raise ClientError(f"{target} is a folder; name the file to write")
    if not target.parent.is_dir():
        raise ClientError(f"there is no folder {target.parent} to write {target.name} into; make it first")
