"""The blocking client. One connection pool; a stream that reconnects where it broke off."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from service.client import forms, wire
from service.client.download import PartialFile
from service.client.errors import ConnectionLost
from service.client.forms import MaskInput, VideoInput
from service.client.live import DEFAULT_WINDOW, LiveFrame, LiveTalk, Picture, Policy
from service.client.live_sync import LiveRun
from service.client.refusals import refusals_as_errors
from service.client.retry import Patience
from service.client.tls import tls_context
from service.client.wire import Direction, MaskFrame, Progress, SessionInfo

DEFAULT_URL = "http://127.0.0.1:8000"


class Client(AbstractContextManager["Client"]):
    """Talks to one maskstream server.

    url: address of the server. api_key: needed where the server has keys. patience_s: how long a lost connection is
    tried again before ConnectionLost is raised.
    """

    def __init__(self, url: str = DEFAULT_URL, *, api_key: str | None = None, patience_s: float = 60.0) -> None:
        self._url = wire.server_url(url)
        self._headers = wire.auth_headers(api_key)
        self._patience_s = patience_s
        timeout = httpx2.Timeout(30.0, read=120.0)
        self._http = httpx2.Client(base_url=url, headers=self._headers, timeout=timeout, verify=tls_context())

    def segment(
        self,
        video: VideoInput,
        masks: MaskInput | Sequence[MaskInput] | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> Iterator[MaskFrame]:
        """Upload a video and yield every frame's masks while they are made.

        video: a file, a folder of numbered images, encoded bytes, or [H, W, 3] uint8 RGB frames. masks: an indexed PNG,
        a [H, W] uint8 label map, or one binary mask per object. options: fields of create_session().
        Raises ApiError, ConnectionLost, SessionFailed, SessionCancelled.
        """
        session = self.create_session(video, masks, **options)
        yield from self.stream(session.session_id, progress=progress)

    def create_session(
        self, video: VideoInput, masks: MaskInput | Sequence[MaskInput] | None = None, **options: Any
    ) -> SessionInfo:
        """Upload a video with its references; returns at once, the work goes on on the server.

        options: the fields of an upload as the API names them; exemplar and exemplar_mask as masks are given, one or
        several; files: by name, what `references` refers to.
        """
        fields, pictures = forms.picture_files(options)
        parts = [*forms.form_files(video, masks), *pictures]
        try:
            answer = self._request("POST", "/sessions", data=forms.form_fields(fields), files=parts)
        finally:
            forms.close_parts(parts)
        wire.log_warnings(answer.json())
        return wire.session_info(answer.json())

    def stream(
        self, session_id: str, *, after: int = -1, progress: Callable[[Progress], None] | None = None
    ) -> Iterator[MaskFrame]:
        """Yield a session's masks from `seq` after + 1 on, each once, across any number of lost connections."""
        last = after
        patience = Patience(self._url, self._patience_s)
        while True:
            try:
                for message in self._messages(session_id, last):
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
                time.sleep(patience.pause_after(error))

    def live(
        self,
        frames: Iterable[LiveFrame | Picture],
        masks: MaskInput | Sequence[MaskInput] | None = None,
        *,
        policy: Policy = "all",
        window: int = DEFAULT_WINDOW,
        quality: int | None = 92,
        **options: Any,
    ) -> Iterator[MaskFrame]:
        """Send frames as they come and yield their masks while more are sent: a camera, or anything without an end.

        frames: [H, W, 3] uint8 RGB arrays, encoded JPEGs or PNGs, or LiveFrame with a time or new references; taken
        in a thread of their own. masks and options: what you know of the first frame (box, point, text, …), engine,
        memory, max_side, keep_s. policy: `all` makes a mask of every frame, `latest` drops what waits when newer ones
        come. window: frames under way at once. quality: of the JPEGs that arrays become; None sends PNG, exact.
        Each mask has its `image`. A lost connection or a dying worker is made good; stopping early ends the session.
        Raises ApiError, ConnectionLost, SessionFailed, SessionCancelled, and what `frames` raises.
        """
        talk = LiveTalk(masks, policy=policy, window=window, quality=quality, options=options)
        yield from LiveRun(self._url, self._headers, talk, frames, self._patience_s).run()

    def session(self, session_id: str) -> SessionInfo:
        """State, progress and facts of one session."""
        return wire.session_info(self._request("GET", f"/sessions/{session_id}").json())

    def sessions(self, *, limit: int = 50) -> list[SessionInfo]:
        """Your newest sessions, at most `limit`, newest first."""
        pages = wire.Pages(limit)
        while (query := pages.query()) is not None:
            pages.take(self._request("GET", "/sessions", params=query).json())
        return pages.sessions

    def cancel(self, session_id: str) -> SessionInfo:
        """Stop a session at its next step; the masks made so far stay."""
        return wire.session_info(self._request("POST", f"/sessions/{session_id}/cancel").json())

    def delete(self, session_id: str) -> None:
        """Delete a session and its files."""
        self._request("DELETE", f"/sessions/{session_id}")

    def download(self, session_id: str, target: str | Path, *, format: str = "png", partial: bool = False) -> Path:
        """Save the result as a file (`png` makes a zip of indexed PNGs); goes on after a lost connection."""
        query = {"format": format, "partial": "true" if partial else "false"}
        url, patience = f"/sessions/{session_id}/masks", Patience(self._url, self._patience_s)
        with PartialFile(target, patience) as file:
            while True:
                try:
                    with self._http.stream("GET", url, params=query, headers=file.headers()) as answer:
                        if answer.is_error:
                            raise wire.problem_of(answer.status_code, answer.read())
                        file.begin(answer.status_code, answer.headers)
                        for chunk in answer.iter_bytes():
                            file.write(chunk)
                    return file.finish()
                except httpx2.TransportError as error:
                    time.sleep(patience.pause_after(error))

    def correct(
        self,
        session_id: str,
        frame_index: int,
        masks: MaskInput | Sequence[MaskInput] | None = None,
        *,
        direction: Direction = "forward",
        **options: Any,
    ) -> SessionInfo:
        """Correct objects, or add new ones, at a frame; the frames after it are made again and come over stream().

        masks: as for segment(). direction: which frames are made again: those after it (forward), before it (backward)
        or both, up to the neighbouring reference. options: text, box, point, exemplar, exemplar_mask, references,
        files. Raises ApiError.
        """
        options, pictures = forms.picture_files(options)
        parts = [*forms.mask_files(masks), *pictures]
        fields = forms.field_parts({"frame_index": frame_index, "direction": direction, **options})
        try:
            answer = self._request("POST", f"/sessions/{session_id}/references", files=[*parts, *fields])
        finally:
            forms.close_parts(parts)
        return wire.session_info(answer.json())

    def engines(self) -> list[dict[str, Any]]:
        """What the server can run."""
        engines: list[dict[str, Any]] = self._request("GET", "/engines").json()["engines"]
        return engines

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _messages(self, session_id: str, after: int) -> Iterator[wire.Message]:
        address = wire.stream_url(self._url, session_id, after)
        with (
            refusals_as_errors(),
            connect(address, additional_headers=self._headers, compression=None, max_size=None) as socket,
        ):
            for text in socket:
                yield wire.parse_message(text)
        raise ConnectionError("the server closed the stream before its end")

    def _request(self, method: str, path: str, **parts: Any) -> httpx2.Response:
        try:
            answer = self._http.request(method, path, **parts)
        except httpx2.TransportError as error:
            raise ConnectionLost(f"no answer from {self._url}: {error}") from error
        if answer.is_error:
            raise wire.problem_of(answer.status_code, answer.content)
        return answer
