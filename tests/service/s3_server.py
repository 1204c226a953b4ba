"""An S3 server in a process of its own, for tests of what is kept in a bucket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

ACCESS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1"}
"""The server takes any key until demand_known_keys()."""


class S3Server:
    """The address of a running server."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def make_bucket(self, name: str) -> None:
        httpx2.put(f"{self.url}/{name}").raise_for_status()

    def keys(self, bucket: str) -> list[str]:
        """Names of all objects."""
        listing = httpx2.get(f"{self.url}/{bucket}?list-type=2").raise_for_status().text
        return [part.split("</Key>")[0] for part in listing.split("<Key>")[1:]]

    @contextmanager
    def demand_known_keys(self) -> Iterator[None]:
        """Refuse every request: nobody has a key that this server made."""
        httpx2.post(f"{self.url}/moto-api/reset-auth", content=b"0").raise_for_status()
        try:
            yield
        finally:
            httpx2.post(f"{self.url}/moto-api/reset-auth", content=b"inf").raise_for_status()


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """Start a server on a free port; end it with the block."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={**os.environ, **ACCESS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, process)
        yield S3Server(port)
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the S3 server did not start")
