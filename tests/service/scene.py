"""A scene for service tests: small videos, sessions in a real Redis, and workers as real processes."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import anyio
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service import redis_keys
from service.local_storage import LocalStorage
from service.plan import first_plan
from service.schemas import MaskEvent, Reference, SessionRecord, SessionSpec, VideoInfo
from service.session_file import write_session_file
from service.sessions import Limits
from service.settings import Settings
from service.startup import Services, build_services, open_storage
from service.storage import INPUT
from service.video_file import VideoWriter
from service.worker.loop import Worker
from service.worker.presence import Presence

HEIGHT, WIDTH = 48, 64
_CLIPS: dict[tuple[int, int], bytes] = {}
LIMITS = Limits(queue_length=100, sessions_per_owner=100)


def make_frames(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """[count, H, W, 3] noise that drifts: every frame differs."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return np.stack([np.roll(base, shift, axis=1) for shift in range(count)])


def reference_png(object_ids: tuple[int, ...] = (1,)) -> bytes:
    """One square for each object."""
    label_map = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place, object_id in enumerate(object_ids):
        label_map[8 : 8 + 16, 4 + 18 * place : 18 + 18 * place] = object_id
    out = io.BytesIO()
    Image.fromarray(label_map).save(out, format="PNG")
    return out.getvalue()


def run_worker(settings: Settings, burst: bool, environment: dict[str, str]) -> None:
    """Body of a worker process."""
    os.environ.update(environment)
    worker = Worker(settings, open_storage(settings))
    signal.signal(signal.SIGTERM, lambda number, frame: worker.stop())
    worker.run(burst=burst)


@dataclass
class Scene:
    """One data folder and one key prefix on a shared server."""

    settings: Settings
    storage: LocalStorage
    services: Services
    workers: list[BaseProcess] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    """What worker processes see beside the variables of the process that they are forked from."""

    async def submit(
        self,
        frames: int | Path = 20,
        *,
        object_ids: tuple[int, ...] = (1,),
        at: int = 0,
        seed: int = 0,
        **spec: object,
    ) -> str:
        """Store a video with one reference and queue its session, as the API does."""
        session_id = redis_keys.new_session_id()
        self.storage.create(session_id)
        if isinstance(frames, int):
            data = self.clip(frames, seed)
        else:
            data = frames.read_bytes()
        self.storage.write(session_id, f"{INPUT}/video.mp4", data)
        self.storage.write(session_id, f"{INPUT}/mask.png", reference_png(object_ids))
        video = VideoInfo(name=f"{INPUT}/video.mp4", height=HEIGHT, width=WIDTH)
        values: dict[str, object] = {"engine": "fake", "video": video, **spec}
        end_frame = values.get("end_frame")
        record = SessionRecord(
            id=session_id,
            spec=SessionSpec.model_validate(values),
            references=(Reference(kind="mask", frame_index=at, object_ids=object_ids, file=f"{INPUT}/mask.png"),),
            plan=first_plan(int(str(values.get("start_frame", 0))), None if end_frame is None else int(str(end_frame))),
            created_at=time.time(),
        )
        write_session_file(self.storage, record)
        assert (await self.services.sessions.create(record, LIMITS)).status == "ok"
        return session_id

    def clip(self, frames: int, seed: int) -> bytes:
        """A video, encoded once for all sessions: the encoder's bytes differ from one time to the next."""
        if (frames, seed) not in _CLIPS:
            path = self.storage.root / "clip.mp4"
            self.write_video(path, frames, seed)
            _CLIPS[frames, seed] = path.read_bytes()
            path.unlink()
        return _CLIPS[frames, seed]

    def write_video(self, path: Path, count: int, seed: int = 0) -> None:
        """H.264 of `count` frames."""
        with VideoWriter(path, 25) as video:
            for frame in make_frames(count, seed):
                video.write(frame)

    def start_worker(self, *, burst: bool = False, **changes: object) -> BaseProcess:
        """A worker process, forked from one that has imported everything."""
        settings = self.settings.model_copy(update=changes)
        process = _CONTEXT.Process(target=run_worker, args=(settings, burst, self.environment))
        process.start()
        self.workers.append(process)
        return process

    def run_here(self, **changes: object) -> None:
        """A worker in this process, until nothing is left to do."""
        run_worker_here(self.settings.model_copy(update=changes))

    async def record(self, session_id: str) -> SessionRecord:
        record = await self.services.sessions.get(session_id)
        assert record is not None
        return record

    async def until(
        self, session_id: str, condition: Callable[[SessionRecord], bool], timeout_s: float = 60.0
    ) -> SessionRecord:
        """Wait for a state of the session."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            record = await self.record(session_id)
            if condition(record):
                return record
            await anyio.sleep(0.02)
        raise AssertionError(f"it did not come to pass: {await self.record(session_id)}")

    async def until_stage(self, process: BaseProcess, stage: str) -> None:
        """Wait until the only live worker has entered a stage."""
        for _ in range(500):
            if any(worker.stage == stage for worker in await self.services.sessions.workers()):
                return
            await anyio.sleep(0.01)
        raise AssertionError(f"no worker entered {stage!r}")

    async def finished(self, session_id: str) -> SessionRecord:
        return await self.until(session_id, lambda record: record.state.final)

    async def masks(self, session_id: str) -> list[MaskEvent]:
        """What a reader who follows from the start receives; notes left out."""
        found = self.services.masks.follow(session_id)
        return [event async for event in found if isinstance(event, MaskEvent)]

    async def kill(self, process: BaseProcess) -> None:
        """kill -9. Its lease has seconds to run; the lock that the kernel let go says that it is dead."""
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        await anyio.to_thread.run_sync(process.join)
        presence = Presence(self.settings.data_dir)
        for worker in await self.services.sessions.workers():
            if presence.is_gone(worker.id):
                await self.services.queue.expire_lease(worker.id)
        await self.services.queue.sweep(max_attempts=3, ttl_s=60)

    def files(self, session_id: str) -> set[str]:
        """Names of all files of a session, numbers of epochs and seqs left out."""
        return {file.name for file in self.storage.list(session_id)}

    def close(self) -> None:
        for process in self.workers:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
            process.join()


def decoders_of(pid: int | None) -> list[int]:
    """Decode children of a process."""
    found = [int(child) for each in Path(f"/proc/{pid}/task").glob("*/children") for child in each.read_text().split()]
    return [child for child in found if b"decode" in Path(f"/proc/{child}/cmdline").read_bytes()]


def run_worker_here(settings: Settings) -> None:
    """A worker in this thread, in burst mode."""
    Worker(settings, open_storage(settings)).run(burst=True)


def make_scene(redis_url: str, prefix: str, data_dir: Path) -> Scene:
    """Quick polls and frequent snapshots; leases that a busy machine does not lose by accident."""
    settings = Settings(
        redis_url=redis_url,
        redis_prefix=prefix,
        data_dir=data_dir,
        engines=("fake",),
        device="cpu",
        poll_interval_s=0.05,
        sweep_interval_s=0.1,
        lease_step_s=10.0,
        lease_warmup_s=10.0,
        lease_restore_s=30.0,
        snapshot_interval_s=0.05,
        snapshot_share=0.5,
        archive_every=8,
    )
    storage = LocalStorage(data_dir)
    return Scene(settings, storage, build_services(settings, storage))


_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.service.scene", "engines.fake"])
