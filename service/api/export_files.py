"""Exports as files that stay for a while: made once, read along by everyone who asks meanwhile, then served in ranges.

A build does not depend on its readers: whoever lost the connection finds the rest. Knows formats as names only.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import anyio.to_thread
import structlog

from service.errors import Unavailable
from service.storage import EXPORTS, FileWriter, Storage, StoredFile

_CHUNK_BYTES = 128 * 1024
_BUILDS_AT_ONCE = 4
_log = structlog.get_logger("maskstream.exports")

Chunks = Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class ExportKey:
    """What an export is made of. version: changes whenever the masks do."""

    session_id: str
    format: str
    version: int
    suffix: str

    @property
    def stem(self) -> str:
        """How the names of its files begin."""
        return f"{EXPORTS}/{self.format}-{self.version}-"


def etag_of(name: str) -> str:
    """The entity tag of a file: the random part of its name, because an encoder's bytes are not the same twice."""
    return f'"{name.rsplit("-", 1)[1].split(".", 1)[0]}"'


class Build:
    """One export on its way into storage; made in a thread, followed on the event loop."""

    def __init__(self, storage: Storage, key: ExportKey, chunks: Chunks) -> None:
        self.key = key
        self.name = f"{key.stem}{secrets.token_hex(8)}.{key.suffix}"
        self._storage = storage
        self._chunks = chunks
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._writer: FileWriter | None = None
        self._size = 0
        self._over = False
        self._error: Exception | None = None
        self._stopping = False

    def make(self) -> None:
        """Write the file; called in a thread. Raises what the chunks and the storage raise."""
        writer = self._storage.writer(self.key.session_id, self.name)
        try:
            self._tell(0, writer)
            size = 0
            for data in _joined(self._chunks()):
                if self._stopping:
                    raise Unavailable("the server is stopping; ask again", retry_after_s=5)
                writer.write(data)
                size += len(data)
                self._tell(size, writer)
            writer.commit()
        finally:
            writer.abort()
        self._remove_older()

    def end(self, error: Exception | None) -> None:
        """No more will come."""
        self._over, self._error = True, error
        self._wake()

    def stop(self) -> None:
        """Give up at the next chunk."""
        self._stopping = True

    async def follow(self) -> AsyncIterator[bytes]:
        """All of the file from its start, as it is written. Raises what ended the build before its time."""
        file = await self._opened()
        try:
            position = 0
            while True:
                changed = self._changed
                if position < self._size:
                    wanted = min(_CHUNK_BYTES, self._size - position)
                    data = await anyio.to_thread.run_sync(file.read, wanted)
                    position += len(data)
                    yield data
                elif self._over:
                    self._check()
                    return
                else:
                    await changed.wait()
        finally:
            file.close()

    async def finished(self) -> StoredFile:
        """The whole file. Raises what ended the build before its time."""
        while not self._over:
            await self._changed.wait()
        self._check()
        return await anyio.to_thread.run_sync(self._storage.stat, self.key.session_id, self.name)

    async def _opened(self) -> BinaryIO:
        """The growing file."""
        while self._writer is None:
            self._check()
            await self._changed.wait()
        try:
            return await anyio.to_thread.run_sync(self._writer.written)
        except FileNotFoundError:
            await self.finished()  # it was dropped a moment ago; this says why
            raise

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _tell(self, size: int, writer: FileWriter) -> None:
        self._loop.call_soon_threadsafe(self._grown, size, writer)

    def _grown(self, size: int, writer: FileWriter) -> None:
        self._size, self._writer = size, writer
        self._wake()

    def _wake(self) -> None:
        woken, self._changed = self._changed, asyncio.Event()
        woken.set()

    def _remove_older(self) -> None:
        """Files of the same format that were made of earlier masks."""
        for file in self._storage.list(self.key.session_id):
            earlier = self._version_of(file.name)
            if earlier is not None and earlier < self.key.version:
                self._storage.remove(self.key.session_id, file.name)

    def _version_of(self, name: str) -> int | None:
        """The version of a finished file of the same format; one format's name may begin with another's."""
        match = re.fullmatch(rf"{EXPORTS}/{re.escape(self.key.format)}-(\d+)-[0-9a-f]+\.\w+", name)
        return None if match is None else int(match[1])


class ExportFiles:
    """All builds of one process: one at a time for each export, a few at a time in all."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._slots = asyncio.Semaphore(_BUILDS_AT_ONCE)
        self._builds: dict[ExportKey, tuple[Build, asyncio.Task[None]]] = {}

    async def find(self, key: ExportKey) -> StoredFile | None:
        """A finished file, made here or by another API process."""
        files = await anyio.to_thread.run_sync(self._storage.list, key.session_id)
        return next((file for file in files if file.name.startswith(key.stem)), None)

    def build(self, key: ExportKey, chunks: Chunks) -> Build:
        """The build of an export: the one under way, or a new one of these chunks."""
        if key in self._builds:
            return self._builds[key][0]
        build = Build(self._storage, key, chunks)
        self._builds[key] = build, asyncio.create_task(self._run(build), name=f"export {build.name}")
        return build

    async def close(self) -> None:
        """End all builds; their readers' connections break off."""
        for build, _ in self._builds.values():
            build.stop()
        await asyncio.gather(*(task for _, task in self._builds.values()))

    async def _run(self, build: Build) -> None:
        failed: Exception | None = None
        try:
            async with self._slots:
                await anyio.to_thread.run_sync(build.make)
        except Exception as error:  # told to every reader
            _log.warning("an export broke off", session=build.key.session_id, name=build.name, error=str(error))
            failed = error
        finally:
            del self._builds[build.key]
            build.end(failed)


def _joined(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Small chunks together: an annotation file comes in pieces of a few hundred bytes."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        if len(held) >= _CHUNK_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)
