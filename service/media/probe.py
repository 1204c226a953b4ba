"""`python -m service.media.probe`: look at one upload in a process of its own, print one line of JSON.

Standard input's first line is the request {"path", "limits", "memory_bytes", "cpu_s"}; the parent keeps it open.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.errors import MaskstreamError
from service.media.child import allow_cpu, confine, exit_with_parent


def probe(path: Path, limits: dict[str, Any]) -> dict[str, Any]:
    """{"info": …} of a good upload, {"error": {"slug", "detail"}} of a bad one."""
    from service.media import MediaLimits, open_media

    try:
        return {"info": asdict(open_media(path, MediaLimits(**limits)).describe())}
    except MaskstreamError as error:
        return {"error": {"slug": error.slug, "detail": error.detail}}
    except MemoryError:
        return {"error": {"slug": "unreadable-video", "detail": "reading the video takes more memory than allowed"}}


def main() -> None:
    """Read the request, confine the process, answer."""
    request = json.loads(sys.stdin.readline())
    exit_with_parent()
    confine(request["memory_bytes"])
    allow_cpu(request["cpu_s"])
    sys.stdout.write(json.dumps(probe(Path(request["path"]), request["limits"])) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
