"""One file over HTTP: resumed where it broke off, checked for length and hash, never half there under its own name."""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import httpx2

from service.errors import InvalidInput, StorageFull, Unavailable

ATTEMPTS = 5
_SPARE_BYTES = 64 << 20
"""Free disk space that a download leaves alone."""

_log = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""(bytes so far, bytes in all or None)."""


@dataclass(frozen=True)
class Wanted:
    """A file to fetch. sha256 and size_bytes: what it must be, None where that is not known.

    pause_s: before a broken transfer is taken up again; doubled each time.
    """

    url: str
    target: Path
    sha256: str | None = None
    size_bytes: int | None = None
    pause_s: float = 1.0


def download(wanted: Wanted, progress: Progress | None = None) -> str:
    """Fetch a file and return its sha256. What a broken transfer left is kept beside the target and resumed.

    Raises Unavailable when the server cannot be reached or answers with an error or a web page, StorageFull when the
    disk is, InvalidInput when the file is not the one wanted (it is deleted).
    """
    wanted.target.parent.mkdir(parents=True, exist_ok=True)
    part = wanted.target.with_name(wanted.target.name + ".part")
    pause_s = wanted.pause_s
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _transfer(wanted, part, progress)
            break
        except httpx2.TransportError as error:
            if attempt == ATTEMPTS:
                raise Unavailable(
                    f"{wanted.url}: {error or type(error).__name__} after {ATTEMPTS} attempts; "
                    f"{_size(part)} bytes are kept, run the command again to go on from there"
                ) from error
            _log.warning("%s broke off at %d bytes: %s; resuming", wanted.url, _size(part), error)
            time.sleep(pause_s)
            pause_s *= 2
    digest = file_sha256(part)
    check(part, digest, wanted.sha256, wanted.size_bytes)
    part.replace(wanted.target)
    return digest


def check(path: Path, digest: str, sha256: str | None, size_bytes: int | None) -> None:
    """Delete a file that is not what it should be and raise InvalidInput."""
    size = _size(path)
    if size_bytes is not None and size != size_bytes:
        path.unlink()
        raise InvalidInput(f"{path.name} has {size} bytes instead of {size_bytes}; it was deleted, fetch it again")
    if sha256 is not None and digest != sha256:
        path.unlink()
        raise InvalidInput(
            f"{path.name} has sha256 {digest} instead of {sha256}; it was deleted. If its authors replaced the file, "
            "fetch it with --accept-new"
        )


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _transfer(wanted: Wanted, part: Path, progress: Progress | None) -> None:
    have = _size(part)
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
    with httpx2.stream("GET", wanted.url, headers=headers, follow_redirects=True, timeout=30.0) as answer:
        if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # everything is there already, or the hash will tell
        _refuse(answer, wanted)
        resumed = answer.status_code == HTTPStatus.PARTIAL_CONTENT
        have = have if resumed else 0
        total = _total(answer, have)
        _require_room(part, total, have)
        _write(answer, part, have, total, progress)
    if total is not None and _size(part) < total:
        raise httpx2.ReadError(f"the connection closed after {_size(part)} of {total} bytes")


def _write(answer: httpx2.Response, part: Path, have: int, total: int | None, progress: Progress | None) -> None:
    try:
        with part.open("ab" if have else "wb") as file:
            for chunk in answer.iter_raw():  # as they come: a chunk size would hold bytes back that a break then loses
                file.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(have, total)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"the disk of {part.parent} is full after {have} bytes; make room and run it again"
            ) from error
        raise


def _refuse(answer: httpx2.Response, wanted: Wanted) -> None:
    if answer.status_code >= HTTPStatus.BAD_REQUEST:
        raise Unavailable(f"{wanted.url} answers {answer.status_code}; fetch it by hand and use --from FILE")
    if answer.headers.get("content-type", "").startswith("text/html"):
        raise Unavailable(
            f"{wanted.url} answers with a web page instead of a file (a quota or a confirmation); "
            "open it in a browser, save the file and use --from FILE"
        )


def _total(answer: httpx2.Response, have: int) -> int | None:
    length = answer.headers.get("content-length")
    return have + int(length) if length is not None else None


def _require_room(part: Path, total: int | None, have: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and free < total - have + _SPARE_BYTES:
        raise StorageFull(
            f"{total - have} bytes are to come, {part.parent} has {free} free; make room and run it again"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
