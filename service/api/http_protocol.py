"""How bytes become requests: uvicorn's h11 protocol, whose headers are bounded, with a time limit for them.

Without one, anybody could hold connections open by sending nothing, or headers that never end. Knows no routes.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class PunctualProtocol(H11Protocol):
    """Closes a connection whose next request has begun, or was to begin, and is not there in time.

    Between requests, uvicorn's own keep-alive limit holds.
    """

    headers_s: ClassVar[float] = 30.0
    _due: asyncio.TimerHandle | None = None
    _upgraded = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is due."""
        super().connection_made(transport)
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        """Part of a request, or of its body."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._expect_request()
        else:
            self._expect_nothing()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """The socket's own limits hold from here on."""
        self._upgraded = True
        self._expect_nothing()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._expect_nothing()
        super().connection_lost(exc)

    def _expect_request(self) -> None:
        if self._due is None and not self._upgraded:
            self._due = self.loop.call_later(self.headers_s, self.transport.close)

    def _expect_nothing(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


def protocol(headers_s: float) -> type[PunctualProtocol]:
    """The protocol with its time limit; uvicorn makes one for each connection."""
    return type("Protocol", (PunctualProtocol,), {"headers_s": headers_s})
