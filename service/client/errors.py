"""What the client raises.

ClientError
├── ApiError           the server refused: carries status, title, detail and the problem document
├── ConnectionLost     the server could not be reached, or not again, within the patience given
├── SessionFailed      the session ended as failed; the masks made until then were delivered
└── SessionCancelled   somebody cancelled the session
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """Root of everything that the client raises on purpose."""


class ApiError(ClientError):
    """The server refused a request. `problem` is its RFC 9457 document."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        self.problem = dict(problem)
        self.status = int(problem.get("status", 0))
        self.title = str(problem.get("title", "the server refused the request"))
        self.detail = str(problem.get("detail", ""))
        super().__init__(f"{self.status} {self.title}: {self.detail}" if self.detail else f"{self.status} {self.title}")


class ConnectionLost(ClientError):
    """The server could not be reached within the patience given."""


class SessionFailed(ClientError):
    """The session ended as failed. The masks made until then were delivered and stay on the server."""


class SessionCancelled(ClientError):
    """The session was cancelled. The masks made until then were delivered and stay on the server."""
