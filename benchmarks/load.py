"""Several sessions at once on one worker: throughput, delay, and what a frame costs the service in processor time.

    python -m benchmarks.load --sessions 1 4 16 --frames 150

Engine `fake` at a 20 ms step (which sleeps), 480p, real processes, an embedded Redis, clients in this process. Two runs
per number of sessions: uploads, read as streams, give throughput and processor milliseconds per frame; live sessions
give the delay from picture sent (so before it is decoded) to mask received, with two frames under way in each.

Processor time is a slope: it is read when a fifth and when nine tenths of all masks have come, so that no start-up is
in it. `engine` is what `fake` itself takes for a frame, measured in this process, and is not in `worker`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.service_run import ServiceRun, running_service
from engines import registry
from engines.types import MemoryPolicy, Size
from service.client import AsyncClient, LiveFrame
from service.client.live import encode
from service.demo_clip import DemoFrame, render
from service.video_file import VideoWriter

_PROCESSES = ("api", "worker", "decode", "redis")
_CLIP_FRAMES = 8
_HEADER = (
    "| sessions | masks | masks/s | api ms | worker ms | decode ms | redis ms | service's own ms | engine ms | "
    "p50 ms | p99 ms |\n|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
)


def encoded_clip(frames: list[DemoFrame], count: int) -> bytes:
    """H.264 of `count` frames."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with VideoWriter(path, 25) as video:
            for index in range(count):
                video.write(frames[index % len(frames)].image)
        return path.read_bytes()


class Meter:
    """Processor milliseconds per mask between two masks of a run."""

    def __init__(self, run: ServiceRun, expected: int) -> None:
        self.masks = 0
        self._run = run
        self._marks = (expected // 5, expected * 9 // 10)
        self._read: list[dict[str, float]] = []

    def count(self) -> None:
        """One mask has come."""
        self.masks += 1
        if self.masks in self._marks:
            self._read.append(self._run.cpu_s())

    def ms_per_mask(self) -> dict[str, float]:
        """By process, once all masks have come."""
        (first, last), (before, after) = self._marks, self._read
        return {name: (after[name] - before[name]) * 1e3 / (last - first) for name in before}


async def streamed(run: ServiceRun, clip: bytes, mask: DemoFrame, sessions: int, meter: Meter) -> None:
    """Upload the clip so many times, read all streams to the end."""

    async def one(client: AsyncClient) -> None:
        async for _ in client.segment(clip, mask.label_map, engine="fake"):
            meter.count()

    async with AsyncClient(run.url) as client:
        await asyncio.gather(*(one(client) for _ in range(sessions)))


def engine_ms(frames: list[DemoFrame], count: int = 60) -> float:
    """Processor milliseconds that `fake` itself takes for a frame, without the pause that stands for its step."""
    engine = registry.create("fake", weights="auto", device="cpu")
    first = frames[0]
    track = engine.open(Size.of(first.image), MemoryPolicy())
    engine.memorize(track, first.image, first.label_map, object_ids=[int(i) for i in np.unique(first.label_map) if i])
    began = time.process_time()
    for index in range(count):
        engine.propagate([track], [frames[index % len(frames)].image])
    return (time.process_time() - began) * 1e3 / count


async def delays_s(run: ServiceRun, pictures: list[bytes], mask: DemoFrame, sessions: int, count: int) -> list[float]:
    """Seconds from picture sent to mask received, all sessions together; each one's first ten are warming up."""

    def camera() -> Iterator[LiveFrame]:
        for index in range(count):
            yield LiveFrame(pictures[index % len(pictures)], pts_s=time.monotonic())

    async def one(client: AsyncClient) -> list[float]:
        masks = client.live(camera(), mask.label_map, engine="fake", window=2)
        return [time.monotonic() - float(each.pts_s or 0.0) async for each in masks][10:]

    async with AsyncClient(run.url) as client:
        found = await asyncio.gather(*(one(client) for _ in range(sessions)))
    return [delay for each in found for delay in each]


def measure(run: ServiceRun, options: argparse.Namespace, frames: list[DemoFrame], sessions: int) -> str:
    """One row of the table."""
    clip = encoded_clip(frames, options.frames)
    meter = Meter(run, options.frames * sessions)
    began = time.monotonic()
    asyncio.run(streamed(run, clip, frames[0], sessions, meter))
    wall_s = time.monotonic() - began
    engine, cpu = engine_ms(frames), meter.ms_per_mask()
    cpu["worker"] -= engine
    pictures = [encode(frame.image, 90) for frame in frames]
    found = sorted(asyncio.run(delays_s(run, pictures, frames[0], sessions, options.frames)))
    p50, p99 = statistics.median(found) * 1e3, found[int(len(found) * 0.99)] * 1e3
    costs = (*(cpu[name] for name in _PROCESSES), sum(cpu.values()), engine)
    cells = [f"{sessions}", f"{meter.masks}", f"{meter.masks / wall_s:.1f}", *(f"{cost:.2f}" for cost in costs)]
    return "| " + " | ".join([*cells, f"{p50:.0f}", f"{p99:.0f}"]) + " |\n"


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--frames", type=int, default=150, help="of each session")
    parser.add_argument("--step-ms", type=float, default=20.0)
    options = parser.parse_args()
    sys.stdout.write(_HEADER)
    frames = list(render(_CLIP_FRAMES, 480, 854))
    with running_service(engines=("fake",), fake_step_s=options.step_ms / 1e3, quantum_s=3600.0) as run:
        for sessions in options.sessions:
            sys.stdout.write(measure(run, options, frames, sessions))
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
