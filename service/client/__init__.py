"""The Python client: a video and references in, label maps out, over any connection that breaks and comes back.

Needs no torch. `Client` blocks, `AsyncClient` awaits; both speak through the pure functions of `wire` and `forms`.
"""

from service.client.aio import AsyncClient
from service.client.errors import ApiError, ClientError, ConnectionLost, SessionCancelled, SessionFailed
from service.client.live import LiveFrame
from service.client.sync import Client
from service.client.wire import MaskFrame, ObjectMask, Progress, SessionInfo

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "ClientError",
    "ConnectionLost",
    "LiveFrame",
    "MaskFrame",
    "ObjectMask",
    "Progress",
    "SessionCancelled",
    "SessionFailed",
    "SessionInfo",
]
