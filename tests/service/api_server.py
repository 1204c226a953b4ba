"""A real API server on a real port, in a thread, for tests that speak HTTP and WebSocket to it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import uvicorn
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from service.api.app import create_app
from service.api.serving import listen, uvicorn_config
from service.settings import Settings


class ApiServer:
    """The address of a running API, and short ways to talk to it."""

    def __init__(self, settings: Settings, port: int) -> None:
        self.settings = settings
        self.port = port
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30.0)

    def upload(self, video: bytes | Path, masks: list[bytes] | None = None, **fields: Any) -> httpx2.Response:
        """POST /sessions with the engine `fake`."""
        data = video.read_bytes() if isinstance(video, Path) else video
        files: list[Any] = [("video", ("clip.mp4", data, "video/mp4"))]
        files += [("mask", ("m.png", mask, "image/png")) for mask in (masks or [])]
        headers = fields.pop("headers", {})
        return self.http.post("/sessions", files=files, data={"engine": "fake", **fields}, headers=headers)

    def socket(
        self, session_id: str, query: str = "", **options: Any
    ) -> contextlib.AbstractContextManager[ClientConnection]:
        """An open stream."""
        url = f"ws://127.0.0.1:{self.port}/sessions/{session_id}/stream{query}"
        return connect(url, compression=None, **options)

    def stored_files(self) -> list[str]:
        """Every file of every session, with folders that hold none."""
        root = self.settings.data_dir / "sessions"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@contextmanager
def running_api(settings: Settings, ping_s: float | None = None) -> Iterator[ApiServer]:
    """Start the API, give its address, stop it as SIGTERM would. ping_s: pause between pings, and patience for each."""
    config = uvicorn_config(create_app(settings), settings)
    if ping_s is not None:
        config.ws_ping_interval = config.ws_ping_timeout = ping_s
    server = uvicorn.Server(config)
    listening = listen(settings)
    port = listening.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([listening],), name="api", daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    if not server.started:
        raise RuntimeError("the API did not start")
    api = ApiServer(settings, port)
    try:
        yield api
    finally:
        api.http.close()
        server.should_exit = True
        thread.join(20)
        listening.close()


@contextmanager
def running_worker(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process with these settings, stopped by SIGTERM."""
    command = [sys.executable, "-m", "service.worker"]
    worker = subprocess.Popen(command, env={**os.environ, **settings.environment()})
    try:
        yield worker
    finally:
        worker.terminate()
        worker.wait(30)


def mask_png(object_ids: tuple[int, ...] = (1,), size: tuple[int, int] = (48, 80), mode: str = "L") -> bytes:
    """A mask with a column per object."""
    label_map = np.zeros(size, np.uint8)
    for position, object_id in enumerate(object_ids):
        label_map[size[0] // 4 : size[0] // 2, 4 + position * 6 : 8 + position * 6] = object_id
    out = io.BytesIO()
    Image.fromarray(label_map).convert(mode).save(out, format="PNG")
    return out.getvalue()


def receive_all(socket: ClientConnection) -> list[dict[str, Any]]:
    """Every text message until the server closes."""
    return [json.loads(message) for message in socket if isinstance(message, str)]
