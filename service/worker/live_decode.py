"""`python -m service.worker.live_decode`: decode the pictures of one live session, frames to standard output.

Standard input's first line is the request; then every picture is HEADER and its bytes, END is the last. The input's
end without END is the parent's death. A damaged picture gives REPEATED: one bad picture ends no camera.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.errors import UnreadableVideo
from service.media.child import allow_cpu, confine
from service.media.live_pictures import decode_picture
from service.worker.decode import END, ERROR, FRAME, HEADER, OPEN, REPEATED, Record, write_out


def records(request: dict[str, Any], pictures: BinaryIO) -> Iterator[Record]:
    """A record for every picture that comes, an ERROR or an END last."""
    size, scaled = tuple(request["size"]), tuple(request["scaled"])
    yield OPEN, 0, 0.0, json.dumps({"size": size, "scaled": scaled}).encode()
    last: NDArray[np.uint8] | None = None
    while True:
        allow_cpu(request["cpu_s"])
        kind, index, pts_s, length = HEADER.unpack(_exactly(pictures, HEADER.size))
        if kind == END:
            yield END, index, 0.0, b""
            return
        try:
            last, shown = decode_picture(_exactly(pictures, length), size, scaled), FRAME
        except (UnreadableVideo, MemoryError) as error:
            if last is None:
                detail = f"frame {index} cannot be decoded: {error}"
                yield ERROR, index, 0.0, json.dumps({"slug": "decode-failed", "detail": detail}).encode()
                return
            shown = REPEATED
        yield shown, index, pts_s, np.ascontiguousarray(last)


def _exactly(source: BinaryIO, length: int) -> bytes:
    data = source.read(length)
    if len(data) < length:
        os._exit(0)  # the parent has gone
    return data


def main() -> None:
    """Read the request, confine the process, decode until END or until the parent has gone."""
    pictures = sys.stdin.buffer
    request = json.loads(pictures.readline())
    confine(request["memory_bytes"])
    write_out(records(request, pictures), request["readahead"])


if __name__ == "__main__":
    main()
