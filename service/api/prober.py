"""Looks at uploads in child processes of their own, a few at a time."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.errors import UnreadableVideo, UnsupportedMedia
from service.media.reader import VideoInfo, media_limits
from service.settings import MIB, Settings


class Prober:
    """Runs `python -m service.media.probe`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.max_concurrent_probes)

    async def probe(self, path: Path) -> VideoInfo:
        """What the upload is. Raises UnreadableVideo or UnsupportedMedia with the reason."""
        async with self._slots:
            answer = await self._ask(path)
        if "info" in answer:
            return VideoInfo(**answer["info"])
        refusal = UnsupportedMedia if answer["error"]["slug"] == UnsupportedMedia.slug else UnreadableVideo
        raise refusal(answer["error"]["detail"])

    async def _ask(self, path: Path) -> dict[str, Any]:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "service.media.probe",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            return await asyncio.wait_for(self._talk(child, path), self._settings.probe_timeout_s)
        except TimeoutError as error:
            raise UnreadableVideo(
                f"looking through the video took longer than {self._settings.probe_timeout_s:.0f} s"
            ) from error
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()

    async def _talk(self, child: asyncio.subprocess.Process, path: Path) -> dict[str, Any]:
        request = {
            "path": str(path),
            "limits": asdict(media_limits(self._settings)),
            "memory_bytes": self._settings.decode_memory_mib * MIB,
            "cpu_s": self._settings.probe_timeout_s,
        }
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("the probe child has no pipes")
        child.stdin.write(json.dumps(request).encode() + b"\n")
        await child.stdin.drain()
        answer = await child.stdout.readline()
        if not answer:
            raise UnreadableVideo("the video cannot be read: the process that looked at it was stopped")
        document: dict[str, Any] = json.loads(answer)
        return document
