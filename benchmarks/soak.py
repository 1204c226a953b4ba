"""One endless live session through `/live`: resident memory, Redis memory and disk must not grow.

    python -m benchmarks.soak --frames 50000                                   # engine fake
    python -m benchmarks.soak --frames 10000 --engine deaot-t --long-side 128

Real processes. Exit status 1 when anything at the end is more than 10 % (and 8 MiB) above what it was at a quarter.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import numpy as np
import redis

from benchmarks.service_run import ServiceRun, running_service
from engines.types import Frame
from service.client import Client
from service.demo_clip import render
from service.settings import MIB

_ROWS = 12
_CLIP_FRAMES = 48
_GROWTH, _SLACK_MIB = 1.10, 8.0
Row = dict[str, float]


def endless(count: int, height: int, width: int) -> Iterator[Frame]:
    """The rendered clip over and over, forwards and backwards, panned so that no frame comes twice soon."""
    clip = [frame.image for frame in render(_CLIP_FRAMES, height, width)]
    there_and_back = [*clip, *clip[-2:0:-1]]
    for index in range(count):
        shift = index // len(there_and_back) % width
        yield np.ascontiguousarray(np.roll(there_and_back[index % len(there_and_back)], shift, axis=1))


def measure(run: ServiceRun, frame: int, began: float) -> Row:
    """One row of the table, in MiB."""
    with redis.Redis.from_url(run.settings.redis_url or "") as client:
        used = float(client.info("memory")["used_memory"])
    row = {name: run.resident_bytes(name) / MIB for name in ("api", "worker", "redis")}
    cpu_ms = sum(run.cpu_s().values()) * 1e3
    row |= {"redis used": used / MIB, "disk": run.disk_bytes() / MIB}
    return {"frame": frame, **row, "cpu ms/frame": cpu_ms / max(frame, 1), "fps": frame / (time.monotonic() - began)}


def soak(options: argparse.Namespace) -> list[Row]:
    """Send all frames; a row every so many."""
    height, width = options.long_side * 9 // 16 // 2 * 2, options.long_side
    first = next(render(1, height, width))
    rows, every = [], max(1, options.frames // _ROWS)
    changes = {"live_keep_s": options.keep_s}
    with running_service(engines=(options.engine,), **changes) as run, Client(run.url) as client:
        began = time.monotonic()
        frames = endless(options.frames, height, width)
        expected = 0
        for mask in client.live(frames, first.label_map, engine=options.engine, window=32):
            if mask.frame_index != expected or mask.seq != expected:
                raise RuntimeError(f"mask {mask.seq} of frame {mask.frame_index} came in place of {expected}")
            expected += 1
            if expected % every == 0:
                rows.append(measure(run, expected, began))
                sys.stdout.write("| " + " | ".join(f"{value:,.1f}" for value in rows[-1].values()) + " |\n")
                sys.stdout.flush()
        if expected != options.frames:
            raise RuntimeError(f"{expected} masks came for {options.frames} frames")
    return rows


def grown(rows: list[Row]) -> list[str]:
    """What is larger at the end than at a quarter of the way."""
    early, late = rows[len(rows) // 4], rows[-1]
    names = ("api", "worker", "redis", "redis used", "disk")
    return [name for name in names if late[name] > early[name] * _GROWTH and late[name] > early[name] + _SLACK_MIB]


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=50_000)
    parser.add_argument("--engine", default="fake")
    parser.add_argument("--long-side", type=int, default=128)
    parser.add_argument("--keep-s", type=float, default=10.0)
    rows = soak(parser.parse_args())
    larger = grown(rows)
    sys.stdout.write(f"grown: {', '.join(larger) or 'nothing'}\n")
    return 1 if larger else 0


if __name__ == "__main__":
    sys.exit(main())
