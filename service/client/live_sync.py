"""The blocking live client: a thread sends frames while the caller reads masks."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from service.client import wire
from service.client.live import END_MESSAGE, LiveFrame, LiveTalk, Picture
from service.client.refusals import refusals_as_errors
from service.client.retry import Patience
from service.client.wire import MaskFrame, live_url

Frames = Iterable[LiveFrame | Picture]
_ROOM_CHECK_S = 0.2


class LiveRun:
    """One live session: frames from an iterable, masks by iterating run()."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        talk: LiveTalk,
        frames: Iterable[LiveFrame | Picture],
        patience_s: float,
    ) -> None:
        self._url = live_url(url)
        self._headers = headers
        self._talk = talk
        self._frames = frames
        self._patience = Patience(url, patience_s)
        self._socket: ClientConnection | None = None
        self._stopped = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

    def run(self) -> Iterator[MaskFrame]:
        """Every mask, across lost connections. Ends the session when the caller stops early."""
        threading.Thread(target=self._pump, name="live-frames", daemon=True).start()
        try:
            while True:
                try:
                    yield from self._one_connection()
                    return
                except (OSError, WebSocketException) as error:
                    if self._failure is not None:
                        raise self._failure from None
                    time.sleep(self._patience.pause_after(error))
        finally:
            self._stop()

    def _one_connection(self) -> Iterator[MaskFrame]:
        with (
            refusals_as_errors(),
            connect(self._url, additional_headers=self._headers, compression=None, max_size=None) as socket,
        ):
            socket.send(self._talk.opening())
            ready = socket.recv()
            self._connected(socket, ready)
            try:
                for text in socket:
                    message = wire.parse_message(text)
                    self._patience.arrived()
                    if isinstance(message, MaskFrame):
                        mask, acknowledgement = self._talk.received(message)
                        with contextlib.suppress(OSError, WebSocketException):  # lost or at its end: the mask is here
                            socket.send(acknowledgement)
                        self._talk.acknowledged(mask)
                        self._wake()
                        yield mask
                    elif isinstance(message, wire.End):
                        message.raise_unless_completed()
                        return
            except GeneratorExit:
                with contextlib.suppress(OSError, WebSocketException):
                    socket.send(END_MESSAGE)
                raise
            finally:
                self._socket = None
        raise ConnectionError("the server closed the connection before the end")

    def _connected(self, socket: ClientConnection, ready: str | bytes) -> None:
        """Send again what the server lacks, before the pump goes on."""
        with self._changed:
            for message in self._talk.resumed(ready):
                socket.send(message)
            self._socket = socket
            self._changed.notify_all()
            if self._failure is not None:
                raise self._failure

    def _pump(self) -> None:
        """The sending thread."""
        try:
            for frame in self._frames:
                encoded = self._talk.encoded(frame)
                if not self._wait(self._talk.has_room):
                    return
                self._send(encoded.messages, before=lambda encoded=encoded: self._talk.keep(encoded))  # type: ignore[misc]
            if self._wait(lambda: True):
                self._send((END_MESSAGE,), before=self._talk.end)
        except BaseException as error:  # the caller's own iterator: its error is raised where the masks are read
            self._fail(error)

    def _wait(self, condition: Callable[[], bool]) -> bool:
        """Until there is a connection and the condition holds; False when the caller has stopped."""
        with self._changed:
            while not self._stopped and not (self._socket is not None and condition()):
                self._changed.wait(_ROOM_CHECK_S)
        return not self._stopped

    def _send(self, messages: Sequence[str | bytes], *, before: Callable[[], None]) -> None:
        """What the present connection does not take, the next one sends again: `before` notes it for that."""
        with self._changed:
            before()
            socket = self._socket
        if socket is not None:
            with contextlib.suppress(OSError, WebSocketException):
                for message in messages:
                    socket.send(message)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        """End the session, and the connection with it, so that who reads the masks finds the error."""
        with self._changed:
            self._failure = error
            socket = self._socket
        if socket is not None:
            with contextlib.suppress(OSError, WebSocketException):
                socket.send(END_MESSAGE)
            socket.close()

    def _stop(self) -> None:
        self._stopped = True
        self._wake()
