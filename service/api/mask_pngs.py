"""Mask PNGs for sockets and routes: encoded once per (session, seq), however many readers want one."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from typing import Any

import anyio.to_thread

from service.masks import compose, encode_png
from service.metrics import PNG_ENCODED
from service.settings import MIB

_CACHE_BYTES = 64 * MIB


class MaskPngs:
    """Newest PNGs, bounded in bytes."""

    def __init__(self, cache_bytes: int = _CACHE_BYTES) -> None:
        self._limit = cache_bytes
        self._held = 0
        self._done: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._under_way: dict[tuple[str, int], asyncio.Task[bytes]] = {}

    async def png(self, session_id: str, seq: int, payload: str) -> bytes:
        """The indexed PNG of one mask message."""
        key = (session_id, seq)
        if key in self._done:
            self._done.move_to_end(key)
            return self._done[key]
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(self._encode(key, payload))
        return await asyncio.shield(task)

    async def _encode(self, key: tuple[str, int], payload: str) -> bytes:
        try:
            png = await anyio.to_thread.run_sync(png_of, payload)
        finally:
            del self._under_way[key]
        PNG_ENCODED.inc()
        self._done[key] = png
        self._held += len(png)
        while self._held > self._limit:
            self._held -= len(self._done.popitem(last=False)[1])
        return png


def png_of(payload: str | bytes) -> bytes:
    """The indexed PNG of one mask message's JSON."""
    message = json.loads(payload)
    return encode_png(compose(message["objects"], tuple(message["size"])))


def without_rle(payload: str) -> str:
    """The mask message that goes before a binary PNG."""
    message: dict[str, Any] = json.loads(payload)
    for item in message["objects"]:
        item.pop("rle", None)
    return json.dumps(message, separators=(",", ":"))
