"""`python -m service.media.probe`: looks at uploads, each in a forked process of its own that is confined first.

A line of JSON on standard input is a request {"path", "limits", "memory_bytes", "cpu_s"}, a line on standard output
its answer. This process only imports and forks, so that an upload does not wait for imports; it opens no upload itself.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.errors import MaskstreamError, UnreadableVideo
from service.media import MediaLimits, open_media
from service.media.child import allow_cpu, confine


def probe(path: Path, limits: dict[str, Any]) -> dict[str, Any]:
    """{"info": …} of a good upload, {"error": {"slug", "detail"}} of a bad one."""
    try:
        return {"info": asdict(open_media(path, MediaLimits(**limits)).describe())}
    except MaskstreamError as error:
        return {"error": {"slug": error.slug, "detail": error.detail}}
    except MemoryError:
        return _unreadable("reading the video takes more memory than allowed")


def _unreadable(detail: str) -> dict[str, Any]:
    return {"error": {"slug": UnreadableVideo.slug, "detail": detail}}


def _answer(document: dict[str, Any]) -> None:
    os.write(sys.stdout.fileno(), json.dumps(document).encode() + b"\n")


def _in_child(request: dict[str, Any]) -> None:
    """The forked process: confine, probe, answer, end without the parent's clean-up."""
    code = 1
    try:
        confine(request["memory_bytes"])
        allow_cpu(request["cpu_s"])
        _answer(probe(Path(request["path"]), request["limits"]))
        code = 0
    finally:
        os._exit(code)


def main() -> None:
    """Serve requests one by one until standard input ends, which it does when the parent dies."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _in_child(json.loads(line))
        _, status = os.waitpid(child, 0)
        if status != 0:
            _answer(_unreadable("the process that looked at the video was stopped: it took too much time or memory"))


if __name__ == "__main__":
    main()
