"""Several sessions at once on one worker: throughput, delay, and what a frame costs the service in processor time.

    python -m benchmarks.load --sessions 1 4 16 --frames 150

Engine `fake` at a 20 ms step (which sleeps, so that all processor time is the service's own), 480p, real processes, an
embedded Redis, clients in this process. Two runs per number of sessions: uploads, read as streams, give throughput and
processor milliseconds per frame; live sessions give the delay from picture sent (so before it is decoded) to mask
received, with two frames under way in each.
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

from benchmarks.service_run import ServiceRun, running_service
from service.client import AsyncClient, LiveFrame
from service.client.live import encode
from service.demo_clip import DemoFrame, render
from service.video_file import VideoWriter

_PROCESSES = ("api", "worker", "redis")
_CLIP_FRAMES = 8


def encoded_clip(frames: list[DemoFrame], count: int) -> bytes:
    """H.264 of `count` frames."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with VideoWriter(path, 25) as video:
            for index in range(count):
                video.write(frames[index % len(frames)].image)
        return path.read_bytes()


async def streamed(run: ServiceRun, clip: bytes, mask: DemoFrame, sessions: int) -> int:
    """Upload the clip so many times, read all streams to the end; masks received."""

    async def one(client: AsyncClient) -> int:
        return len([frame.seq async for frame in client.segment(clip, mask.label_map, engine="fake")])

    async with AsyncClient(run.url) as client:
        return sum(await asyncio.gather(*(one(client) for _ in range(sessions))))


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
    before = {name: run.cpu_s(name) for name in _PROCESSES}
    began = time.monotonic()
    masks = asyncio.run(streamed(run, clip, frames[0], sessions))
    wall_s = time.monotonic() - began
    cpu = {name: (run.cpu_s(name) - before[name]) * 1e3 / masks for name in _PROCESSES}
    pictures = [encode(frame.image, 90) for frame in frames]
    found = sorted(asyncio.run(delays_s(run, pictures, frames[0], sessions, options.frames)))
    p50, p99 = statistics.median(found) * 1e3, found[int(len(found) * 0.99)] * 1e3
    cells = [f"{sessions}", f"{masks}", f"{masks / wall_s:.1f}", *(f"{cpu[name]:.2f}" for name in _PROCESSES)]
    return "| " + " | ".join([*cells, f"{sum(cpu.values()):.2f}", f"{p50:.0f}", f"{p99:.0f}"]) + " |\n"


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--frames", type=int, default=150, help="of each session")
    parser.add_argument("--step-ms", type=float, default=20.0)
    options = parser.parse_args()
    sys.stdout.write("| sessions | masks | masks/s | api ms | worker ms | redis ms | all ms | p50 ms | p99 ms |\n")
    frames = list(render(_CLIP_FRAMES, 480, 854))
    with running_service(engines=("fake",), fake_step_s=options.step_ms / 1e3, quantum_s=3600.0) as run:
        for sessions in options.sessions:
            sys.stdout.write(measure(run, options, frames, sessions))
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
