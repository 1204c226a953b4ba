"""How bytes become WebSocket messages: uvicorn's protocol, whose pings know when an answer cannot have been heard.

While the server reads nothing, because a live session's input is full, the client's pongs stand behind its frames.
"""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class PatientProtocol(WebSocketsSansIOProtocol):
    """Takes a missing pong for the end of the client only where it has been listening for one."""

    def keepalive_timeout(self) -> None:
        """Nothing was heard in answer to the last ping."""
        if self.read_paused:
            self.pong_timer = self.pending_ping_payload = None
            self.schedule_ping()
        else:
            super().keepalive_timeout()
