"""The awaiting client: the same calls as `sync.Client`, for programs that run an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from service.client import forms, wire
from service.client.download import PartialFile
from service.client.errors import ConnectionLost
from service.client.forms import MaskInput, VideoInput
from service.client.live import DEFAULT_WINDOW, LiveFrame, LiveTalk, Picture, Policy
from service.client.live_aio import AsyncLiveRun
from service.client.refusals import refusals_as_errors
from service.client.retry import Patience
from service.client.sync import DEFAULT_URL
from service.client.tls import tls_context
from service.client.wire import Direction, MaskFrame, Progress, SessionInfo


class AsyncClient(AbstractAsyncContextManager["AsyncClient"]):
    """Talks to one maskstream server without blocking the event loop. Arguments as for Client."""

    def __init__(self, url: str = DEFAULT_URL, *, api_key: str | None = None, patience_s: float = 60.0) -> None:
        self._url = wire.server_url(url)
        self._headers = wire.auth_headers(api_key)
        self._patience_s = patience_s
        timeout = httpx2.Timeout(30.0, read=120.0)
        self._http = httpx2.AsyncClient(base_url=url, headers=self._headers, timeout=timeout, verify=tls_context())

    async def segment(
        self,
        video: VideoInput,
        masks: MaskInput | Sequence[MaskInput] | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> AsyncIterator[MaskFrame]:
        """Upload a video and yield every frame's masks while they are made. See Client.segment()."""
        session = await self.create_session(video, masks, **options)
        async for frame in self.stream(session.session_id, progress=progress):
            yield frame

    async def create_session(
        self, video: VideoInput, masks: MaskInput | Sequence[MaskInput] | None = None, **options: Any
    ) -> SessionInfo:
        """Upload a video with its references. See Client.create_session()."""
        fields, pictures = forms.picture_files(options)
        parts = [*await asyncio.to_thread(forms.form_files, video, masks), *pictures]
        try:
            answer = await self._request("POST", "/sessions", data=forms.form_fields(fields), files=parts)
        finally:
            forms.close_parts(parts)
        wire.log_warnings(answer.json())
        return wire.session_info(answer.json())

    async def stream(
        self, session_id: str, *, after: int = -1, progress: Callable[[Progress], None] | None = None
    ) -> AsyncIterator[MaskFrame]:
        """Yield a session's masks from `seq` after + 1 on, each once, across any number of lost connections."""
        last = after
        patience = Patience(self._url, self._patience_s)
        while True:
            try:
                async for message in self._messages(session_id, last):
                    patience.arrived()
                    if isinstance(message, MaskFrame):
                        last = message.seq
                        yield message
                    elif isinstance(message, Progress) and progress is not None:
                        progress(message)
                    elif isinstance(message, wire.End):
                        message.raise_unless_completed()
                        return
            except (OSError, WebSocketException) as error:
                await asyncio.sleep(patience.pause_after(error))

    async def live(
        self,
        frames: AsyncIterable[LiveFrame | Picture] | Iterable[LiveFrame | Picture],
        masks: MaskInput | Sequence[MaskInput] | None = None,
        *,
        policy: Policy = "all",
        window: int = DEFAULT_WINDOW,
        quality: int | None = 92,
        **options: Any,
    ) -> AsyncGenerator[MaskFrame]:
        """Send frames as they come and yield their masks while more are sent. See Client.live()."""
        talk = LiveTalk(masks, policy=policy, window=window, quality=quality, options=options)
        async with contextlib.aclosing(
            AsyncLiveRun(self._url, self._headers, talk, frames, self._patience_s).run()
        ) as run:
            async for mask in run:
                yield mask

    async def session(self, session_id: str) -> SessionInfo:
        """State, progress and facts of one session."""
        return wire.session_info((await self._request("GET", f"/sessions/{session_id}")).json())

    async def sessions(self, *, limit: int = 50) -> list[SessionInfo]:
        """Your newest sessions, at most `limit`, newest first."""
        pages = wire.Pages(limit)
        while (query := pages.query()) is not None:
            pages.take((await self._request("GET", "/sessions", params=query)).json())
        return pages.sessions

    async def cancel(self, session_id: str) -> SessionInfo:
        """Stop a session at its next step; the masks made so far stay."""
        return wire.session_info((await self._request("POST", f"/sessions/{session_id}/cancel")).json())

    async def delete(self, session_id: str) -> None:
        """Delete a session and its files."""
        await self._request("DELETE", f"/sessions/{session_id}")

    async def download(
        self, session_id: str, target: str | Path, *, format: str = "png", partial: bool = False
    ) -> Path:
        """Save the result as a file (`png` makes a zip of indexed PNGs); goes on after a lost connection."""
        query = {"format": format, "partial": "true" if partial else "false"}
        url, patience = f"/sessions/{session_id}/masks", Patience(self._url, self._patience_s)
        with PartialFile(target, patience) as file:
            while True:
                try:
                    async with self._http.stream("GET", url, params=query, headers=file.headers()) as answer:
                        if answer.is_error:
                            raise wire.problem_of(answer.status_code, await answer.aread())
                        file.begin(answer.status_code, answer.headers)
                        async for chunk in answer.aiter_bytes():
                            file.write(chunk)
                    return file.finish()
                except httpx2.TransportError as error:
                    await asyncio.sleep(patience.pause_after(error))

    async def correct(
        self,
        session_id: str,
        frame_index: int,
        masks: MaskInput | Sequence[MaskInput] | None = None,
        *,
        direction: Direction = "forward",
        **options: Any,
    ) -> SessionInfo:
        """Correct objects, or add new ones, at a frame. See Client.correct()."""
        options, pictures = forms.picture_files(options)
        parts = [*forms.mask_files(masks), *pictures]
        fields = forms.field_parts({"frame_index": frame_index, "direction": direction, **options})
        try:
            answer = await self._request("POST", f"/sessions/{session_id}/references", files=[*parts, *fields])
        finally:
            forms.close_parts(parts)
        return wire.session_info(answer.json())

    async def engines(self) -> list[dict[str, Any]]:
        """What the server can run."""
        engines: list[dict[str, Any]] = (await self._request("GET", "/engines")).json()["engines"]
        return engines

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _messages(self, session_id: str, after: int) -> AsyncIterator[wire.Message]:
        address = wire.stream_url(self._url, session_id, after)
        with refusals_as_errors():
            async with connect(address, additional_headers=self._headers, compression=None, max_size=None) as socket:
                async for text in socket:
                    yield wire.parse_message(text)
        raise ConnectionError("the server closed the stream before its end")

    async def _request(self, method: str, path: str, **parts: Any) -> httpx2.Response:
        try:
            answer = await self._http.request(method, path, **parts)
        except httpx2.TransportError as error:
            raise ConnectionLost(f"no answer from {self._url}: {error}") from error
        if answer.is_error:
            raise wire.problem_of(answer.status_code, answer.content)
        return answer
