"""The awaiting live client: a task sends frames while the caller reads masks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from service.client import wire
from service.client.live import END_MESSAGE, LiveFrame, LiveTalk, Picture
from service.client.refusals import refusals_as_errors
from service.client.retry import Patience
from service.client.wire import MaskFrame, live_url

Frames = AsyncIterable[LiveFrame | Picture] | Iterable[LiveFrame | Picture]
_NO_MORE = object()


class AsyncLiveRun:
    """One live session: frames from an iterable, masks by iterating run()."""

    def __init__(self, url: str, headers: Mapping[str, str], talk: LiveTalk, frames: Frames, patience_s: float) -> None:
        self._url = live_url(url)
        self._headers = headers
        self._talk = talk
        self._frames = frames
        self._patience = Patience(url, patience_s)
        self._socket: ClientConnection | None = None
        self._changed = asyncio.Condition()
        self._pumping: asyncio.Task[None] | None = None

    async def run(self) -> AsyncGenerator[MaskFrame]:
        """Every mask, across lost connections. Ends the session when the caller stops early."""
        self._pumping = pump = asyncio.create_task(self._pump(), name="live-frames")
        try:
            while True:
                try:
                    async with contextlib.aclosing(self._one_connection()) as masks:
                        async for mask in masks:
                            yield mask
                    return
                except (OSError, WebSocketException) as error:
                    if pump.done():
                        pump.result()
                    await asyncio.sleep(self._patience.pause_after(error))
        finally:
            pump.cancel()
            await asyncio.wait([pump])

    async def _one_connection(self) -> AsyncGenerator[MaskFrame]:
        with refusals_as_errors():
            async with connect(self._url, additional_headers=self._headers, compression=None, max_size=None) as socket:
                await socket.send(self._talk.opening())
                await self._connected(socket, await socket.recv())
                try:
                    async for text in socket:
                        message = wire.parse_message(text)
                        self._patience.arrived()
                        if isinstance(message, MaskFrame):
                            mask, acknowledgement = self._talk.received(message)
                            with contextlib.suppress(OSError, WebSocketException):  # lost or at its end: here it is
                                await socket.send(acknowledgement)
                            self._talk.acknowledged(mask)
                            await self._wake()
                            yield mask
                        elif isinstance(message, wire.End):
                            message.raise_unless_completed()
                            return
                except GeneratorExit:
                    with contextlib.suppress(OSError, WebSocketException):
                        await socket.send(END_MESSAGE)
                    raise
                finally:
                    self._socket = None
        raise ConnectionError("the server closed the connection before the end")

    async def _connected(self, socket: ClientConnection, ready: str | bytes) -> None:
        """Send again what the server lacks, before the pump goes on."""
        async with self._changed:
            for message in self._talk.resumed(ready):
                await socket.send(message)
            self._socket = socket
            self._changed.notify_all()
        if self._pumping is not None and self._pumping.done():
            self._pumping.result()

    async def _pump(self) -> None:
        """The sending task. What `frames` raises ends the connection, and is raised where the masks are read."""
        try:
            async for frame in _one_by_one(self._frames):
                encoded = await asyncio.to_thread(self._talk.encoded, frame)
                await self._send(encoded.messages, self._talk.has_room, lambda e=encoded: self._talk.keep(e))  # type: ignore[misc]
            await self._send((END_MESSAGE,), lambda: True, self._talk.end)
        except Exception:
            if (socket := self._socket) is not None:
                with contextlib.suppress(OSError, WebSocketException):
                    await socket.send(END_MESSAGE)
                await socket.close()
            raise

    async def _send(
        self, messages: Sequence[str | bytes], condition: Callable[[], bool], before: Callable[[], None]
    ) -> None:
        """What the present connection does not take, the next one sends again: `before` notes it for that."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._socket is not None and condition())
            before()
            socket = self._socket
        if socket is not None:
            with contextlib.suppress(OSError, WebSocketException):
                for message in messages:
                    await socket.send(message)

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _one_by_one(frames: Frames) -> AsyncIterator[LiveFrame | Picture]:
    """The frames; an iterable that blocks does so in a thread."""
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield frame
        return
    found = iter(frames)
    while (item := await asyncio.to_thread(next, found, _NO_MORE)) is not _NO_MORE:
        yield item  # type: ignore[misc]
