"""Looks at uploads in child processes, a few at a time. The processes are kept; each upload gets a fork of one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.errors import UnreadableVideo, UnsupportedMedia
from service.media.reader import VideoInfo, media_limits
from service.settings import MIB, Settings


class _Died(Exception):
    """The process ended without an answer."""


class Prober:
    """Runs `python -m service.media.probe`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.max_concurrent_probes)
        self._idle: list[Process] = []

    async def probe(self, path: Path) -> VideoInfo:
        """What the upload is. Raises UnreadableVideo or UnsupportedMedia with the reason."""
        async with self._slots:
            answer = await self._ask(path)
        if "info" in answer:
            return VideoInfo(**answer["info"])
        refusal = UnsupportedMedia if answer["error"]["slug"] == UnsupportedMedia.slug else UnreadableVideo
        raise refusal(answer["error"]["detail"])

    async def close(self) -> None:
        """End the processes."""
        while self._idle:
            await _end(self._idle.pop())

    async def _ask(self, path: Path) -> dict[str, Any]:
        """One request to an idle process, or to a new one; an idle one may have died while nobody looked."""
        while (child := self._take()) is not None:
            with contextlib.suppress(_Died):
                return await self._ask_one(child, path)
        try:
            return await self._ask_one(await self._start(), path)
        except _Died as error:
            raise UnreadableVideo("the video cannot be read: the process that looked at it was stopped") from error

    async def _ask_one(self, child: Process, path: Path) -> dict[str, Any]:
        """One that does not answer is ended with its fork, never reused. Raises _Died."""
        answered = False
        try:
            answer = await asyncio.wait_for(self._talk(child, path), self._settings.probe_timeout_s)
            answered = True
            return answer
        except TimeoutError as error:
            limit = self._settings.probe_timeout_s
            raise UnreadableVideo(f"looking through the video took longer than {limit:.0f} s") from error
        except ConnectionError as error:
            raise _Died from error
        finally:
            if answered:
                self._idle.append(child)
            else:
                await _end(child)

    def _take(self) -> Process | None:
        while self._idle:
            child = self._idle.pop()
            if child.returncode is None:
                return child
        return None

    async def _start(self) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service.media.probe", stdin=PIPE, stdout=PIPE, start_new_session=True
        )

    async def _talk(self, child: Process, path: Path) -> dict[str, Any]:
        request = {
            "path": str(path),
            "limits": asdict(media_limits(self._settings)),
            "memory_bytes": self._settings.decode_memory_mib * MIB,
            "cpu_s": self._settings.probe_timeout_s,
        }
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("the probe process has no pipes")
        child.stdin.write(json.dumps(request).encode() + b"\n")
        await child.stdin.drain()
        answer = await child.stdout.readline()
        if not answer:
            raise _Died
        document: dict[str, Any] = json.loads(answer)
        return document


async def _end(child: Process) -> None:
    """Kill the process with its fork, and collect it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    if child.stdin is not None:
        child.stdin.close()
    await child.wait()
