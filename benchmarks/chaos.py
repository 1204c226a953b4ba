"""Kill workers at random between first and last frame; every frame must come out once, and bit-equal.

    python -m benchmarks.chaos --kills 45                                       # engine fake
    python -m benchmarks.chaos --kills 5 --engine deaot-t --frames 24 --long-side 240

Real Redis, real worker processes, kill -9. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from service import redis_keys
from service.demo_clip import render
from service.embedded import EmbeddedRedis
from service.local_storage import LocalStorage
from service.masks import encode_png
from service.plan import first_plan
from service.schemas import MaskEvent, Reference, SessionRecord, SessionSpec, SessionState, VideoInfo
from service.session_file import write_session_file
from service.sessions import Limits
from service.settings import Settings
from service.startup import Services, build_services
from service.video_file import VideoWriter

_LIMITS = Limits(queue_length=1_000, sessions_per_owner=1_000)


def write_clip(path: Path, frames: int, height: int, width: int) -> None:
    """The rendered clip, encoded once for all sessions: the encoder's bytes differ from one time to the next."""
    with VideoWriter(path, 24) as video:
        for frame in render(frames, height, width):
            video.write(frame.image)


async def submit(services: Services, options: argparse.Namespace, clip: Path) -> str:
    """One session on the clip, its reference from the ground truth."""
    session_id = redis_keys.new_session_id()
    storage = services.storage
    storage.create(session_id)
    height, width = size_of(options)
    first = next(render(1, height, width))
    ids = tuple(int(i) for i in sorted(set(first.label_map.flat)) if i)
    storage.write(session_id, "input/mask.png", encode_png(first.label_map))
    storage.write(session_id, "input/video.mp4", clip.read_bytes())
    record = SessionRecord(
        id=session_id,
        spec=SessionSpec(engine=options.engine, video=VideoInfo(name="input/video.mp4", height=height, width=width)),
        references=(Reference(kind="mask", object_ids=ids, file="input/mask.png"),),
        plan=first_plan(0, None),
        created_at=time.time(),
    )
    write_session_file(storage, record)
    await services.sessions.create(record, _LIMITS)
    return session_id


def size_of(options: argparse.Namespace) -> tuple[int, int]:
    """(height, width) of the clip, both even."""
    return options.long_side * 9 // 16 // 2 * 2, options.long_side


def start_worker(settings: Settings) -> subprocess.Popen[bytes]:
    """A worker process with these settings."""
    command = [sys.executable, "-m", "service.worker"]
    return subprocess.Popen(command, env={**os.environ, **settings.environment()}, stdout=subprocess.DEVNULL)


async def record_of(services: Services, session_id: str) -> SessionRecord:
    """The session, which must exist."""
    record = await services.sessions.get(session_id)
    if record is None:
        raise RuntimeError(f"session {session_id} is gone")
    return record


async def masks_of(services: Services, session_id: str, frames: int) -> list[str]:
    """All masks as JSON. Raises when a frame is missing, repeated or out of order."""
    events = [event async for event in services.masks.follow(session_id) if isinstance(event, MaskEvent)]
    if [event.seq for event in events] != list(range(frames)):
        raise RuntimeError(f"session {session_id} delivered {[event.seq for event in events]}")
    return [event.model_dump_json() for event in events]


async def finished(services: Services, session_id: str) -> SessionRecord:
    """Wait for the end."""
    while not (record := await record_of(services, session_id)).state.final:
        await asyncio.sleep(0.05)
    if record.state is not SessionState.COMPLETED:
        raise RuntimeError(f"session {session_id} is {record.state}: {record.error}")
    return record


async def torment(services: Services, settings: Settings, session_id: str, kills: int, frames: int) -> int:
    """Kill the worker up to `kills` times while the session is under way; how often it was."""
    done, worker = 0, start_worker(settings)
    try:
        while True:
            before = (await record_of(services, session_id)).next_seq
            target = before + random.randint(1, max(1, (frames - before) // 3))
            while (record := await record_of(services, session_id)).next_seq < target and not record.state.final:
                await asyncio.sleep(0.002)
            if record.state.final or done == kills:
                break
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
            at = await record_of(services, session_id)
            done += int(0 < at.next_seq < frames and not at.state.final)
            print(f"  kill {done}: epoch {at.epoch}, {at.next_seq}/{frames} masks", flush=True)
            worker = start_worker(settings)
        await finished(services, session_id)
    finally:
        worker.terminate()
        worker.wait()
    return done


def orphans(storage: LocalStorage, session_id: str, named: set[str]) -> list[str]:
    """Files of a session that nothing names."""
    expected = named | {"session.json", "input/video.mp4", "input/mask.png"}
    return [file.name for file in storage.list(session_id) if file.name not in expected]


async def run(options: argparse.Namespace, settings: Settings, storage: LocalStorage) -> dict[str, object]:
    """Sessions one after the other until there were enough kills."""
    services = build_services(settings, storage)
    clip = storage.root / "clip.mp4"
    write_clip(clip, options.frames, *size_of(options))
    undisturbed = await submit(services, options, clip)
    worker = start_worker(settings)
    await finished(services, undisturbed)
    worker.terminate()
    worker.wait()
    expected = await masks_of(services, undisturbed, options.frames)
    kills = sessions = left = 0
    began = time.monotonic()
    while kills < options.kills:
        session_id = await submit(services, options, clip)
        kills += await torment(services, settings, session_id, min(options.each, options.kills - kills), options.frames)
        sessions += 1
        masks = await masks_of(services, session_id, options.frames)
        differing = [seq for seq in range(options.frames) if masks[seq] != expected[seq]]
        if differing:
            first = differing[0]
            raise RuntimeError(f"masks {differing} differ; {first}: {masks[first]} is not {expected[first]}")
        named = {archive.name for archive in await services.sessions.archives(session_id)}
        left += len(orphans(storage, session_id, named))
        print(f"session {sessions}: {kills} kills so far, masks equal", flush=True)
    await services.redis.aclose()
    return {
        "engine": options.engine,
        "frames": options.frames,
        "kills": kills,
        "sessions": sessions,
        "masks_equal": True,
        "orphans": left,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="fake")
    parser.add_argument("--kills", type=int, default=45)
    parser.add_argument("--each", type=int, default=5, help="kills of one session")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--long-side", type=int, default=128)
    parser.add_argument("--step-s", type=float, default=0.02, help="step time of the engine fake")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos") as folder, EmbeddedRedis(Path(folder) / "redis") as redis:
        data = Path(folder) / "data"
        settings = Settings(
            redis_url=redis.url,
            data_dir=data,
            engines=(options.engine,),
            device="cpu",
            poll_interval_s=0.05,
            sweep_interval_s=0.1,
            snapshot_interval_s=0.2,
            snapshot_share=0.5,
            fake_step_s=options.step_s,
            lease_step_s=60.0,  # a death shows by the file lock; a busy machine must not look like one
        )
        print(json.dumps(asyncio.run(run(options, settings, LocalStorage(data)))))


if __name__ == "__main__":
    main()
