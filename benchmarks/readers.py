"""Many readers of one session at once, all connecting at the same moment: each must get every mask once, in order.

python -m benchmarks.readers --readers 1000
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from benchmarks.load import encoded_clip
from benchmarks.service_run import running_service
from service.client import AsyncClient
from service.demo_clip import render


async def read_all(url: str, session_id: str, readers: int, frames: int) -> int:
    """How many readers got exactly the masks 0..frames-1."""

    async def one(client: AsyncClient) -> bool:
        return [frame.seq async for frame in client.stream(session_id)] == list(range(frames))

    # One client: each makes its TLS context, and a thousand of those would keep the sockets waiting, not the service.
    async with AsyncClient(url) as client:
        return sum(await asyncio.gather(*(one(client) for _ in range(readers))))


async def run(url: str, options: argparse.Namespace) -> tuple[int, float]:
    """(readers with everything, seconds until the last had it)."""
    frames = list(render(8, 480, 854))
    async with AsyncClient(url) as client:
        clip = encoded_clip(frames, options.frames)
        session = await client.create_session(clip, frames[0].label_map, engine="fake")
    began = time.monotonic()
    whole = await read_all(url, session.session_id, options.readers, options.frames)
    return whole, time.monotonic() - began


def main() -> int:
    """Entry point; 1 when a reader lacks a mask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=50)
    options = parser.parse_args()
    with running_service(engines=("fake",), fake_step_s=0.05) as service:
        before = service.resident_bytes("api")
        whole, wall_s = asyncio.run(run(service.url, options))
        grown = (service.resident_bytes("api") - before) / 2**20
    sys.stdout.write(f"{whole} of {options.readers} readers got all {options.frames} masks in {wall_s:.1f} s; ")
    sys.stdout.write(f"the API grew by {grown:.0f} MiB\n")
    return 0 if whole == options.readers else 1


if __name__ == "__main__":
    sys.exit(main())
