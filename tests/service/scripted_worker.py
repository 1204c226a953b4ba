"""A worker without an engine: claims one session and publishes masks when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import numpy as np

from service.archive import write_archive
from service.local_storage import LocalStorage
from service.mask_stream import MaskStream
from service.masks import encode_objects
from service.queue import JobQueue
from service.redis_client import connect
from service.redis_keys import Keys
from service.schemas import Claim, MaskEvent, MaskObject, Rle, SessionState
from service.settings import Settings

T = TypeVar("T")


def mask_event(seq: int, size: tuple[int, int] = (48, 80)) -> MaskEvent:
    """A mask whose one object moves with seq."""
    label_map = np.zeros(size, np.uint8)
    label_map[8:20, seq % 40 : seq % 40 + 10] = 1
    objects = tuple(
        MaskObject(
            object_id=item["object_id"], score=0.9, bbox=tuple(item["bbox"]), rle=Rle.model_validate(item["rle"])
        )
        for item in encode_objects(label_map, (1,))
    )
    return MaskEvent(seq=seq, frame_index=seq, pts_s=seq / 25, size=size, objects=objects)


class ScriptedWorker:
    """Every call opens its own connection, because every call has its own event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._storage = LocalStorage(settings.data_dir)
        self._claim: Claim | None = None
        self._published = self._archived = 0

    @property
    def claim_(self) -> Claim:
        """What claim() got."""
        if self._claim is None:
            raise RuntimeError("nothing is claimed")
        return self._claim

    def claim(self) -> str:
        """Take the oldest waiting session of `fake`."""

        async def act(queue: JobQueue, masks: MaskStream) -> Claim | None:
            return await queue.claim("scripted", 1 << 40, ["fake"])

        self._claim = self._run(act)
        return self.claim_.session_id

    def publish(self, first: int, last: int) -> None:
        """Publish masks first..last."""

        async def act(queue: JobQueue, masks: MaskStream) -> None:
            await masks.publish(self.claim_, [mask_event(seq) for seq in range(first, last + 1)])

        self._run(act)
        self._published = last + 1

    def archive(self, first: int, last: int) -> None:
        """Write masks first..last to the archive and commit them, which trims the stream."""

        async def act(queue: JobQueue, masks: MaskStream) -> None:
            claim = self.claim_
            events = [mask_event(seq) for seq in range(first, last + 1)]
            await queue.commit_archive(claim, write_archive(self._storage, claim.session_id, claim.epoch, events))

        self._run(act)
        self._archived = last + 1

    def finish(self, state: SessionState = SessionState.COMPLETED, expires_at: float = 1e12) -> None:
        """End the session, all of its masks archived."""
        if self._archived < self._published:
            self.archive(self._archived, self._published - 1)

        async def act(queue: JobQueue, masks: MaskStream) -> None:
            await queue.finish(self.claim_, state, expires_at=expires_at)

        self._run(act)

    def _run(self, act: Callable[[JobQueue, MaskStream], Awaitable[T]]) -> T:
        async def connected() -> T:
            redis, keys = connect(self._settings.redis_url or ""), Keys(self._settings.redis_prefix)
            try:
                return await act(JobQueue(redis, keys), MaskStream(redis, keys, self._storage))
            finally:
                await redis.aclose()

        return asyncio.run(connected())
