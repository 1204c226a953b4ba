"""The certificates that clients trust."""

from __future__ import annotations

import ssl
from functools import cache

import httpx2


@cache
def tls_context() -> ssl.SSLContext:
    """The usual ones, for all clients of the process: reading them takes longer than many requests."""
    return httpx2.create_ssl_context()
