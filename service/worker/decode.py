"""`python -m service.worker.decode`: decode one video in a process of its own, frames to standard output.

Knows nothing of sessions, Redis or engines: av and numpy only (Pillow for images). The parent is
`service.worker.child_frames`. Standard input's first line is the request; the parent keeps it open, and its end
is ours. Every record is HEADER and then `length` bytes: OPEN (JSON), FRAME (raw RGB), END (nothing), ERROR (JSON).
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import struct
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from service.errors import DecodeFailed, MaskstreamError
from service.media.child import allow_cpu, confine, exit_with_parent

HEADER = struct.Struct("<4sidI")
"""Kind, frame_index, pts_s, payload length in bytes."""
OPEN, FRAME, END, ERROR = b"OPEN", b"FRAM", b"END ", b"ERR "
REPEATED = b"RPT "
"""A FRAME that could not be decoded: the pixels are those of the one before it."""
_REVERSE_BYTES = 128 * 1024**2
"""Frames held at once while reading backwards."""

Record = tuple[bytes, int, float, Any]


def records(request: dict[str, Any]) -> Iterator[Record]:
    """All records that answer a request, an ERROR or an END last."""
    from service.media import MediaLimits, open_media
    from service.media.reader import scaled_size

    index = request["start_frame"]
    try:
        reader = open_media(Path(request["path"]), MediaLimits(**request["limits"]))
        size = scaled_size(reader.size, request["max_side"])
        yield OPEN, 0, 0.0, json.dumps({"size": reader.size, "scaled": size}).encode()
        backwards = request["step"] < 0
        for frame in _backwards(reader, index, size) if backwards else reader.frames(index, size):
            index = frame.frame_index
            if index >= request["limits"]["max_frames"]:
                raise DecodeFailed(f"the video has more than {index} frames", frame_index=index)
            yield FRAME, index, frame.pts_s, frame.rgb
            allow_cpu(request["cpu_s"])
            index += request["step"]
        yield END, index, 0.0, b""
    except FileNotFoundError:
        detail = "the video's file is gone: its session has been deleted"
        yield ERROR, index, 0.0, json.dumps({"slug": "decode-failed", "detail": detail}).encode()
    except MaskstreamError as error:
        failed = getattr(error, "frame_index", index)
        yield ERROR, failed, 0.0, json.dumps({"slug": error.slug, "detail": error.detail}).encode()
    except MemoryError:
        detail = f"decoding frame {index} takes more memory than allowed"
        yield ERROR, index, 0.0, json.dumps({"slug": "decode-failed", "detail": detail}).encode()


def _backwards(reader: Any, start: int, size: tuple[int, int]) -> Iterator[Any]:
    """Frames start, start - 1, …, 0: decoded forwards in pieces that fit _REVERSE_BYTES."""
    piece = max(1, _REVERSE_BYTES // (size[0] * size[1] * 3))
    while start >= 0:
        first = max(0, start - piece + 1)
        yield from reversed(list(itertools.islice(reader.frames(first, size), start - first + 1)))
        start = first - 1


def _write_all(waiting: queue.Queue[Record | None], done: threading.Event) -> None:
    """The writing thread: the pipe's reader sets the pace, the queue's bound is the read-ahead."""
    out = sys.stdout.fileno()
    try:
        while (record := waiting.get()) is not None:
            kind, index, pts_s, payload = record
            view = memoryview(payload).cast("B")
            header = HEADER.pack(kind, index, pts_s, len(view))
            for part in (memoryview(header), view):
                while part:
                    part = part[os.write(out, part) :]
    except BrokenPipeError:
        os._exit(0)  # the parent has gone
    done.set()


def _end_process(failure: threading.ExceptHookArgs) -> None:
    """Without its writer the process would wait for ever; the parent starts another."""
    sys.excepthook(failure.exc_type, failure.exc_value or failure.exc_type(), failure.exc_traceback)
    os._exit(1)


def main() -> None:
    """Read the request, confine the process, decode until the end or until the parent has gone."""
    request = json.loads(sys.stdin.readline())
    exit_with_parent()
    confine(request["memory_bytes"])
    allow_cpu(request["seek_cpu_s"])
    write_out(records(request), request["readahead"])


def write_out(found: Iterable[Record], readahead: int) -> None:
    """Write records to standard output while up to `readahead` further ones are made."""
    waiting: queue.Queue[Record | None] = queue.Queue(maxsize=readahead)
    done = threading.Event()
    threading.excepthook = _end_process
    threading.Thread(target=_write_all, args=(waiting, done), name="writer", daemon=True).start()
    for record in found:
        waiting.put(record)
    waiting.put(None)
    done.wait()


if __name__ == "__main__":
    main()
